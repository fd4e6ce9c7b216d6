"""Merges the small shards of every table of a store, and of its response cache, into larger ones."""

from __future__ import annotations

from dataclasses import dataclass

from prep.cache.answers import AnswerCache
from prep.cache.files import Files
from prep.cache.rewrite import rewrite
from prep.cache.shards import Shard, is_shard, shard_schema
from prep.cache.state import state_of
from prep.cache.store import StageStore, Store
from prep.cache.verify import cache_folders
from prep.files import TEMPORARY

# Size of a compacted shard: small enough to be held in memory while it is written.
TARGET_BYTES = 64 << 20


@dataclass
class CompactReport:
    """The result of :func:`compact` for a table, or for a folder of the cache."""

    stage: str
    shards_before: int
    shards_after: int
    bytes_before: int
    bytes_after: int
    removed: list[str]


def compact(store: Store, target_bytes: int = TARGET_BYTES) -> list[CompactReport]:
    """Rewrite small shards into few of about ``target_bytes`` and remove shards that no manifest lists.

    The rows of a table and their order do not change; takes each table's lock. Responses are only merged,
    never removed, as another store may use them. The cache can be used meanwhile.
    """
    stages = [_compact_stage(store.stage(name), target_bytes) for name in store.stages()]
    answers = [_compact_answers(name, files, target_bytes) for name, files in cache_folders(store.files)]
    return stages + [report for report in answers if report.shards_before]


def _compact_stage(stage: StageStore, target_bytes: int) -> CompactReport:
    before = _names(stage)
    with stage.writer(stage.reader().settings) as writer:
        shards = list(writer.manifest.shards.values())
        report = CompactReport(stage.name, len(shards), 0, sum(shard.bytes for shard in shards), 0, [])
        for name in stage.files.tree():
            if is_shard(name) and name not in writer.manifest.shards:
                stage.files.delete(name)
        rewrite(writer, _groups(shards, target_bytes), lambda name, table: table)
        report.shards_after = len(writer.manifest.shards)
        report.bytes_after = sum(shard.bytes for shard in writer.manifest.shards.values())
    gone = before - _names(stage) - {shard.name for shard in shards}
    report.removed = sorted(name for name in gone if name.endswith((".parquet", TEMPORARY)))
    return report


def _names(stage: StageStore) -> set[str]:
    return {*stage.files.sizes(), *state_of(stage.files).sizes()}


def _groups(shards: list[Shard], target_bytes: int) -> list[list[str]]:
    """Groups of two or more consecutive shards with at most ``target_bytes`` in total."""
    groups: list[list[str]] = [[]]
    size = 0
    for shard in shards:
        if groups[-1] and size + shard.bytes > target_bytes:
            groups.append([])
            size = 0
        groups[-1].append(shard.name)
        size += shard.bytes
    return [group for group in groups if len(group) > 1]


def _compact_answers(name: str, files: Files, target_bytes: int) -> CompactReport:
    """Merge one folder of the cache: ``cache/<stage>/<fingerprint>`` of the store."""
    sizes = _shard_sizes(files)
    report = CompactReport(name, len(sizes), len(sizes), sum(sizes.values()), sum(sizes.values()), [])
    schema = next(filter(None, (shard_schema(files, shard) for shard in sorted(sizes))), None)
    if len(sizes) > 1 and schema is not None:
        cache, stage, fingerprint = files.address.rsplit("/", 2)
        AnswerCache(cache, stage, fingerprint, schema).merge(target_bytes)
        sizes = _shard_sizes(files)
        report.shards_after, report.bytes_after = len(sizes), sum(sizes.values())
    return report


def _shard_sizes(files: Files) -> dict[str, int]:
    return {name: size for name, size in files.sizes().items() if is_shard(name)}

"""Looking after a store: its status, the repair of what ``verify`` finds, and fewer, larger shards."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from prep.cache.lock import WriterLock, holder
from prep.cache.manifest import MANIFEST, Manifest, fold, ledger_sequences, load_manifest
from prep.cache.schema import STAGES
from prep.cache.shards import Shard, ShardMeta, describe, is_shard
from prep.cache.store import StageStore, Store
from prep.cache.verify import RowCheck, cache_folders, verify_answers, verify_stage
from prep.cache.writer import StageWriter
from prep.errors import PrepError

# A compacted shard: small enough to be held in memory while it is made.
TARGET_BYTES = 64 << 20


@dataclass
class StageStatus:
    """What there is of a stage: ``holder`` is who writes it now, ``runs`` the last runs' figures."""

    stage: str
    rows: int
    shards: int
    bytes: int
    statuses: dict[str, int]
    settings: dict[str, Any]
    fingerprint: str
    created: str
    versions: dict[str, str]
    inputs: dict[str, str]
    finished: list[dict[str, Any]]
    runs: list[dict[str, Any]]
    holder: dict[str, Any] | None


@dataclass
class CacheStatus:
    """One folder of engine answers."""

    name: str
    shards: int
    bytes: int


@dataclass
class StoreStatus:
    """A store at a glance."""

    uri: str
    stages: list[StageStatus]
    caches: list[CacheStatus]


@dataclass
class RepairReport:
    """What :func:`repair` did to a stage. ``lost_rows`` are to be made again: ``commands`` made them."""

    stage: str
    lost_rows: int = 0
    rebuilt_manifest: bool = False
    actions: list[str] = field(default_factory=list)
    commands: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class CompactReport:
    """What :func:`compact` did to a stage."""

    stage: str
    shards_before: int
    shards_after: int
    bytes_before: int
    bytes_after: int
    removed: list[str]


def status(store: Store) -> StoreStatus:
    """Look at a store without reading more than its manifests and one small column."""
    stages = [_stage_status(store.stage(name)) for name in STAGES]
    caches = []
    for name, files in cache_folders(store.files):
        sizes = [size for file, size in files.sizes().items() if is_shard(file)]
        caches.append(CacheStatus(name, len(sizes), sum(sizes)))
    return StoreStatus(store.uri, [stage for stage in stages if stage is not None], caches)


def _stage_status(stage: StageStore) -> StageStatus | None:
    reader = stage.reader()
    manifest = reader.manifest
    if manifest is None:
        return None
    statuses: Counter[str] = Counter()
    if "status" in stage.schema.names:
        for batch in reader.batches(columns=["status"]):
            statuses.update({e["values"]: e["counts"] for e in batch.column(0).value_counts().to_pylist()})
    return StageStatus(
        stage=stage.name,
        rows=manifest.rows,
        shards=len(manifest.shards),
        bytes=sum(shard.bytes for shard in manifest.shards.values()),
        statuses=dict(statuses),
        settings=manifest.settings,
        fingerprint=manifest.fingerprint,
        created=manifest.created,
        versions=manifest.versions,
        inputs=manifest.inputs,
        finished=list(manifest.finished.values()),
        runs=manifest.runs,
        holder=holder(stage.files) if WriterLock(stage.files).is_held() else None,
    )


def repair(store: Store, checks: Mapping[str, RowCheck] | None = None) -> list[RepairReport]:
    """Put right what :func:`prep.cache.verify.verify` finds, and say which commands make the lost rows again.

    Damaged shards are dropped, doubled and undecodable rows cut out, whole shards that were not listed
    adopted, a lost manifest rebuilt from what the shards say of themselves, damaged answers removed. No other
    row changes. Takes each stage's lock.
    """
    reports = []
    for name in STAGES:
        report = _repair_stage(store.stage(name), (checks or {}).get(name))
        if report.actions:
            reports.append(report)
    for name, files in cache_folders(store.files):
        bad = [problem.file for problem in verify_answers(files, name).problems]
        for file in bad:
            files.delete(file)
        if bad:
            reports.append(RepairReport(name, actions=[f"removed {file}" for file in bad]))
    return reports


def _repair_stage(stage: StageStore, check: RowCheck | None) -> RepairReport:
    report = RepairReport(stage.name)
    found = verify_stage(stage, check).problems
    if not found:
        return report
    report.actions = [str(problem) for problem in found]
    with _locked(stage):
        manifest = _readable_manifest(stage, report)
        listed = manifest.rows
        for problem in found:
            if problem.kind in ("missing", "altered") and problem.file in manifest.shards:
                report.lost_rows += manifest.shards.pop(problem.file).rows
            if problem.kind == "extra" and not is_shard(problem.file):
                stage.files.delete(problem.file)
            if problem.kind == "lost":
                report.lost_rows += max(int(entry["rows"]) for entry in manifest.finished.values()) - listed
        manifest.finished = {} if report.lost_rows else manifest.finished
        fold(stage.files, manifest)
    with stage.writer(manifest.settings) as writer:  # adopts or removes what is unlisted
        lost = _cut_rows(writer, check)
        report.lost_rows += lost
        if report.lost_rows:
            writer.manifest.finished.clear()
            report.commands = _commands(writer.manifest)
    return report


def _cut_rows(writer: StageWriter, check: RowCheck | None) -> int:
    """Rewrite the shards that hold doubled or undecodable rows without them; how many rows are lost."""
    lost = 0
    cut: dict[str, set[int]] = {}
    for problem in verify_stage(writer.stage, check).problems:
        if problem.kind in ("doubled", "wrong"):
            cut.setdefault(problem.file, set()).update(problem.rows)
            lost += len(problem.rows) if problem.kind == "wrong" else 0

    def keep(name: str, table: pa.Table) -> pa.Table:
        return table.filter(pa.array([row not in cut[name] for row in range(table.num_rows)]))

    writer.rewrite([[name] for name in cut], keep)
    return lost


@contextlib.contextmanager
def _locked(stage: StageStore) -> Iterator[None]:
    lock = WriterLock(stage.files)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _readable_manifest(stage: StageStore, report: RepairReport) -> Manifest:
    """The stage's manifest, or one rebuilt from the shards: those of the generation with the most rows."""
    with contextlib.suppress(PrepError):
        manifest = load_manifest(stage.files)
        if manifest is not None:
            return manifest
    report.rebuilt_manifest = True
    last = max(ledger_sequences(stage.files.sizes()), default=0)
    with contextlib.suppress(PrepError, ValueError):
        # Only the ledger is damaged: the shards it listed will be adopted.
        text = stage.files.read(MANIFEST)
        return replace(Manifest.from_json(json.loads(text), stage.files.where(MANIFEST)), folded=last)
    rows: Counter[str] = Counter()
    metas: dict[str, ShardMeta] = {}
    for name in sorted(filter(is_shard, stage.files.sizes())):
        described = describe(stage.files, name)
        if described is not None and described[1].stage == stage.name:
            shard, meta = described
            rows[meta.generation] += shard.rows
            metas[meta.generation] = meta
    if not rows:
        raise PrepError(
            f"{stage.files.uri} has no manifest and no whole shard to rebuild it from.",
            "Remove the folder and run the stage again.",
        )
    meta = metas[rows.most_common(1)[0][0]]
    return Manifest(stage.name, dict(meta.settings), generation=meta.generation, folded=last)


def _commands(manifest: Manifest) -> list[dict[str, Any]]:
    """The different arguments of the stage's runs, in their order."""
    commands: list[dict[str, Any]] = []
    for run in manifest.runs:
        arguments = run.get("arguments")
        if arguments and arguments not in commands:
            commands.append(arguments)
    return commands


def compact(store: Store, target_bytes: int = TARGET_BYTES) -> list[CompactReport]:
    """Rewrite every stage's small shards into few of about ``target_bytes`` and remove what no manifest
    names.

    No row changes and none moves before an earlier one. Takes each stage's lock.
    """
    return [_compact_stage(store.stage(name), target_bytes) for name in store.stages()]


def _compact_stage(stage: StageStore, target_bytes: int) -> CompactReport:
    before = set(stage.files.sizes())
    with stage.writer(stage.reader().settings) as writer:
        shards = list(writer.manifest.shards.values())
        report = CompactReport(stage.name, len(shards), 0, sum(shard.bytes for shard in shards), 0, [])
        for name in stage.files.tree():
            if name.endswith(".parquet") and name not in writer.manifest.shards:
                stage.files.delete(name)
        writer.rewrite(_groups(shards, target_bytes), lambda name, table: table)
        report.shards_after = len(writer.manifest.shards)
        report.bytes_after = sum(shard.bytes for shard in writer.manifest.shards.values())
    gone = before - set(stage.files.sizes()) - {shard.name for shard in shards}
    report.removed = sorted(name for name in gone if name.endswith((".parquet", ".tmp")))
    return report


def _groups(shards: list[Shard], target_bytes: int) -> list[list[str]]:
    """Neighbouring shards that together have at most ``target_bytes``, where that is more than one."""
    groups: list[list[str]] = [[]]
    size = 0
    for shard in shards:
        if groups[-1] and size + shard.bytes > target_bytes:
            groups.append([])
            size = 0
        groups[-1].append(shard.name)
        size += shard.bytes
    return [group for group in groups if len(group) > 1]

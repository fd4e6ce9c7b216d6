"""Reports the status of a store, and repairs the problems that ``verify`` finds."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from prep.cache.lock import WriterLock, holder
from prep.cache.manifest import Manifest, fold, load_manifest
from prep.cache.manifest_fields import FinishedEntry, RunEntry
from prep.cache.rewrite import cut_rows
from prep.cache.schema import STAGES
from prep.cache.shards import ShardMeta, describe, is_shard
from prep.cache.state import MANIFEST, PENDING, copy_keys, ledger_sequences, located, state_of
from prep.cache.store import StageReader, StageStore, Store
from prep.cache.verify import RowCheck, StageReport, VerifyReport, cache_folders, verify, verify_stage
from prep.cache.writer import StageWriter
from prep.errors import PrepError


@dataclass
class StageStatus:
    """The status of a table: ``holder`` is its current writer, ``runs`` the statistics of the last runs,
    ``set_aside`` the number of rows that the input no longer has.
    """

    stage: str
    rows: int
    shards: int
    bytes: int
    statuses: dict[str, int]
    settings: dict[str, object]
    fingerprint: str
    created: str
    versions: dict[str, str]
    inputs: dict[str, str]
    finished: list[FinishedEntry]
    runs: list[RunEntry]
    holder: dict[str, object] | None
    set_aside: int = 0


@dataclass
class CacheStatus:
    """The status of one folder of the response cache."""

    name: str
    shards: int
    bytes: int


@dataclass
class StoreStatus:
    """The status of a store."""

    uri: str
    stages: list[StageStatus]
    caches: list[CacheStatus]


@dataclass
class RepairReport:
    """The result of :func:`repair` for a table. ``lost_rows`` must be made again with ``commands``."""

    stage: str
    lost_rows: int = 0
    rebuilt_manifest: bool = False
    actions: list[str] = field(default_factory=list)
    commands: list[dict[str, object]] = field(default_factory=list)


def status(store: Store) -> StoreStatus:
    """The status of a store, from its manifests and one small column."""
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
    return StageStatus(
        stage=stage.name,
        rows=manifest.rows,
        shards=len(manifest.shards),
        bytes=sum(shard.bytes for shard in manifest.shards.values()),
        statuses=dict(reader.statuses()),
        settings=manifest.settings,
        fingerprint=manifest.fingerprint,
        created=manifest.created,
        versions=manifest.versions,
        inputs=manifest.inputs,
        finished=list(manifest.finished.values()),
        runs=manifest.runs,
        holder=holder(stage.files) if WriterLock(stage.files).is_held() else None,
        set_aside=_set_aside(stage, reader),
    )


def _set_aside(stage: StageStore, reader: StageReader) -> int:
    """The rows set aside, without those that a replacement has made again: the next run drops them."""
    aside = stage.aside.reader()
    if not aside.num_rows:
        return 0
    made, count = reader.keys(), 0
    for batch in aside.batches(columns=[stage.key_column]):
        count += int((~made.contains(batch.column(0).to_pylist())).sum())
    return count


def repair(
    store: Store, checks: Mapping[str, RowCheck] | None = None, found: VerifyReport | None = None
) -> list[RepairReport]:
    """Repair what :func:`prep.cache.verify.verify` finds, and report which commands make the lost rows
    again. ``found``: what it has just found, with the same checks.

    Damaged shards are dropped, duplicate and undecodable rows removed, complete but unlisted shards adopted,
    a lost manifest rebuilt from the shards' metadata, and damaged cache shards removed. No other row changes,
    and files of other names stay. Takes each table's lock. Raises :class:`PrepError`, with nothing changed,
    for a shard that cannot be read: it may be whole.
    """
    found = found or verify(store, checks)
    for problem in found.problems:
        if problem.kind == "unreadable":
            raise PrepError(
                f"{problem.stage}/{problem.file} is there, but cannot be read: {problem.detail}.",
                "Check its permissions and the disk, then run the command again: nothing was changed.",
            )
    damaged = {report.stage: report for report in found.stages if report.problems}
    reports = []
    for table in store.tables():
        if table.label in damaged:
            check = (checks or {}).get(table.name)
            reports.append(_repair_stage(table, damaged[table.label], check))
    for name, files in cache_folders(store.files):
        if name in damaged:
            bad = [problem.file for problem in damaged[name].problems]
            for file in bad:
                files.delete(file)
            reports.append(RepairReport(name, actions=[f"removed {file}" for file in bad]))
    return reports


def lost_with(store: Store, found: VerifyReport) -> list[tuple[str, dict[str, object]]]:
    """The tables in which :func:`repair` has to drop rows, each with a command (arguments) of its runs."""
    losing = {
        problem.stage for problem in found.problems if problem.kind in ("missing", "altered", "wrong", "lost")
    }
    needed = []
    for table in store.tables():
        with contextlib.suppress(PrepError):  # a manifest that cannot be read records no command
            manifest = load_manifest(table.files) if table.label in losing else None
            needed += [(table.label, arguments) for arguments in _commands(manifest)] if manifest else []
    return needed


def _repair_stage(stage: StageStore, found: StageReport, check: RowCheck | None) -> RepairReport:
    report = RepairReport(stage.label, actions=[str(problem) for problem in found.problems])
    with _locked(stage):
        manifest = _readable_manifest(stage, report)
        listed = manifest.rows
        for problem in found.problems:
            if problem.kind in ("missing", "altered") and problem.file in manifest.shards:
                report.lost_rows += manifest.shards.pop(problem.file).rows
            if problem.kind == "lost":
                report.lost_rows += max(int(entry["rows"]) for entry in manifest.finished.values()) - listed
        manifest.finished = {} if report.lost_rows else manifest.finished
        copy_keys(stage.files)
        fold(stage.files, manifest)
        state_of(stage.files).delete(PENDING)
    with stage.writer(manifest.settings) as writer:  # adopts or removes unlisted shards
        lost = _cut_rows(writer, found, check)
        report.lost_rows += lost
        if report.lost_rows:
            writer.manifest.finished.clear()
            report.commands = _commands(writer.manifest)
    return report


def _cut_rows(writer: StageWriter, found: StageReport, check: RowCheck | None) -> int:
    """Rewrite the shards with duplicate or undecodable rows without them; returns the number of lost rows."""
    if writer.manifest.shards.keys() != set(found.compared):  # some were adopted: what do they repeat?
        found = verify_stage(writer.stage, check)
    lost = 0
    cut: dict[str, set[int]] = {}
    for problem in found.problems:
        if problem.kind in ("doubled", "wrong"):
            cut.setdefault(problem.file, set()).update(problem.rows)
            lost += len(problem.rows) if problem.kind == "wrong" else 0
    cut_rows(writer, cut)
    return lost


@contextlib.contextmanager
def _locked(stage: StageStore) -> Iterator[None]:
    state_of(stage.files).make()
    lock = WriterLock(stage.files)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _readable_manifest(stage: StageStore, report: RepairReport) -> Manifest:
    """The table's manifest, or one rebuilt from the shards of the generation with the most rows."""
    with contextlib.suppress(PrepError):
        manifest = load_manifest(stage.files)
        if manifest is not None:
            return manifest
    report.rebuilt_manifest = True
    place, prefix = located(stage.files) or (state_of(stage.files), "")
    last = max(ledger_sequences(place.sizes()), default=0)
    with contextlib.suppress(PrepError, ValueError):
        # Only the ledger or the manifest of a swap is damaged: the shards that it listed are adopted.
        text = place.read(prefix + MANIFEST)
        listed = Manifest.from_json(json.loads(text), place.where(prefix + MANIFEST))
        there = stage.files.sizes()
        shards = {name: shard for name, shard in listed.shards.items() if name in there}
        return replace(listed, folded=last, shards=shards)
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
            f"{stage.files.uri} has no manifest and no complete shard to rebuild it from.",
            "Remove the folder and run the stage again.",
        )
    meta = metas[rows.most_common(1)[0][0]]
    return Manifest(stage.name, dict(meta.settings), generation=meta.generation, folded=last)


def _commands(manifest: Manifest) -> list[dict[str, object]]:
    """The distinct arguments of the table's runs, in order."""
    commands: list[dict[str, object]] = []
    for run in manifest.runs:
        arguments = run.get("arguments")
        if arguments and arguments not in commands:
            commands.append(arguments)
    return commands

"""Verifies every byte, shard, row and key of a store against its manifests, without changing anything."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prep.cache.files import Files
from prep.cache.keyset import column_hashes
from prep.cache.manifest import Manifest, load_manifest
from prep.cache.shards import Shard, check_footer, is_shard, read_shard, shard_name
from prep.cache.state import MANIFEST, state_of
from prep.cache.store import CACHE_FOLDER, StageStore, Store
from prep.errors import PrepError
from prep.files import TEMPORARY

RowCheck = Callable[[pa.Table], Iterable[tuple[int, str]]]

SHOWN = 5


@dataclass(frozen=True)
class Problem:
    """A problem found in a store.

    ``kind``: ``manifest`` (cannot be read), ``missing``, ``unreadable`` (there, but the file system refuses
    it), ``altered`` (bytes differ from the manifest),
    ``extra`` (a shard or other Parquet file that no manifest lists), ``stray`` (left by a killed run; not
    visible to readers), ``lost`` (fewer rows than a finished selection had), ``doubled`` (duplicate rows) or
    ``wrong`` (invalid rows), by their numbers in ``rows``.
    """

    stage: str
    kind: str
    file: str
    detail: str
    rows: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind}: {self.stage}/{self.file}: {self.detail}"


@dataclass
class StageReport:
    """One table (or one folder of the cache): its size and its problems.

    ``compared`` are the shards whose rows were read and compared with each other; of a cache, none.
    """

    stage: str
    shards: int = 0
    rows: int = 0
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)
    compared: list[str] = field(default_factory=list)


@dataclass
class VerifyReport:
    """The result of :func:`verify`, per table."""

    stages: list[StageReport]
    seconds: float

    @property
    def problems(self) -> list[Problem]:
        """All problems, in the order of the tables."""
        return [problem for stage in self.stages for problem in stage.problems]

    @property
    def ok(self) -> bool:
        """Whether every committed row exists exactly once and intact, and nothing else exists."""
        return all(problem.kind == "stray" for problem in self.problems)


def verify(store: Store, checks: Mapping[str, RowCheck] | None = None) -> VerifyReport:
    """Read every shard of a store and its cache, and compare it with the manifests.

    ``checks`` has for each table a function that finds invalid rows (see ``prep.cache.row_checks.CHECKS``).
    Needs no lock; while a writer is active it may report a shard that is about to be listed.
    """
    started = time.monotonic()
    reports = [verify_stage(table, (checks or {}).get(table.name)) for table in store.tables()]
    reports = [report for report in reports if report.shards or report.problems]
    reports += [verify_answers(files, name) for name, files in cache_folders(store.files)]
    return VerifyReport(reports, time.monotonic() - started)


def cache_folders(store: Files) -> Iterator[tuple[str, Files]]:
    """The folders of the response cache inside a store, with their names relative to the store."""
    cache = store.folder(CACHE_FOLDER)
    for stage in cache.folders():
        for fingerprint in cache.folder(stage).folders():
            yield f"{CACHE_FOLDER}/{stage}/{fingerprint}", cache.folder(stage).folder(fingerprint)


def verify_stage(stage: StageStore, check: RowCheck | None = None) -> StageReport:
    """:func:`verify` for one table."""
    report = StageReport(stage.label)
    tree = stage.files.tree()
    left = {name: size for name, size in state_of(stage.files).sizes().items() if name.endswith(TEMPORARY)}
    try:
        manifest = load_manifest(stage.files)
    except PrepError as error:
        report.problems.append(Problem(stage.label, "manifest", MANIFEST, error.message))
        manifest = None
    if manifest is None:
        if any(name.endswith(".parquet") for name in tree) and not report.problems:
            report.problems.append(Problem(stage.label, "manifest", MANIFEST, "is missing"))
        return report
    report.shards, report.rows = len(manifest.shards), manifest.rows
    report.bytes = sum(shard.bytes for shard in manifest.shards.values())
    report.problems += unnamed(stage.label, manifest, {**tree, **left})
    reader = _RowReader(stage, check)
    for shard in manifest.shards.values():
        report.problems += reader.shard(shard)
    report.problems += reader.doubled()
    report.compared = reader.names
    most = max((int(entry["rows"]) for entry in manifest.finished.values()), default=0)
    if manifest.rows < most:
        detail = f"{manifest.rows} rows are listed, a finished selection had {most}"
        report.problems.append(Problem(stage.label, "lost", MANIFEST, detail))
    return report


def unnamed(stage: str, manifest: Manifest, tree: Mapping[str, int]) -> Iterator[Problem]:
    """Files in the table's folder or its bookkeeping that the manifest does not list."""
    for name in sorted(tree):
        if name.endswith(".parquet") and name not in manifest.shards:
            yield Problem(stage, "extra", name, "no manifest lists it, but readers of *.parquet see it")
        elif name.endswith(TEMPORARY):
            yield Problem(stage, "stray", name, "was left by a killed run")


class _RowReader:
    """Reads a table's shards one by one and records the hashes of the keys and their positions."""

    def __init__(self, stage: StageStore, check: RowCheck | None) -> None:
        self._stage, self._check = stage, check
        self.names: list[str] = []
        self._hashes: list[np.ndarray] = []

    def shard(self, shard: Shard) -> Iterator[Problem]:
        stage = self._stage
        try:
            data = stage.files.read(shard.name)
        except PrepError as error:
            kind = "unreadable" if stage.files.exists(shard.name) else "missing"
            yield Problem(stage.label, kind, shard.name, f"{error.message.rstrip('.')}; {shard.rows} rows")
            return
        digest = hashlib.sha256(data).hexdigest()
        if digest != shard.sha256 or shard_name(digest) != shard.name:
            listed = f"{shard.sha256[:16]}..." if digest != shard.sha256 else "the one in its name"
            detail = f"SHA-256 is {digest[:16]}..., not {listed}; {shard.rows} rows"
            yield Problem(stage.label, "altered", shard.name, detail)
            return
        try:
            check_footer(pq.read_metadata(pa.BufferReader(data)), len(data))
            table = pq.read_table(pa.BufferReader(data), schema=stage.schema)
            table.validate(full=True)
            for needed in stage.schema:
                if not needed.nullable and table.column(needed.name).null_count:
                    raise pa.ArrowInvalid(f"there are rows without {needed.name}")
            hashes = column_hashes(table.column(stage.key_column))
        except (pa.ArrowException, OSError, ValueError) as error:
            yield Problem(stage.label, "altered", shard.name, f"does not decode: {error}")
            return
        if table.num_rows != shard.rows:
            yield Problem(stage.label, "altered", shard.name, f"{table.num_rows} rows, not {shard.rows}")
            return
        faults = list(self._check(table)) if self._check else []
        if faults:
            shown = "; ".join(f"row {number}: {why}" for number, why in faults[:SHOWN])
            rows = tuple(number for number, _ in faults)
            yield Problem(stage.label, "wrong", shard.name, f"{len(faults)} rows: {shown}", rows)
        self.names.append(shard.name)
        self._hashes.append(hashes)

    def doubled(self) -> Iterator[Problem]:
        """Rows whose key an earlier row already has; keys with equal hashes are compared by reading them."""
        if not self._hashes:
            return
        hashes = np.concatenate(self._hashes)
        unique, counts = np.unique(hashes, return_counts=True)
        suspects = unique[counts > 1]
        seen: set[str] = set()
        for name, mine in zip(self.names, self._hashes, strict=True):
            at = np.flatnonzero(np.isin(mine, suspects))
            if not len(at):
                continue
            keys = read_shard(self._stage.files, name, [self._stage.key_column]).column(0)
            again = []
            for row in map(int, at):
                key = keys[row].as_py()
                if key in seen:
                    again.append(row)
                seen.add(key)
            if again:
                first = keys[again[0]].as_py()
                detail = f"{len(again)} rows are duplicates, the first is {first!r}"
                yield Problem(self._stage.label, "doubled", name, detail, tuple(again))


def verify_answers(files: Files, name: str) -> StageReport:
    """:func:`verify` for one folder of the cache: every shard against the hash in its name."""
    report = StageReport(name)
    for file, size in sorted(files.sizes().items()):
        if file.endswith(TEMPORARY):
            report.problems.append(Problem(name, "stray", file, "was left by a killed run"))
        if not is_shard(file):
            continue
        data = files.read(file)
        report.shards, report.bytes = report.shards + 1, report.bytes + size
        digest = hashlib.sha256(data).hexdigest()
        if shard_name(digest) == file:
            report.rows += pq.read_metadata(pa.BufferReader(data)).num_rows
        else:
            detail = f"SHA-256 is {digest[:16]}..., not the one in its name"
            report.problems.append(Problem(name, "altered", file, detail))
    return report

"""Estimates the time, storage and requests of a run from the rates of earlier runs of the stage."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prep.cache.keyset import KeySet, hash_keys
from prep.cache.manifest import Manifest, differences
from prep.cache.store import Store
from prep.cache.writer import COMMIT_ROWS
from prep.engine.progress import duration
from prep.errors import PrepError

# The rate of a shorter run mostly measures startup time.
MIN_ROWS = 20
COMMIT_SECONDS = 2.0
BLOCK = 1 << 16


@dataclass(frozen=True)
class Pace:
    """The rate of an earlier run: rows/s per worker, seconds to its first rows, bytes per row."""

    rows_per_second: float
    start_seconds: float
    bytes_per_row: float
    rows: int
    workers: int


@dataclass(frozen=True)
class Plan:
    """The ``items`` rows left to make on ``workers`` workers, and their estimated cost.

    ``seconds`` is wall time, ``worker_hours`` the billed time, ``commits`` the shards before ``compact``
    (each takes two PUTs to an object store); without a ``pace`` to estimate them from, all are None.
    ``key_bytes`` is the driver's memory for the keys.
    """

    items: int
    workers: int
    key_bytes: int
    seconds: float | None = None
    worker_hours: float | None = None
    storage_bytes: float | None = None
    commits: int | None = None
    pace: Pace | None = None


def pace_of(manifest: Manifest) -> Pace | None:
    """The pace of the manifest's run with the most rows, or ``None`` if none made :data:`MIN_ROWS`."""
    runs = [run for run in manifest.runs if run.get("rows", 0) >= MIN_ROWS and run.get("seconds", 0) > 0]
    if not runs:
        return None
    best = max(runs, key=lambda run: int(run["rows"]))
    workers, seconds, rows = max(int(best.get("workers", 1)), 1), float(best["seconds"]), int(best["rows"])
    start, first = float(best.get("first_seconds", 0.0)), int(best.get("first_rows", 0))
    if first >= rows or start >= seconds:
        start, first = 0.0, 0  # one unit: its work cannot be separated from the loading time
    rate = (rows - first) / (seconds - start) / workers
    size = sum(shard.bytes for shard in manifest.shards.values()) / max(manifest.rows, 1)
    return Pace(rate, start, size, rows, workers)


def plan_run(
    store: Store,
    stage: str,
    settings: Mapping[str, object],
    keys: Iterable[str],
    workers: int,
    *,
    replace: bool = False,
) -> Plan:
    """What a run with these settings has to make: those of ``keys`` that have no row yet, and their cost.

    With ``replace``, all rows are generated again. Raises :class:`PrepError` if the table was made with other
    settings, as the run itself would.
    """
    reader = store.stage(stage).reader()
    other = reader.exists and reader.num_rows > 0 and reader.settings != settings
    if other and not replace:
        raise PrepError(
            f"{reader.stage.files.uri} was made with other settings:\n"
            + "\n".join(differences(reader.settings, settings)),
            "Set another --store, or use --replace to overwrite its rows (responses stay cached).",
        )
    done, missing, keys = KeySet() if replace else reader.keys(), KeySet(), iter(keys)
    while block := list(itertools.islice(keys, BLOCK)):
        hashes = hash_keys(block)
        missing.add_hashes(hashes[~done.contains_hashes(hashes)])
    return plan(store, stage, len(missing), workers, other=other)


def plan(store: Store, stage: str, items: int, workers: int, *, other: bool = False) -> Plan:
    """The cost of ``items`` more rows of a stage at the pace of the store's largest run, if it has one.

    A pace of ``other`` settings, or of another machine, would be a guess.
    """
    manifest = store.stage(stage).reader().manifest
    pace = None if manifest is None or other else pace_of(manifest)
    return Plan(items, workers, 8 * items) if pace is None else plan_at(pace, items, workers)


def plan_at(pace: Pace, items: int, workers: int) -> Plan:
    """The same at a given pace. Assumes that workers scale: they share only the driver."""
    seconds = pace.start_seconds + items / (pace.rows_per_second * workers)
    commits = max(math.ceil(items / COMMIT_ROWS), math.ceil(min(items, seconds / COMMIT_SECONDS)))
    hours, storage = seconds * workers / 3600, items * pace.bytes_per_row
    return Plan(items, workers, 8 * items, seconds, hours, storage, commits, pace)


def describe(made: Plan, stage: str) -> list[str]:
    """A plan as lines of text."""
    left = f"{stage}: {made.items:,} rows to make (workers: {made.workers})"
    if made.pace is None or made.seconds is None or made.storage_bytes is None or made.commits is None:
        return [f"{left}; no run of {MIN_ROWS} rows or more with these settings tells how long they take"]
    pace = made.pace
    return [
        f"{left}: about {duration(made.seconds)}, {made.worker_hours:,.1f} worker hours",
        f"  {made.storage_bytes / 2**20:,.1f} MiB of shards; {made.commits:,} commits before `compact` "
        f"({2 * made.commits:,} requests to an object store); {made.key_bytes / 2**20:,.1f} MiB for the keys",
        f"  based on a run of {pace.rows:,} rows: {pace.rows_per_second:,.2f} rows/s per worker, "
        f"{duration(pace.start_seconds)} to the first rows",
    ]

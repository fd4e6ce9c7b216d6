"""Estimates the time, storage and requests of a run from the rates of earlier runs of the stage."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prep.cache.keyset import KeySet, hash_keys
from prep.cache.manifest import Manifest
from prep.cache.store import Store
from prep.cache.writer import COMMIT_ROWS
from prep.engine.progress import duration
from prep.errors import MissingInputError

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
    """The estimated cost of ``items`` rows on ``workers`` workers.

    ``seconds`` is wall time, ``worker_hours`` the billed time, ``commits`` the shards before ``compact``
    (each takes two PUTs to an object store), ``key_bytes`` the driver's memory for the keys.
    """

    items: int
    workers: int
    seconds: float
    worker_hours: float
    storage_bytes: float
    commits: int
    key_bytes: int
    pace: Pace


def pace_of(manifest: Manifest) -> Pace | None:
    """The pace of the manifest's run with the most rows, or ``None`` if none made :data:`MIN_ROWS`."""
    runs = [run for run in manifest.runs if run.get("rows", 0) >= MIN_ROWS and run.get("seconds", 0) > 0]
    if not runs:
        return None
    best = max(runs, key=lambda run: int(run["rows"]))
    workers, seconds, rows = int(best.get("workers", 1)), float(best["seconds"]), int(best["rows"])
    start, first = float(best.get("first_seconds", 0.0)), int(best.get("first_rows", 0))
    if first >= rows or start >= seconds:
        start, first = 0.0, 0  # one unit: its work cannot be separated from the loading time
    rate = (rows - first) / (seconds - start) / workers
    size = sum(shard.bytes for shard in manifest.shards.values()) / max(manifest.rows, 1)
    return Pace(rate, start, size, rows, workers)


def plan_run(
    store: Store,
    stage: str,
    settings: Mapping[str, Any],
    keys: Iterable[str],
    workers: int,
    *,
    replace: bool = False,
) -> Plan:
    """The estimated cost of a run with these settings for those of ``keys`` that have no row yet.

    With ``replace``, all rows are generated again. Raises :class:`MissingInputError` if the table does not
    exist or was made with other settings.
    """
    reader = store.stage(stage).reader()
    if reader.exists and reader.settings != settings:
        raise MissingInputError(
            f"{reader.stage.files.uri} was made with other settings, so its rate does not apply to these.",
            "Run the same command on a small part first, with another --out, then plan with that --out.",
        )
    done, missing, keys = KeySet() if replace else reader.keys(), KeySet(), iter(keys)
    while block := list(itertools.islice(keys, BLOCK)):
        hashes = hash_keys(block)
        missing.add_hashes(hashes[~done.contains_hashes(hashes)])
    return plan(store, stage, len(missing), workers)


def plan(store: Store, stage: str, items: int, workers: int) -> Plan:
    """The estimated cost of ``items`` more rows of a stage, at the pace of the store's largest run.

    Raises :class:`MissingInputError` if the store has no such run: the rate of another machine would be a
    guess.
    """
    manifest = store.stage(stage).reader().manifest
    pace = None if manifest is None else pace_of(manifest)
    if pace is None:
        raise MissingInputError(
            f"{store.uri} has no run of the {stage} stage with at least {MIN_ROWS} rows to estimate from.",
            "Run the same command on a small part first (--split val, or a folder of few images), then plan.",
        )
    return plan_at(pace, items, workers)


def plan_at(pace: Pace, items: int, workers: int) -> Plan:
    """The same at a given pace. Assumes that workers scale: they share only the driver."""
    seconds = pace.start_seconds + items / (pace.rows_per_second * workers)
    commits = max(math.ceil(items / COMMIT_ROWS), math.ceil(min(items, seconds / COMMIT_SECONDS)))
    return Plan(
        items=items,
        workers=workers,
        seconds=seconds,
        worker_hours=seconds * workers / 3600,
        storage_bytes=items * pace.bytes_per_row,
        commits=commits,
        key_bytes=8 * items,
        pace=pace,
    )


def describe(made: Plan, stage: str) -> list[str]:
    """A plan as lines of text."""
    pace, put = made.pace, 2 * made.commits
    return [
        f"{stage}: {made.items:,} rows to make (workers: {made.workers}): about {duration(made.seconds)}, "
        f"{made.worker_hours:,.1f} worker hours",
        f"  {made.storage_bytes / 2**20:,.1f} MiB of shards; {made.commits:,} commits before `compact` "
        f"({put:,} requests to an object store); {made.key_bytes / 2**20:,.1f} MiB of memory for the keys",
        f"  based on a run of {pace.rows:,} rows: {pace.rows_per_second:,.2f} rows/s per worker, "
        f"{duration(pace.start_seconds)} to the first rows",
    ]

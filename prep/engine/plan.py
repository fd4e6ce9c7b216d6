"""What a run would take, from how fast earlier runs of the same stage were: time, storage, requests."""

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
from prep.errors import NotYet

# A run shorter than this says more about starting up than about the work.
MIN_ROWS = 20
COMMIT_SECONDS = 2.0
BLOCK = 1 << 16


@dataclass(frozen=True)
class Pace:
    """How an earlier run went: rows a second of one worker, seconds to its first rows, bytes of a row."""

    rows_per_second: float
    start_seconds: float
    bytes_per_row: float
    rows: int
    workers: int


@dataclass(frozen=True)
class Plan:
    """What ``items`` rows would take on ``workers`` workers.

    ``seconds`` is wall time, ``worker_hours`` what is paid for, ``commits`` the shards before ``compact`` (an
    object store is asked for two PUTs each), ``key_bytes`` the driver's memory for the keys.
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
    """The pace of the manifest's run with the most rows, or ``None`` where none made :data:`MIN_ROWS`."""
    runs = [run for run in manifest.runs if run.get("rows", 0) >= MIN_ROWS and run.get("seconds", 0) > 0]
    if not runs:
        return None
    best = max(runs, key=lambda run: int(run["rows"]))
    workers, seconds, rows = int(best.get("workers", 1)), float(best["seconds"]), int(best["rows"])
    start, first = float(best.get("first_seconds", 0.0)), int(best.get("first_rows", 0))
    if first >= rows or start >= seconds:
        start, first = 0.0, 0  # one unit: its work cannot be told from the loading
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
    """What a run with these settings would take for those of ``keys`` that have no row yet.

    With ``replace`` every row is made again.
    Raises :class:`NotYet` where the stage is not there or was made with other settings.
    """
    reader = store.stage(stage).reader()
    if reader.exists and reader.settings != settings:
        raise NotYet(
            f"{reader.stage.files.uri} was made with other settings: its pace says nothing about these.",
            "Run the same command on a small part first, with another --out, then plan with that --out.",
        )
    done, missing, keys = KeySet() if replace else reader.keys(), KeySet(), iter(keys)
    while block := list(itertools.islice(keys, BLOCK)):
        hashes = hash_keys(block)
        missing.add_hashes(hashes[~done.contains_hashes(hashes)])
    return plan(store, stage, len(missing), workers)


def plan(store: Store, stage: str, items: int, workers: int) -> Plan:
    """What ``items`` more rows of a stage would take, at the pace of the store's own largest run.

    Raises :class:`NotYet` where the store has no run to go by: another machine's rate would be a guess.
    """
    manifest = store.stage(stage).reader().manifest
    pace = None if manifest is None else pace_of(manifest)
    if pace is None:
        raise NotYet(
            f"{store.uri} has no run of the {stage} stage with {MIN_ROWS} rows to go by.",
            "Run the same command on a small part first (--split val, or a folder of few images), then plan.",
        )
    return plan_at(pace, items, workers)


def plan_at(pace: Pace, items: int, workers: int) -> Plan:
    """The same at a given pace. Workers are taken to scale: they share nothing but the driver."""
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
    """A plan in words, a line each."""
    pace, put = made.pace, 2 * made.commits
    return [
        f"{stage}: {made.items:,} rows to make, {made.workers} at a time: about {duration(made.seconds)}, "
        f"{made.worker_hours:,.1f} worker hours",
        f"  {made.storage_bytes / 2**20:,.1f} MiB of shards; {made.commits:,} commits before `compact` "
        f"({put:,} requests to an object store); {made.key_bytes / 2**20:,.1f} MiB of memory for the keys",
        f"  going by a run of {pace.rows:,} rows: {pace.rows_per_second:,.2f}/s a worker, "
        f"{duration(pace.start_seconds)} to its first rows",
    ]

"""A plan is arithmetic on what an earlier run measured, and refuses to guess."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from prep.cache.schema import SCORES
from prep.cache.store import Store, open_store
from prep.engine.plan import Pace, describe, plan, plan_at
from tests.prep.toy import item, row


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = open_store(tmp_path / "p", create=True)
    with made.stage("scores").writer({}) as writer:
        writer.write(pa.Table.from_pylist([row(item(number)) for number in range(100)], schema=SCORES))
    return made


def ran(store: Store, **figures: float) -> None:
    with store.stage("scores").writer({}) as writer:
        writer.record_run(figures)


def test_without_a_run_the_rows_are_counted_and_no_time_is_guessed(store: Store) -> None:
    for stage in ("scores", "phrases"):
        made = plan(store, stage, 10, 1)
        assert (made.items, made.seconds, made.pace) == (10, None, None)
    ran(store, rows=3, seconds=1.0, workers=1)
    made = plan(store, "scores", 10, 1)
    assert (made.items, made.seconds) == (10, None)
    assert describe(made, "scores") == [
        "scores: 10 rows to make (workers: 1); "
        "no run of 20 rows or more with these settings tells how long they take"
    ]


def test_the_largest_run_sets_the_pace(store: Store) -> None:
    ran(store, rows=100, seconds=50.0, first_seconds=10.0, first_rows=20, workers=2)
    ran(store, rows=30, seconds=1.0, workers=1)
    made = plan(store, "scores", 8_000, 4)
    assert made.pace.rows_per_second == 1.0
    assert made.seconds == pytest.approx(10 + 2000)
    assert made.worker_hours == pytest.approx(2010 * 4 / 3600)
    manifest = store.stage("scores").reader().manifest
    assert manifest is not None
    (shard,) = manifest.shards.values()
    assert made.storage_bytes == pytest.approx(80 * shard.bytes)
    assert made.commits == 1005


def test_one_unit_is_taken_as_it_is(store: Store) -> None:
    ran(store, rows=50, seconds=10.0, first_seconds=9.9, first_rows=50, workers=1)
    assert plan(store, "scores", 100, 1).seconds == pytest.approx(20.0)


def test_commits_follow_rows_where_the_work_is_fast() -> None:
    made = plan_at(Pace(1e9, 0.0, 10.0, 100, 1), 10_000_000, 1)
    assert (made.commits, made.key_bytes) == (50, 80_000_000)

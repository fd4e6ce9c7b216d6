"""A run brings every row into the store exactly once, whatever stops it and however often."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from prep.cache.schema import SCORES
from prep.cache.store import open_store
from prep.engine.local import Engine
from prep.engine.runner import Summary, Work, prepare, run_stage
from prep.errors import Interrupted, PrepError
from prep.stage import Resources
from tests.prep import toy
from tests.prep.toy import ToyStage, expected, item

COUNT = 600


def fill(out: Path, count: int = COUNT, stage: ToyStage | None = None, **options: object) -> Summary:
    with open_store(out, create=True).stage("scores").writer({"toy": 1}) as writer:
        items = map(item, range(count))
        return run_stage(Engine(stage or ToyStage()), items, key=str, writer=writer, unit_size=7, **options)


def rows_in(out: Path) -> pa.Table:
    return open_store(out).stage("scores").reader().read().combine_chunks().sort_by("row_id")


def test_a_run_writes_every_row_and_says_so(tmp_path: Path) -> None:
    summary = fill(tmp_path / "p", selection={"n": COUNT}, arguments={"unit": 7})
    assert (summary.total, summary.done, summary.reused, summary.failed) == (COUNT, COUNT, 0, 0)
    assert summary.where.endswith("p/scores")
    assert rows_in(tmp_path / "p").equals(expected(COUNT))
    manifest = open_store(tmp_path / "p").stage("scores").reader().manifest
    assert manifest is not None
    assert manifest.runs[0]["rows"] == COUNT
    assert manifest.runs[0]["arguments"] == {"unit": 7}


def test_the_call_of_0_1_still_works(tmp_path: Path) -> None:
    with open_store(tmp_path / "p", create=True).stage("scores").writer({"toy": 1}) as writer:
        done = prepare(ToyStage(), map(item, range(9)), key=str, writer=writer, unit_size=4, workers=1).done
    assert done == 9


def test_a_finished_selection_is_not_looked_at(tmp_path: Path) -> None:
    fill(tmp_path / "p", selection={"n": COUNT})

    def untouchable() -> Iterator[str]:
        raise AssertionError("the items were read")
        yield ""

    with open_store(tmp_path / "p").stage("scores").writer({"toy": 1}) as writer:
        stage = ToyStage()
        summary = run_stage(
            Engine(stage), untouchable(), key=str, writer=writer, unit_size=7, selection={"n": COUNT}
        )
    assert (summary.total, summary.done, summary.reused) == (COUNT, 0, COUNT)
    assert not hasattr(stage, "opened")


def test_selections_accumulate_and_share_rows(tmp_path: Path) -> None:
    fill(tmp_path / "p", 100)
    summary = fill(tmp_path / "p", 250)
    assert (summary.total, summary.done, summary.reused) == (250, 150, 100)
    assert rows_in(tmp_path / "p").equals(expected(250))


class Pairs(ToyStage):
    """Items that own two rows each."""

    def process(self, unit: list[Any]) -> pa.Table:
        return super().process([key for pair in unit for key in pair])


def test_an_item_may_own_several_rows(tmp_path: Path) -> None:
    pairs = [(item(2 * n), item(2 * n + 1)) for n in range(40)]
    with open_store(tmp_path / "p", create=True).stage("scores").writer({}) as writer:
        first = run_stage(Engine(Pairs()), [*pairs[:25], *pairs[:5]], key=tuple, writer=writer, unit_size=4)
        second = run_stage(Engine(Pairs()), pairs, key=tuple, writer=writer, unit_size=4)
        assert (first.total, first.done, first.reused) == (60, 50, 10)
        assert (second.total, second.done, second.reused) == (80, 30, 50)
        half_done = [(item(0), item(100))]  # which of the two to make is the caller's to say
        with pytest.raises(ValueError, match="already exists"):
            run_stage(Engine(Pairs()), half_done, key=tuple, writer=writer, unit_size=4)
    assert rows_in(tmp_path / "p").equals(expected(80))


class Halved(Work):
    """Gives the stage one of two neighbours, and copies the row that it makes; some need no stage."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.written_units: list[list[int]] = []

    def requests(self, items: list[int]) -> tuple[list[str], pa.Table | None]:
        ready = [n for n in items if n >= 90]
        table = pa.Table.from_pylist([toy.row(item(n)) for n in ready], schema=SCORES) if ready else None
        return [str(n) for n in items if n < 90 and n % 2 == 0], table

    def rows(self, unit: list[str], results: pa.Table) -> pa.Table:
        numbers = [int(key) + more for key in results["row_id"].to_pylist() for more in (0, 1)]
        return pa.Table.from_pylist([toy.row(item(n)) for n in numbers], schema=SCORES)

    def written(self, unit: list[str]) -> None:
        self.written_units.append(unit)

    def step(self, name: str) -> None:
        self.steps.append(name)

    def report(self) -> dict[str, Any]:
        return {"units": len(self.written_units)}


def test_a_stage_may_process_something_else_than_the_items(tmp_path: Path) -> None:
    out, work = tmp_path / "p", Halved()
    with open_store(out, create=True).stage("scores").writer({}) as writer:
        how: dict[str, Any] = {"key": item, "writer": writer, "unit_size": 8}
        summary = run_stage(Engine(ToyStage()), [*range(100), *range(100)], work=work, **how)
        again = run_stage(Engine(ToyStage()), range(100), work=Halved(), **how)
    assert (summary.total, summary.done, summary.reused) == (200, 100, 100)
    assert (again.done, again.reused, again.extra["report"]) == (0, 100, {"units": 0})
    assert [len(unit) for unit in work.written_units] == [8, 8, 8, 8, 8, 5]
    assert summary.extra["report"] == {"units": 6}
    assert work.steps[:4] == ["read", "look up", "write", "engine"]
    assert rows_in(out).equals(expected(100))


def test_an_item_that_comes_twice_gets_one_row(tmp_path: Path) -> None:
    with open_store(tmp_path / "p", create=True).stage("scores").writer({}) as writer:
        items = [item(n % 40) for n in range(3000)]
        summary = run_stage(Engine(ToyStage()), items, key=str, writer=writer, unit_size=9)
    assert (summary.total, summary.done, summary.reused) == (3000, 40, 2960)
    assert rows_in(tmp_path / "p").equals(expected(40))


class FailingStage:
    """Proposal rows; every third image cannot be read."""

    resources = Resources()

    def open(self) -> None: ...

    def load(self, unit: list[str]) -> list[str]:
        return unit

    def process(self, unit: list[str]) -> pa.Table:
        from prep.cache.schema import PROPOSALS

        bad = [int(name) % 3 == 0 for name in unit]
        rows = [
            {"image": name, "masks": [], "grid32": b"", "generator": "g", "key": name}
            | {"status": "error" if wrong else "empty", "error": f"cannot read {name}" if wrong else None}
            for name, wrong in zip(unit, bad, strict=True)
        ]
        return pa.Table.from_pylist(rows, schema=PROPOSALS)


def test_failures_are_rows_and_are_counted_by_reason(tmp_path: Path) -> None:
    with open_store(tmp_path / "p", create=True).stage("proposals").writer({}) as writer:
        summary = run_stage(Engine(FailingStage()), map(str, range(90)), key=str, writer=writer, unit_size=4)
    assert (summary.done, summary.failed) == (90, 30)
    assert sum(summary.reasons.values()) == 30
    assert summary.reasons == {"cannot read N": 30}
    assert summary.first_failed == [f"cannot read {number}" for number in (0, 3, 6, 9, 12)]


def test_failures_of_earlier_runs_are_finished_with_the_selection(tmp_path: Path) -> None:
    with open_store(tmp_path / "p", create=True).stage("proposals").writer({}) as writer:
        how: dict[str, Any] = {"key": str, "writer": writer, "unit_size": 4}
        run_stage(Engine(FailingStage()), map(str, range(45)), **how)
        summary = run_stage(Engine(FailingStage()), map(str, range(90)), selection={"n": 90}, **how)
        assert (summary.reused, summary.failed_before, summary.failed) == (45, 15, 15)
        assert writer.finished({"n": 90}) == (90, 30)


class Signalled(Work):
    """Gets a signal at one moment; every third item needs no stage."""

    def __init__(self, moment: str) -> None:
        self.moment = moment

    def at(self, moment: str) -> None:
        if moment == self.moment:
            self.moment = ""
            os.kill(os.getpid(), signal.SIGTERM)

    def requests(self, items: list[str]) -> tuple[list[str], pa.Table | None]:
        made = [toy.row(key) for key in items[::3]]
        return [key for key in items if key not in items[::3]], pa.Table.from_pylist(made, schema=SCORES)

    def rows(self, unit: list[str], results: pa.Table) -> pa.Table:
        self.at("rows")
        return results

    def report(self) -> dict[str, Any]:
        self.at("report")
        return {"units": "all"}


@pytest.mark.parametrize(
    ("moment", "count"),
    [("rows", 13), ("write of a unit", 13), ("write of what is ready", 10), ("report", 30)],
)
def test_a_signal_waits_until_rows_are_written(tmp_path: Path, moment: str, count: int) -> None:
    """Ten rows are ready, then come units of three: those in hand are written before the run ends."""
    out, work, ready = tmp_path / "p", Signalled(moment), False
    stage = open_store(out, create=True).stage("scores")
    writer = stage.writer({"toy": 1}, commit_seconds=3600)
    write = writer.write

    def signalled(rows: pa.Table) -> None:
        nonlocal ready
        work.at("write of a unit" if ready else "write of what is ready")
        ready = True
        write(rows)

    writer.write = signalled  # type: ignore[method-assign]
    how: dict[str, Any] = {"key": str, "writer": writer, "unit_size": 3, "work": work}
    with pytest.raises(Interrupted, match=f"SIGTERM: {count} rows of this run are in"), writer:
        run_stage(Engine(ToyStage()), map(item, range(30)), selection={"n": 30}, **how)
    assert rows_in(out).num_rows == count
    manifest = stage.reader().manifest
    assert manifest is not None
    assert len(manifest.runs) == (moment == "report")
    assert (manifest.finished_rows({"n": 30}) is None) == (moment != "report")
    assert fill(out, 30).done == 30 - count
    assert rows_in(out).equals(expected(30))


class BreakingStage(ToyStage):
    def process(self, unit: list[str]) -> pa.Table:
        if item(300) in unit:
            raise ZeroDivisionError("on purpose")
        return super().process(unit)


def test_a_stage_that_breaks_keeps_what_was_done_and_names_the_unit(tmp_path: Path) -> None:
    with pytest.raises(PrepError, match="ZeroDivisionError: on purpose") as error:
        fill(tmp_path / "p", stage=BreakingStage())
    assert item(294) in error.value.message  # the first of the unit of seven
    assert rows_in(tmp_path / "p").num_rows == 294
    assert fill(tmp_path / "p").done == COUNT - 294
    assert rows_in(tmp_path / "p").equals(expected(COUNT))


def program(out: Path, *, seconds: float, workers: int = 1, unit: int = 5) -> subprocess.Popen[str]:
    command = [sys.executable, toy.__file__, str(out), str(COUNT), str(unit), str(seconds), str(workers)]
    environment = {**os.environ, "PYTHONPATH": str(Path(toy.__file__).parents[2])}
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def globbed(out: Path) -> list[str]:
    """The keys that a reader of ``scores/**/*.parquet`` sees."""
    if not list((out / "scores").glob("*.parquet")):
        return []
    query = f"select row_id from read_parquet('{out}/scores/**/*.parquet')"
    return [key for (key,) in duckdb.connect().execute(query).fetchall()]


@pytest.mark.slow
def test_sigkill_at_any_moment_loses_and_doubles_nothing(tmp_path: Path) -> None:
    out, chance, hits, before = tmp_path / "p", random.Random(7), 0, 0
    for _ in range(12):
        run = program(out, seconds=0.01)
        assert run.stdout is not None
        run.stdout.readline()
        time.sleep(chance.uniform(0.0, 0.25))
        run.kill()
        run.communicate()
        seen = globbed(out)
        assert len(seen) == len(set(seen))
        assert set(seen) <= set(map(item, range(COUNT)))
        assert len(seen) >= before, "a committed row went away"
        before = len(seen)
        hits += before < COUNT
    assert hits >= 3, "the kills came too late to test anything"
    assert program(out, seconds=0).wait() == 0
    assert rows_in(out).equals(expected(COUNT))
    assert sorted(globbed(out)) == sorted(map(item, range(COUNT)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGTERM, 2)]
)
def test_a_signal_commits_what_is_finished_and_exits_non_zero(
    tmp_path: Path, number: signal.Signals, workers: int
) -> None:
    out = tmp_path / "p"
    run = program(out, seconds=0.05, workers=workers)
    assert run.stdout is not None
    run.stdout.readline()
    trace = tmp_path / "trace"
    while run.poll() is None and (not trace.exists() or len(trace.read_text().split()) < 20):
        time.sleep(0.01)
    run.send_signal(number)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert number.name in errors
    assert "same command again" in errors
    processed = trace.read_text().split()
    assert 20 <= len(processed) < COUNT
    # The units in flight as the signal came are finished or dropped; every other is there.
    in_flight = 1 if workers == 1 else 2 * workers
    there = len(globbed(out))
    assert 0 <= len(processed) - there <= 5 * in_flight
    assert fill(out).done == COUNT - there
    assert rows_in(out).equals(expected(COUNT))


@pytest.mark.slow
def test_two_runs_at_once_are_one_run(tmp_path: Path) -> None:
    out = tmp_path / "p"
    first = program(out, seconds=0.01)
    assert first.stdout is not None
    first.stdout.readline()
    with pytest.raises(PrepError, match=f"pid {first.pid}"):
        fill(out)
    assert first.wait() == 0
    first.communicate()
    assert rows_in(out).equals(expected(COUNT))

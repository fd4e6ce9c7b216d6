"""The engine gives every unit's rows once, in process and on Ray, whoever dies on the way."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from prep.engine.local import Engine
from prep.errors import PrepError
from prep.stage import Resources
from tests.prep.toy import ToyStage, expected, item, run


def units(count: int, size: int = 10) -> Iterator[list[str]]:
    for start in range(0, count, size):
        yield [item(number) for number in range(start, min(start + size, count))]


def collected(stage: Any, count: int, **options: Any) -> pa.Table:
    tables = []
    for unit, rows in run(stage, units(count), **options):
        assert rows.column("row_id").to_pylist() == unit
        tables.append(rows)
    return pa.concat_tables(tables).combine_chunks().sort_by("row_id")


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    import ray

    for attempt in range(3):
        try:
            ray.init(
                "local",  # never a cluster that someone else has running here
                num_cpus=2,
                include_dashboard=False,
                object_store_memory=100 << 20,
                log_to_driver=False,
            )
            break
        except Exception:  # Ray gives its processes 30 s to start; a busy machine may need more
            ray.shutdown()
            if attempt == 2:
                raise
    yield
    ray.shutdown()


@pytest.mark.slow
def test_one_worker_needs_no_ray() -> None:
    code = (
        "import sys; from tests.prep.engine.test_local import collected, ToyStage, expected\n"
        "assert collected(ToyStage(), 35, workers=1).equals(expected(35))\n"
        "assert 'ray' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


class ThreadsStage(ToyStage):
    """Notes which thread does what."""

    def open(self) -> None:
        self.threads = {"open": {threading.get_ident()}, "load": set(), "process": set()}
        self.loaded = self.processed = 0
        self.ahead = 0

    def load(self, unit: list[str]) -> list[str]:
        self.threads["load"].add(threading.get_ident())
        self.loaded += 1
        self.ahead = max(self.ahead, self.loaded - self.processed)
        return unit

    def process(self, unit: list[str]) -> pa.Table:
        self.threads["process"].add(threading.get_ident())
        rows = super().process(unit)
        self.processed += 1
        return rows


def test_loading_runs_one_unit_ahead_in_a_thread_of_its_own() -> None:
    stage = ThreadsStage(seconds=0.01)
    assert collected(stage, 100, workers=1).equals(expected(100))
    assert stage.threads["open"] == stage.threads["process"]
    assert len(stage.threads["load"]) == 1
    assert not stage.threads["load"] & stage.threads["process"]
    assert stage.ahead == 2


def test_nothing_is_handed_out_faster_than_it_is_taken() -> None:
    handed = []

    def counted() -> Iterator[list[str]]:
        for unit in units(1000):
            handed.append(unit)
            yield unit

    results = run(ToyStage(), counted(), workers=1)
    for taken in range(1, 5):
        next(results)
        assert len(handed) <= taken + 1
    results.close()


@pytest.mark.slow
def test_an_unknown_ray_address_says_what_to_do() -> None:
    with pytest.raises(PrepError, match=r"127\.0\.0\.1:1 cannot be used") as error:
        collected(ToyStage(), 10, workers=1, ray_address="127.0.0.1:1")
    assert "--ray-address" in error.value.remedy


class LoadBreaks(ToyStage):
    def load(self, unit: list[str]) -> list[str]:
        if item(20) in unit:
            raise OSError("no such thing")
        return unit


class SaysWhy(ToyStage):
    def process(self, unit: list[str]) -> pa.Table:
        raise PrepError("The model is gone.", "Fetch it again.")


@pytest.mark.parametrize("ray_address", [None, "joined"])
def test_errors_reach_the_caller(ray_address: str | None, ray_here: None) -> None:
    with pytest.raises(PrepError, match="OSError: no such thing") as error:
        collected(LoadBreaks(), 100, workers=1, ray_address=ray_address)
    assert item(20) in error.value.message
    with pytest.raises(PrepError, match="The model is gone") as error:
        collected(SaysWhy(), 100, workers=1, ray_address=ray_address)
    assert error.value.remedy == "Fetch it again."


def test_two_ray_workers_give_the_rows_of_one_process(ray_here: None) -> None:
    alone = collected(ToyStage(), 305, workers=1)
    assert collected(ToyStage(), 305, workers=2).equals(alone)
    assert alone.equals(expected(305))


def test_no_units_is_no_rows(ray_here: None) -> None:
    assert list(run(ToyStage(), iter(()), workers=1)) == []
    assert list(run(ToyStage(), iter(()), workers=2)) == []


class DiesStage(ToyStage):
    """Its process is gone at a few units, once each, as if killed for memory."""

    def __init__(self, folder: Path, victims: tuple[int, ...], times: int = 1) -> None:
        super().__init__(0.01)
        self.folder, self.victims, self.times = folder, [item(v) for v in victims], times

    def process(self, unit: list[str]) -> pa.Table:
        for victim in set(self.victims) & set(unit):
            for attempt in range(self.times):
                try:
                    (self.folder / f"{victim}-{attempt}").touch(exist_ok=False)
                except FileExistsError:
                    continue
                os.kill(os.getpid(), 9)
        return super().process(unit)


def test_the_units_of_a_killed_worker_are_done_by_another(tmp_path: Path, ray_here: None) -> None:
    stage = DiesStage(tmp_path, (35, 290))
    assert collected(stage, 400, workers=2).equals(expected(400))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_unit_that_kills_every_worker_ends_the_run(tmp_path: Path, ray_here: None) -> None:
    with pytest.raises(PrepError, match="first"):
        collected(DiesStage(tmp_path, (5,), times=99), 20, workers=1, ray_address="joined")
    assert len(list(tmp_path.iterdir())) == 3


class NeverOpens(ToyStage):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def open(self) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("CUDA has left"), "failed to start 3 times.*CUDA has left"),
        (PrepError("There is no such checkpoint.", "Download it."), "no such checkpoint"),
    ],
)
def test_workers_that_never_start_end_the_run(error: Exception, message: str, ray_here: None) -> None:
    with pytest.raises(PrepError, match=message):
        collected(NeverOpens(error), 100, workers=1, ray_address="joined")


def test_ray_workers_are_held_back_by_the_taker(tmp_path: Path, ray_here: None) -> None:
    trace = tmp_path / "trace"
    results = run(ToyStage(0.0, str(trace)), units(400), workers=1, ray_address="joined")
    next(results)
    # The worker goes on while the taker holds the first unit, however slow the machine is; then it must wait.
    deadline, done, quiet_since = time.monotonic() + 120, 0, time.monotonic()
    while done < 10 * 2 or time.monotonic() - quiet_since < 1.0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
        if (now := len(trace.read_text().split())) != done:
            done, quiet_since = now, time.monotonic()
        assert done <= 10 * (2 + 1)
    results.close()


def test_a_gpu_that_is_not_there_is_said_at_once(ray_here: None) -> None:
    stage = ToyStage()
    stage.resources = Resources(1, 64.0)
    with pytest.raises(PrepError, match="needs 64 GPU"):
        collected(stage, 10, workers=2)


def test_resources_are_one_core_unless_said() -> None:
    assert (Resources().cpus, Resources().gpus) == (1.0, 0.0)


class CountsOpens(ToyStage):
    """Notes each time its model is loaded, in whichever process."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def open(self) -> None:
        (self.folder / f"{os.getpid()}-{time.monotonic_ns()}").touch()


@pytest.mark.parametrize("ray_address", [None, "joined"])
def test_an_engine_serves_several_runs_with_one_model(
    ray_address: str | None, tmp_path: Path, ray_here: None
) -> None:
    with Engine(CountsOpens(tmp_path), ray_address=ray_address) as engine:
        assert list(engine.run(iter(()))) == []
        assert list(tmp_path.iterdir()) == []  # nothing to do: nothing is loaded
        for count in (30, 50):
            rows = [table for _, table in engine.run(units(count))]
            assert pa.concat_tables(rows).combine_chunks().sort_by("row_id").equals(expected(count))
    assert len(list(tmp_path.iterdir())) == 1

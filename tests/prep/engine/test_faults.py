"""Whatever goes wrong around a run, the next one ends with the rows of an undisturbed one."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from prep.cache.row_checks import CHECKS
from prep.cache.store import open_store
from prep.cache.verify import verify
from prep.engine.local import Engine
from prep.engine.runner import run_stage
from prep.errors import PrepError
from prep.stage import Resources
from tests.prep import toy
from tests.prep.toy import ToyStage, expected, item, run

COUNT = 200


def fill(out: Path, stage: ToyStage | None = None, count: int = COUNT) -> int:
    with open_store(out, create=True).stage("scores").writer({"toy": 1}, commit_seconds=0) as writer:
        items = map(item, range(count))
        return run_stage(Engine(stage or ToyStage()), items, key=str, writer=writer, unit_size=20).done


def whole(out: Path, count: int = COUNT) -> bool:
    """Whether the store is what an undisturbed run would have made, and nothing else."""
    store = open_store(out)
    table = store.stage("scores").reader().read().combine_chunks().sort_by("row_id")
    return bool(table.equals(expected(count))) and verify(store, CHECKS).problems == []


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_any_write_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """The n-th write to the disk fails, for every n that there is: the run says so, and can go on."""
    import builtins

    owner: Any = builtins if call == "open" else os
    real = getattr(owner, call)
    said: list[PrepError] = []
    for fatal in itertools.count(1):
        out, made = tmp_path / str(fatal), 0

        def failing(*args: Any, fatal: int = fatal, **options: Any) -> Any:
            nonlocal made
            if call != "open" or (len(args) > 1 and args[1] == "wb"):
                made += 1
                if made == fatal:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **options)

        with monkeypatch.context() as patched:
            patched.setattr(owner, call, failing)
            try:
                fill(out, count=60)
            except PrepError as error:
                said.append(error)
        fill(out, count=60)
        assert whole(out, 60), f"after failure of call {fatal}"
        if made < fatal:
            break
    assert len(said) >= 8
    assert all("No space left" in error.message and "same command" in error.remedy for error in said)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_keeps_what_is_committed(tmp_path: Path) -> None:
    out = tmp_path / "p"
    command = f"ulimit -f 16; exec {sys.executable} {toy.__file__} {out} 5000 500 0 1"
    environment = {**os.environ, "PYTHONPATH": str(Path(toy.__file__).parents[2])}
    run = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode != 0
    assert "File too large" in run.stderr
    fill(out, count=5000)
    assert whole(out, 5000)


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """As a user whom permissions bind: root ignores them, so root steps down."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter; the usual place may lie in a home that only its owner enters."""
    places = (tempfile.gettempdir(), "/tmp", "/dev/shm")
    with unprivileged():
        reached = next(place for place in places if os.access(place, os.W_OK | os.X_OK, effective_ids=True))
    folder = Path(tempfile.mkdtemp(dir=reached))
    folder.chmod(0o755)
    yield folder
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_store_can_be_read_and_says_why_it_cannot_be_written(open_folder: Path) -> None:
    out = open_folder / "p"
    fill(out)
    for path in [*out.rglob("*"), out]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    with unprivileged():
        assert whole(out)
        with pytest.raises(PrepError, match="Permission denied") as error:
            fill(out, count=COUNT + 1)
        assert "write to another place" in error.value.remedy
        with pytest.raises(PrepError, match="Permission denied"), open_store(out).stage("phrases").writer({}):
            pass


class RemovesStore(ToyStage):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.units = folder, 0

    def process(self, unit: list[str]) -> pa.Table:
        self.units += 1
        if self.units == 4:
            shutil.rmtree(self.folder)
        return super().process(unit)


def test_a_store_that_is_removed_mid_run_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(PrepError, match="No such file") as error:
        fill(tmp_path / "p", RemovesStore(tmp_path / "p"))
    assert "removed" in error.value.remedy
    fill(tmp_path / "p")
    assert whole(tmp_path / "p")


class BreaksAt(ToyStage):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.last = item(number)

    def process(self, unit: list[str]) -> pa.Table:
        if self.last in unit:
            raise RuntimeError("stop here")
        return super().process(unit)


def test_a_clock_that_jumps_back_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, now = tmp_path / "p", [2e9]

    def backwards() -> float:
        now[0] -= 3600.0
        return now[0]

    monkeypatch.setattr(time, "time", backwards)
    for number in (50, 110, 170):
        with pytest.raises(PrepError, match="stop here"):
            fill(out, BreaksAt(number))
        for age, path in enumerate((out / "scores").iterdir()):
            os.utime(path, (1e9 - age * 1e6, 1e9 - age * 1e6))
    fill(out)
    assert whole(out)


def test_a_damaged_shard_is_found_repaired_and_redone(tmp_path: Path) -> None:
    from prep.cache.maintain import repair

    out = tmp_path / "p"
    fill(out)
    for path in sorted((out / "scores").glob("*.parquet"))[:3]:
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
    with pytest.raises(PrepError, match=r"verify \S+ --repair"):
        fill(out)
    repair(open_store(out), CHECKS)
    assert fill(out) == 60
    assert whole(out)


def test_a_broken_ledger_entry_names_itself(tmp_path: Path) -> None:
    out = tmp_path / "p"
    fill(out)
    (out / "_state" / "scores" / "ledger-0000000500.json").write_text("{")
    with pytest.raises(PrepError, match="ledger-0000000500"):
        fill(out)


def units(count: int) -> Iterator[list[str]]:
    for start in range(0, count, 5):
        yield [item(number) for number in range(start, start + 5)]


@pytest.fixture
def cluster() -> Iterator[Any]:
    import ray
    from ray.cluster_utils import Cluster

    for attempt in range(3):
        try:
            made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
            ray.init(address=made.address, log_to_driver=False)
            break
        except Exception:  # as in add_node
            ray.shutdown()
            if attempt == 2:
                raise
    yield made
    ray.shutdown()
    made.shutdown()


def add_node(cluster: Any) -> Any:
    """A node of one worker. Ray gives up on one that takes 30 s to start, as on a busy machine it may."""
    for _ in range(3):
        with contextlib.suppress(Exception):
            return cluster.add_node(num_cpus=1)
    return cluster.add_node(num_cpus=1)


def test_a_node_that_is_lost_mid_run_and_one_that_joins(cluster: Any) -> None:
    doomed = add_node(cluster)
    stays = add_node(cluster)
    stage = ToyStage(0.02)
    stage.resources = Resources(cpus=1)  # one worker a node
    tables, keys = [], []
    for unit, rows in run(stage, units(1000), workers=3, ray_address=cluster.address):
        tables.append(rows)
        keys += unit
        if len(tables) == 20:
            cluster.remove_node(doomed, allow_graceful=False)
        if len(tables) == 40:
            add_node(cluster)
        if len(tables) == 150:
            cluster.remove_node(stays, allow_graceful=False)
    assert len(keys) == len(set(keys)) == 1000
    assert pa.concat_tables(tables).combine_chunks().sort_by("row_id").equals(expected(1000))

"""The command that starts several training processes, and what a run writes down of its settings."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pcnet.training.launch import command
from pcnet.training.setup import TrainConfig


@pytest.mark.slow
def test_nothing_of_the_current_folder_is_imported(tmp_path: Path) -> None:
    script, folder = tmp_path / "script.py", tmp_path / "data"
    folder.mkdir()
    script.write_text("import os\nopen(f'rank{os.environ[\"RANK\"]}', 'w')\n")
    for name in ("torch", "json", "numpy"):
        (folder / f"{name}.py").write_text("open('ran', 'w')\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    subprocess.run(command(2, [str(script)]), cwd=folder, env=environment, check=True, timeout=200)
    assert sorted(path.name for path in folder.glob("ra*")) == ["rank0", "rank1"]


WORKER = """
import signal, sys, time
from pathlib import Path

from pcnet.training import launch
from prep.engine import child

def stop(signum, frame):
    if sys.argv[2] == "polite":
        Path(sys.argv[1], "stopped" + launch.os.environ["RANK"]).touch()
        sys.exit(0)

if not launch.is_launched():
    sys.exit(launch.relaunch(2))
child.GRACE = 1.0
signal.signal(signal.SIGTERM, stop)
child.stop_with_parent()
Path(sys.argv[1], "started" + launch.os.environ["RANK"]).write_text(str(launch.os.getpid()))
while True:
    time.sleep(0.1)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("victim", ["launcher", "torchrun"])
@pytest.mark.parametrize("manners", ["polite", "deaf"])
def test_the_processes_end_when_their_launcher_is_killed(
    tmp_path: Path, repository: Path, victim: str, manners: str
) -> None:
    script = tmp_path / "script.py"
    script.write_text(WORKER)
    environment = os.environ | {"PYTHONPATH": str(repository)}
    launcher = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), manners], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: len(list(tmp_path.glob("started*"))) == 2, 120)
        workers = [int(path.read_text()) for path in tmp_path.glob("started*")]
        os.kill(launcher.pid if victim == "launcher" else parent_of(workers[0]), signal.SIGKILL)
        launcher.wait(60)
        wait_until(lambda: not any(map(is_running, workers)), 60)
    finally:
        launcher.kill()
    assert len(list(tmp_path.glob("stopped*"))) == (2 if manners == "polite" else 0)


def wait_until(reached: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.1)


def is_running(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_run_writes_down_no_credentials() -> None:
    written = TrainConfig(store="s3://key:secret@bucket/a").as_dict()
    assert written["store"] == "s3://bucket/a"

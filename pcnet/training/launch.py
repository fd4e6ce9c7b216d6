"""Runs the current command again under torchrun as several processes, one per GPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType

from prep.engine.signals import handled_by

WATCH = "PCNET_WATCH_STDIN"  # set for processes whose standard input ends when their launcher does
GRACE = 60.0  # seconds from the launcher's end in which a process can write its checkpoint


def is_launched() -> bool:
    """Whether this process was started by torchrun."""
    return "WORLD_SIZE" in os.environ


def is_lead() -> bool:
    """Whether this process is the one that prints: rank 0, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def command(processes: int, arguments: Sequence[str]) -> list[str]:
    """The command that runs ``arguments`` (a Python script and its options) as ``processes`` processes on
    this machine. ``-P``: a ``torch.py`` of the current folder is not imported.
    """
    torchrun = [sys.executable, "-P", "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, f"--nproc-per-node={processes}", *arguments]


def relaunch(processes: int) -> int:
    """Run this program's own command line as ``processes`` processes; return the exit code.

    If one of them fails, the others are stopped, and the same command resumes the run. SIGTERM is forwarded
    to them. On SIGINT this process waits for them: a terminal sends that signal to all. If this process ends
    in any way, SIGKILL included, so does the pipe that is their standard input, and they stop
    (:func:`stop_with_launcher`).
    """
    process = subprocess.Popen(
        command(processes, sys.argv), stdin=subprocess.PIPE, env=os.environ | {WATCH: "1"}
    )

    def pass_on(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGTERM:
            process.send_signal(signum)

    with handled_by(pass_on):
        return process.wait()


def stop_with_launcher() -> None:
    """If :func:`relaunch` started this process, stop it when the launcher ends.

    It receives SIGTERM, which ends training with a checkpoint, and is ended after :data:`GRACE`.
    """
    if WATCH in os.environ:
        threading.Thread(target=_wait_for_end, name="launcher", daemon=True).start()


def _wait_for_end() -> None:
    while os.read(0, 1024):
        pass  # nothing is written
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(128 + signal.SIGTERM)

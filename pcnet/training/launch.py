"""Runs the present command again as several processes, one a GPU, under torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from prep.engine.signals import handled_by


def is_launched() -> bool:
    """Whether this process is one of several already (torchrun has set its rank)."""
    return "WORLD_SIZE" in os.environ


def is_lead() -> bool:
    """Whether this process is the one that talks: the first of several, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def command(processes: int, arguments: Sequence[str]) -> list[str]:
    """``arguments`` (a Python script and its flags) as ``processes`` processes of this machine."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, f"--nproc-per-node={processes}", *arguments]


def relaunch(processes: int) -> int:
    """Run this program's own command line as ``processes`` processes; its exit code.

    If one of them fails the others are stopped, and the run can be taken up again by the same command. They
    outlive no SIGTERM of this process, and on SIGINT it waits for them: a terminal sends that to all.
    """
    process = subprocess.Popen(command(processes, sys.argv))

    def pass_on(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGTERM:
            process.send_signal(signum)

    with handled_by(pass_on):
        return process.wait()

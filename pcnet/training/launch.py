"""Runs the current command again under torchrun as several processes, one per GPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from prep.engine.child import run_child


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

    If one of them fails, the others are stopped, and the same command resumes the run.
    """
    return run_child(command(processes, sys.argv))

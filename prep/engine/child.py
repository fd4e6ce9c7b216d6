"""Runs a command as a child process that receives our signals and ends when we do."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from types import FrameType

from prep.engine.signals import handled_by

WATCH = "PCNET_WATCH_STDIN"  # set for processes whose standard input ends when their parent does
GRACE = 60.0  # seconds from the parent's end in which a process can write its checkpoint


def run_child(command: Sequence[str]) -> int:
    """Run ``command``; return its exit code, 128 + N if signal N ended it.

    SIGTERM is forwarded to it. On SIGINT this process waits for it: a terminal sends that signal to both. If
    this process ends in any way, SIGKILL included, so does the pipe that is the child's standard input, and
    the child stops if it has called :func:`stop_with_parent`.
    """
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ | {WATCH: "1"})

    def pass_on(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGTERM:
            process.send_signal(signum)

    with handled_by(pass_on):
        code = process.wait()
    return code if code >= 0 else 128 - code


def stop_with_parent() -> None:
    """If :func:`run_child` started this process, stop it when its parent ends.

    It receives SIGTERM, which ends training with a checkpoint, and is ended after :data:`GRACE`.
    """
    if WATCH in os.environ:
        threading.Thread(target=_wait_for_end, name="parent", daemon=True).start()


def _wait_for_end() -> None:
    while os.read(0, 1024):
        pass  # nothing is written
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(128 + signal.SIGTERM)

"""SIGINT and SIGTERM, heeded between steps: a run that is asked to stop leaves a checkpoint of then."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from prep.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Asked:
    """Which signal has asked to stop; 0 while none has."""

    signum: int = 0

    def note(self, signum: int, frame: FrameType | None) -> None:
        """The signal handler. The first one counts: a launcher that is stopped too sends its own after it."""
        self.signum = self.signum or signum


@contextlib.contextmanager
def heeding() -> Iterator[Asked]:
    """Note SIGINT and SIGTERM in here, if this is the main thread, and restore their handlers after."""
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # signals go to the main thread, whose business they are
        return
    before = {number: signal.signal(number, asked.note) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopped(signum: int, step: int, total: int, checkpoint: Path) -> Interrupted:
    """The error to end a run with that has written ``checkpoint`` after ``step``."""
    # Where another process of the run was asked and this one was not, it ends as if by SIGTERM.
    number = signal.Signals(signum or signal.SIGTERM)
    error = Interrupted(
        f"Stopped by {number.name} after step {step:,} of {total:,}, which {checkpoint} holds.",
        "Run the same command again to go on from there.",
    )
    error.signum = number
    return error

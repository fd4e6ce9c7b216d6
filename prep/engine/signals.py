"""Handles SIGINT and SIGTERM during a run, and defines the error of an interrupted run."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from prep.errors import Interrupted

# A launcher or a tool such as make passes on the signal that the terminal has sent to all its processes.
AGAIN_SECONDS = 1.0


class Stop(BaseException):
    """Raised by a signal. Not an ``Exception``: a stage that turns exceptions into rows must not catch it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Stoppable:
    """Turns SIGINT and SIGTERM into :class:`Stop`: at once or, during a commit, right after it.

    ``signum`` is the first signal that was received and not raised; 0 if there was none. ``said`` is printed
    when a signal has to wait; a second one, a second later or more, ends the process at once.
    """

    def __init__(self, said: str = "Stopping after the rows that are being written.") -> None:
        self._deferred = 0
        self._said, self._since = said, 0.0
        self.signum = 0

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """The signal handler. The first one counts: a launcher that is stopped too sends its own after it."""
        if not self._deferred:
            raise Stop(signum)
        now = time.monotonic()
        if not self.signum:
            self.signum, self._since = signum, now
            _tell(f"{self._said} Again: stop at once.")
        elif now - self._since > AGAIN_SECONDS and "WORLD_SIZE" not in os.environ:  # torchrun repeats signals
            _tell("Stopped at once: what was finished before is kept.")
            os._exit(128 + signum)

    def ignore(self) -> None:
        """Ignore further signals: the run is stopping, or the caller reads ``signum``."""
        self._deferred += 1

    @contextlib.contextmanager
    def later(self) -> Iterator[None]:
        """A block that is completed before a signal takes effect."""
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1
        if self.signum and not self._deferred:
            signum, self.signum = self.signum, 0
            raise Stop(signum)


@contextlib.contextmanager
def stoppable(later: str = "") -> Iterator[Stoppable]:
    """Raise :class:`Stop` on SIGINT and SIGTERM in this block.

    With ``later``, they are only recorded in ``signum``: it says what is finished first.
    """
    stop = Stoppable(later) if later else Stoppable()
    if later:
        stop.ignore()
    with handled_by(stop.handle):
        yield stop


def _tell(line: str) -> None:
    """Print from a signal handler: not through ``sys.stderr``, in which the program may just be writing."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())


@contextlib.contextmanager
def handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Use ``handler`` for SIGINT and SIGTERM in this block, in the main thread only; restore the previous
    one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can handle signals
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, its_handler in before.items():
            signal.signal(number, its_handler)


def interrupted(signum: int, kept: str) -> Interrupted:
    """The error to end a stopped run with, after all finished work is written; ``kept`` says where."""
    error = Interrupted(
        f"Stopped by {signal.Signals(signum).name}: {kept}.",
        "Run the same command again to resume.",
    )
    error.signum = signum
    return error

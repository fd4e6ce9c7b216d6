"""SIGINT and SIGTERM in a run's own hands, and the error that a run ends with that was asked to stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from prep.errors import Interrupted


class Stop(BaseException):
    """Raised by a signal. No ``Exception``: a stage that makes rows of those must not swallow it."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class Stoppable:
    """Turns SIGINT and SIGTERM into :class:`Stop`: at once or, while rows are committed, right after.

    ``signum`` is the first signal that has come and was not raised; 0 while there is none.
    """

    def __init__(self) -> None:
        self._deferred = 0
        self.signum = 0

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """The signal handler. The first one counts: a launcher that is stopped too sends its own after it."""
        if self._deferred:
            self.signum = self.signum or signum
        else:
            raise Stop(signum)

    def ignore(self) -> None:
        """From here on no signal raises: we are stopping, or look at ``signum`` ourselves."""
        self._deferred += 1

    @contextlib.contextmanager
    def later(self) -> Iterator[None]:
        """What happens in here is finished before a signal is heeded."""
        self._deferred += 1
        try:
            yield
        finally:
            self._deferred -= 1
        if self.signum and not self._deferred:
            signum, self.signum = self.signum, 0
            raise Stop(signum)


@contextlib.contextmanager
def stoppable(*, raising: bool = True) -> Iterator[Stoppable]:
    """Heed SIGINT and SIGTERM in here by :class:`Stop`, or only note them for who looks between steps."""
    stop = Stoppable()
    if not raising:
        stop.ignore()
    with handled_by(stop.handle):
        yield stop


@contextlib.contextmanager
def handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """SIGINT and SIGTERM go to ``handler`` in here, if this is the main thread, and after to who had them."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals go to the main thread, whose business they are
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, its_handler in before.items():
            signal.signal(number, its_handler)


def interrupted(signum: int, kept: str) -> Interrupted:
    """The error to end a stopped run with, once all that is finished is written; ``kept`` says where."""
    error = Interrupted(
        f"Stopped by {signal.Signals(signum).name}: {kept}.",
        "Run the same command again to go on from there.",
    )
    error.signum = signum
    return error

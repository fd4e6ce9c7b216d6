"""Limits on what one hostile input may cost: processor time and memory, whatever else the machine does."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType


class TakesTooLong(BaseException):
    """The limit of processor time is passed. Code that survives every Exception does not survive this."""


@contextlib.contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """No more than ``more`` bytes of addresses beyond those that the process has now."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextlib.contextmanager
def limited(seconds: float = 20.0, more: int = 1 << 30) -> Iterator[None]:
    """A block, or as a decorator each call of a function: of a test with ``@given``, each of its examples.

    ``seconds`` are of this process's own time: on a busy machine an input does not take more of them.
    """

    def too_long(number: int, frame: FrameType | None) -> None:
        raise TakesTooLong(f"one input takes more than {seconds:g} s of processor time")

    before = signal.signal(signal.SIGVTALRM, too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        with limited_memory(more):
            yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)

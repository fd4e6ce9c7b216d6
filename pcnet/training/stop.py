"""Handles SIGINT and SIGTERM between steps, so that a stopped run first writes a checkpoint."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import FrameType

from prep.engine.signals import handled_by


class Asked:
    """The signal that requested a stop; 0 if there was none."""

    signum: int = 0

    def note(self, signum: int, frame: FrameType | None) -> None:
        """The signal handler. Only the first signal is kept: a launcher that is stopped too sends a second
        one.
        """
        self.signum = self.signum or signum


@contextlib.contextmanager
def heeding() -> Iterator[Asked]:
    """Record SIGINT and SIGTERM while in this context."""
    asked = Asked()
    with handled_by(asked.note):
        yield asked

"""SIGINT and SIGTERM, heeded between steps: a run that is asked to stop leaves a checkpoint of then."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import FrameType

from prep.engine.signals import handled_by


class Asked:
    """Which signal has asked to stop; 0 while none has."""

    signum: int = 0

    def note(self, signum: int, frame: FrameType | None) -> None:
        """The signal handler. The first one counts: a launcher that is stopped too sends its own after it."""
        self.signum = self.signum or signum


@contextlib.contextmanager
def heeding() -> Iterator[Asked]:
    """Note SIGINT and SIGTERM in here."""
    asked = Asked()
    with handled_by(asked.note):
        yield asked

"""A progress bar with rate and time left: on a terminal only, and on standard error; times in words."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Bar:
    """Where a run reports how far it is. This one shows nothing."""

    def update(self, done: int, reused: int = 0, note: str = "") -> None:
        """``done`` rows or steps were made by this run, ``reused`` were there before; ``note`` is shown."""


class _RichBar(Bar):
    def __init__(self, display: Any, task: Any) -> None:
        self._display, self._task = display, task
        self._started = time.monotonic()

    def update(self, done: int, reused: int = 0, note: str = "") -> None:
        seconds = time.monotonic() - self._started
        rate = f"{done / seconds:,.1f}/s" if seconds > 0 else ""
        self._display.update(self._task, completed=done + reused, rate=f"{note}  {rate}".strip())


@contextmanager
def progress(label: str, total: int | None = None, *, quiet: bool = False) -> Iterator[Bar]:
    """A bar for ``total`` rows (``None``: not known); none if ``quiet`` or standard error is no terminal."""
    if quiet or not sys.stderr.isatty():
        yield Bar()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=False) as display:
        yield _RichBar(display, display.add_task(label, total=total, rate=""))


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"

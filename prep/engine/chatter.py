"""Sends what a library and its processes print to a log file."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from prep.display import is_verbose
from prep.files import appending


def log_file(store: str, name: str) -> Path | None:
    """The log file of a library in a store; None for a store that is not in a local folder."""
    return None if "://" in store else Path(store).expanduser().absolute() / "logs" / f"{name}.log"


@contextlib.contextmanager
def chatter_to(log: Path | None) -> Iterator[Path | None]:
    """Append standard output and error in this block to ``log``; processes started in it keep doing so.

    Yields the file, or None, with nothing changed, if there is none, it cannot be written, or --verbose asks
    to see the output.
    """
    try:
        if log is None or is_verbose():
            raise OSError
        log.parent.mkdir(parents=True, exist_ok=True)
        opened = appending(log)
    except OSError:
        yield None
        return
    before = [os.dup(1), os.dup(2)]
    try:
        _redirect([opened.fileno(), opened.fileno()])
        yield log
    finally:
        _redirect(before)
        opened.close()
        for descriptor in before:
            os.close(descriptor)


def _redirect(descriptors: list[int]) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for number, descriptor in enumerate(descriptors, 1):
        os.dup2(descriptor, number)

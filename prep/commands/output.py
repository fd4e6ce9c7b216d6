"""Prints the result of a command, as one JSON value or as lines of text."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from pathlib import Path

from prep.display import shown, without_secrets


def emit(value: object, lines: Iterable[str], as_json: bool) -> None:
    """Print ``value`` as JSON (dataclasses as objects, paths as strings), or else ``lines``.

    ``lines`` is not consumed if it is not printed.
    """
    if as_json:
        print(without_secrets(json.dumps(value, default=_plain)), flush=True)
        return
    for line in lines:
        say(line)


def say(line: str, *, to_stderr: bool = False) -> None:
    """Print a line, safe to show, at once, so that it stays in order with the output of other processes."""
    print(shown(line), file=sys.stderr if to_stderr else sys.stdout, flush=True)


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value.")

"""Prints the result of a command, as one JSON value or as lines of text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any


def emit(value: Any, lines: Iterable[str], as_json: bool) -> None:
    """Print ``value`` as JSON (dataclasses as objects, paths as strings), or else ``lines``.

    ``lines`` is not consumed if it is not printed.
    """
    if as_json:
        print(json.dumps(value, default=_plain), flush=True)
        return
    for line in lines:
        print(line, flush=True)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value.")

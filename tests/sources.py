"""The syntax trees of source files, each parsed once in a process: several tests walk through all of them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path


@cache
def parsed(path: Path) -> ast.Module:
    """The syntax tree of a file, which the tests only read."""
    return ast.parse(path.read_text(encoding="utf-8"))

"""Pages that say which test shows what name tests that exist, each in the file it is said to be in."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMED = re.compile(r"`(tests/[\w/]+\.py|test_\w+)`")


def names_in(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def missing(text: str, every: set[str], strict: bool) -> list[str]:
    """The files and tests of a page that are not there; ``strict``: a test belongs to the file before it."""
    found, there = [], set(every)
    for name in NAMED.findall(text):
        if not name.endswith(".py"):
            found += [] if name in there else [name]
        elif not (ROOT / name).is_file():
            found.append(name)
        elif strict:
            there = names_in(ROOT / name)
    return found


@pytest.fixture(scope="module")
def every() -> set[str]:
    return set().union(*(names_in(path) for path in (ROOT / "tests").rglob("test_*.py")))


@pytest.mark.parametrize("page", ["testing.md", "security.md"])
def test_every_test_that_a_page_names_is_there(page: str, every: set[str]) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert len(NAMED.findall(text)) > 20
    assert missing(text, every, strict=page == "testing.md") == []


def test_a_name_that_is_not_there_is_found(every: set[str]) -> None:
    text = "`tests/test_named_tests.py`: `test_a_name_that_is_not_there_is_found`, `test_of_nothing`"
    assert missing(text, every, strict=True) == ["test_of_nothing"]
    assert missing("`tests/gone.py`", every, strict=False) == ["tests/gone.py"]
    moved = "`tests/test_readme.py`: `test_a_name_that_is_not_there_is_found`"
    assert missing(moved, every, strict=True) == ["test_a_name_that_is_not_there_is_found"]
    assert missing(moved, every, strict=False) == []

"""What a command prints: JSON with paths and dataclasses in it, or lines that are made only when printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from prep.commands.output import emit


@dataclass
class Inner:
    folder: Path
    counts: dict[str, int]


@dataclass
class Outer:
    name: str
    inner: list[Inner]


def unwanted() -> Iterator[str]:
    raise AssertionError("lines are made though JSON is printed")
    yield ""


def test_a_value_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"page": Path("a/b"), "found": [Outer("x", [Inner(Path("c"), {"n": 1})])]}, unwanted(), True)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    found = [{"name": "x", "inner": [{"folder": "c", "counts": {"n": 1}}]}]
    assert json.loads(out) == {"page": "a/b", "found": found}


def test_lines_are_printed_in_place_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    emit({"a": 1}, (f"line {n}" for n in range(2)), False)
    assert capsys.readouterr().out == "line 0\nline 1\n"


def test_what_json_has_no_word_for_is_refused() -> None:
    with pytest.raises(TypeError, match="set is not a JSON value"):
        emit({1}, [], True)

"""Texts that look broken, and texts that do not."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep.audit.texts import broken, parts_of, problems_of
from prep.records import Expression


def row(text: str, problem: str = "") -> Expression:
    return Expression(text, "d", "", "train", 1, 1, 1, "a.jpg", text, problem)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("cafÃ© table", "encoding"),
        ("the manâ€™s hat", "encoding"),
        ("a \ufffd cup", "encoding"),
        ("<div class=x>the man</div>", "markup"),
        ("the man &nbsp; left", "markup"),
        ("see https://example.org", "markup"),
        ("the [INST] man", "markup"),
        ("left\u200bman", "invisible"),
        ("left\x07man", "invisible"),
        ("33", "no letters"),
        ("左边的人", "script"),
        ("pizzzza", "repeated"),
    ],
)
def test_kinds(text: str, kind: str) -> None:
    assert [one.partition(":")[0] for one in problems_of(row(text))] == [kind]


@pytest.mark.parametrize(
    "text", ["café table", "naïve man", "the man's hat", "bottom-left", "x2 dogs", "a < b"]
)
def test_good_texts(text: str) -> None:
    assert list(problems_of(row(text))) == []
    assert broken([row(text)] * 3) == {}


def test_unusable_rows_are_told_by_their_reason() -> None:
    assert list(broken([row("", "the expression is empty")])) == ["unusable: the expression is empty"]


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("guyin", ("guy", "in")),
        ("theleft", ("the", "left")),
        ("manon", ("man", "on")),
        ("woman", None),
        ("in", None),
    ],
)
def test_joined_words(word: str, parts: tuple[str, str] | None) -> None:
    counts = Counter({"guy": 5, "left": 5, "man": 5, "wo": 5, word: 1})
    assert parts_of(word, counts) == parts


def test_a_word_that_is_used_often_is_a_word() -> None:
    assert not [kind for kind in broken([row("guyin"), row("guy")] * 3) if kind.startswith("joined")]


@given(st.text())
def test_any_text(text: str) -> None:
    own = row(text)
    assert all(rows == [own] for rows in broken([own]).values())


def test_real_expressions_have_few_and_true_ones(shared: Path) -> None:
    """Of the 29 that are told in 20,970 real expressions, two are words: invisible and incoming."""
    lines = (shared / "data" / "expressions.jsonl").read_text(encoding="utf-8").splitlines()
    found = broken(row(json.loads(line)["sent"]) for line in lines)
    joined = {kind for kind in found if kind.startswith("joined: ")}
    assert len(joined) == 29
    assert "joined: left guy" in joined

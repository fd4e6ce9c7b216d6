"""Relations by the grammar of the rules: the cases of Zeroshot_REC's format, and any phrase."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep.phrases import decompose
from prep.phrases.relations import triplets_of


@pytest.mark.parametrize(
    ("text", "entity", "relations"),
    [
        ("the man in a red shirt", "the man", [["in", "a red shirt"]]),
        ("woman holding a baby", "the woman", [["holding", "a baby"]]),
        ("the red car next to the bus", "the red car", [["next to", "the bus"]]),
        ("man on the left", "the man", [["on the left", ""]]),
        ("dog", "the dog", [["", ""]]),
        ("a blurry and silver car", "the blurry and silver car", [["", ""]]),
    ],
)
def test_relations_of_expressions(text: str, entity: str, relations: list[list[str]]) -> None:
    found = triplets_of(decompose(text).phrases)
    assert found["entity"] == entity
    assert found["relations"] == [[entity, *pair] for pair in relations]


@given(st.lists(st.text(max_size=60), min_size=1, max_size=5))
def test_any_phrases_give_triplets(phrases: list[str]) -> None:
    found = triplets_of(phrases)
    assert found["relations"]
    assert all(len(one) == 3 and one[0] == found["entity"] for one in found["relations"])


def test_relations_of_real_expressions_are_said_in_them(shared: Path) -> None:
    lines = (shared / "data" / "expressions.jsonl").read_text().splitlines()[::40]
    related = 0
    for line in lines:
        text = json.loads(line)["sent"]
        phrases = decompose(text).phrases
        if not phrases:
            continue
        found = triplets_of(phrases)
        said = " ".join(phrases)
        for _, predicate, thing in found["relations"]:
            # The rules put "in" or "with" before clothing and the like.
            assert predicate in ("in", "with") or all(word in said for word in predicate.split())
            assert all(word in said for word in thing.split())
            related += bool(thing)
    assert related > len(lines) // 10

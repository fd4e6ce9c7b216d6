"""Which lines name the target, by words and their order."""

from __future__ import annotations

import pytest

from prep.phrases.target import named_at, starts_with


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("the red kite above the pier", "the kite"),
        ("a jug of milk near the plate", "jug of milk"),
        ("a jug of milk near the plate", "the jug"),
        ("baby seal", "the baby seal"),
        ("stone bridge left", "the stone bridge"),
        ("number 7", "number 7"),
        ("man yellow vest", "the man"),
        ("back of the bench", "the back of the bench"),
        ("two monks", "the monk"),
    ],
)
def test_a_noun_phrase_before_the_first_relation_names_the_target(text: str, line: str) -> None:
    assert named_at(text, line)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("the red kite above the pier", "the pier"),
        ("the red kite above the pier", "the red kite"),
        ("the red kite above the pier", "the kites above"),
        ("the red kite above the pier", "the boat"),
        ("hand of a monk holding a bowl", "the monk"),
        ("goat reflection", "the goat"),
        ("old monk", "the old monk"),
        ("flying kite", "the flying kite"),
        ("in front of the hut", "the hut"),
        ("not the monk", "the monk"),
        ("jug of milk", "the jug of"),
        ("", "the jug"),
        ("the jug", ""),
    ],
)
def test_anything_else_does_not(text: str, line: str) -> None:
    assert named_at(text, line) == ()


def test_a_phrase_starts_with_what_it_is_about() -> None:
    seal = frozenset({"seal"})
    assert starts_with("the small baby seal near the ice", seal)
    assert not starts_with("the ice near the seal", seal)

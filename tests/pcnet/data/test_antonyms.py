"""Directions turned round: the words that are, those that are not, and that twice is not at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcnet.data.antonyms import opposite

WORDS = {"left", "right", "top", "bottom", "above", "below", "over", "under", "front", "back", "behind"}


@pytest.mark.parametrize(
    ("text", "turned"),
    [
        ("the circle left of the blue square", "the circle right of the blue square"),
        ("Leftmost star", "rightmost star"),
        ("man in front of the car", "man behind the car"),
        ("top left one", "bottom right one"),
        ("right of the left one", "left of the right one"),
        ("the front wheel, lower one", "the back wheel, upper one"),
    ],
)
def test_every_direction_of_a_text_is_turned(text: str, turned: str) -> None:
    assert opposite(text) == turned


@pytest.mark.parametrize("text", ["", "the red circle", "bright copyright stopper", "the one closest to it"])
def test_a_text_without_directions_stays(text: str) -> None:
    assert opposite(text) == text


@given(st.lists(st.sampled_from([*WORDS, "the", "man", ",", "of", "red", "on"])))
def test_twice_gives_the_text_back(words: list[str]) -> None:
    text = " ".join(words)
    assert opposite(opposite(text)) == text
    assert (opposite(text) != text) == bool(WORDS & set(words))


@given(st.text(st.characters() | st.sampled_from("rRiIgGhHtTbBaAcCkK \u0131\u0130\u212a")))
def test_any_text_has_an_opposite(text: str) -> None:
    assert opposite(opposite(text)).lower() == text.lower()

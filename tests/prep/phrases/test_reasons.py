"""What the second turn says about an answer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prep.phrases.checks import CHECKS
from prep.phrases.reasons import HEAD, TAIL, second_turn
from tests.prep.phrases import test_checks
from tests.prep.phrases.test_checks import GOOD, TEXT

FAULTS = test_checks.test_each_fault_has_its_name.pytestmark[0].args[1]


@pytest.mark.parametrize(("name", "text", "phrases"), FAULTS)
def test_every_check_that_fails_is_put_into_words(name: str, text: str, phrases: tuple[str, ...]) -> None:
    told = second_turn(text, "\n".join(phrases)).splitlines()
    assert (told[0], told[-1]) == (HEAD, TAIL)
    if len(set(map(str.lower, phrases))) == len(phrases) and "..." not in phrases:  # what the parser mends
        assert len(told) > 2


def test_a_line_is_quoted_with_what_is_wrong_with_it() -> None:
    told = second_turn(TEXT, "\n".join((*GOOD[:2], "the red jackets", "the tall men without hats")))
    assert '- "the red jackets" is about something else.' in told
    assert '- Not in the expression: "tall".' in told
    assert '- No line has: "on"' not in told
    assert '"left"' in told.splitlines()[-2]


def test_the_rules_target_is_not_told() -> None:
    assert '"men"' not in second_turn(TEXT, "the two men in red jackets\nthe hats").replace("No line has", "")


def test_an_answer_without_phrases_is_asked_for_some() -> None:
    assert "- Give one to five phrases." in second_turn(TEXT, "")
    assert set(CHECKS) == {name for name, *_ in FAULTS}


@settings(deadline=None)
@given(st.text(max_size=120), st.text(max_size=400))
def test_a_turn_is_bounded_and_quotes_nothing_that_ends_its_quotation(text: str, raw: str) -> None:
    told = second_turn(text, raw)
    assert len(told) < 1000
    assert not set("[]{}<>|") & set(told)

"""The parser reads what real models write, in every form, and never raises."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prep.phrases.parse import MAX_CHARS, MAX_PHRASES, MAX_WORDS, parse
from tests.limits import limited

WANTED = ["the dog", "the brown dog", "the dog under the bench"]

ANSWERS = {
    "plain lines": "the dog\nthe brown dog\nthe dog under the bench",
    "windows line ends": "the dog\r\nthe brown dog\r\nthe dog under the bench\r\n",
    "leading blank and end token": " the dog\nthe brown dog\nthe dog under the bench</s>",
    "blank lines between": "the dog\n\nthe brown dog\n\nthe dog under the bench\n",
    "numbered": "1. The dog.\n2. The brown dog.\n3. The dog under the bench.",
    "numbered with brackets": "1) the dog\n2) the brown dog\n3) the dog under the bench",
    "numbers in brackets": "(1) the dog\n(2) the brown dog\n(3) the dog under the bench",
    "labelled": "Phrase 1: the dog\nPhrase 2: the brown dog\nPhrase 3: the dog under the bench",
    "dashes": "- the dog\n- the brown dog\n- the dog under the bench",
    "stars": "* the dog\n* the brown dog\n* the dog under the bench",
    "bullets": "• the dog\n• the brown dog\n• the dog under the bench",
    "lettered": "a) the dog\nb) the brown dog\nc) the dog under the bench",
    "numbered on one line": "1. the dog 2. the brown dog 3. the dog under the bench",
    "bold numbers": "**1.** the dog\n**2.** the brown dog\n**3.** the dog under the bench",
    "bold phrases": "1. **the dog**\n2. **the brown dog**\n3. **the dog under the bench**",
    "quoted": '"the dog"\n"the brown dog"\n"the dog under the bench"',
    "quoted with commas": '"the dog",\n"the brown dog",\n"the dog under the bench"',
    "curly quotes": "1. “the dog”\n2. “the brown dog”\n3. “the dog under the bench”",
    "back ticks": "`the dog`\n`the brown dog`\n`the dog under the bench`",
    "preamble": "Sure! Here are the phrases:\n\nthe dog\nthe brown dog\nthe dog under the bench",
    "preamble without a colon": "Certainly!\n1. the dog\n2. the brown dog\n3. the dog under the bench",
    "label on the first line": "Phrases: the dog\nthe brown dog\nthe dog under the bench",
    "remark behind": "1. the dog\n2. the brown dog\n3. the dog under the bench\n\nNote: no cue was left out.",
    "prose around a list": (
        "The target is a dog.\n\n- the dog\n- the brown dog\n- the dog under the bench\n\nEach has one cue."
    ),
    "fence": "```\nthe dog\nthe brown dog\nthe dog under the bench\n```",
    "fence with a language": "```text\nthe dog\nthe brown dog\nthe dog under the bench\n```",
    "JSON list": '["the dog", "the brown dog", "the dog under the bench"]',
    "JSON list on lines": '[\n  "the dog",\n  "the brown dog",\n  "the dog under the bench"\n]',
    "JSON object": '{"phrases": ["the dog", "the brown dog", "the dog under the bench"]}',
    "JSON of objects": '[{"p": "the dog"}, {"p": "the brown dog"}, {"p": "the dog under the bench"}]',
    "JSON list of lists": '[["the dog", "the brown dog"], ["the dog under the bench"]]',
    "JSON in a fence": '```json\n["the dog", "the brown dog", "the dog under the bench"]\n```',
    "JSON behind a preamble": 'Here you go: ["the dog", "the brown dog", "the dog under the bench"]',
    "JSON cut off": '["the dog", "the brown dog", "the dog under the bench", "the dog wi',
    "JSON object cut off": '{"phrases": ["the dog", "the brown dog", "the dog under the bench"',
    "repeats": "the dog\nthe brown dog\nThe brown dog.\nthe dog\nthe dog under the bench\nthe brown dog",
    "cut off": "the dog\nthe brown dog\nthe dog under the bench\nthe dog with a",
    "runs on into the next question": (
        'the dog\nthe brown dog\nthe dog under the bench\n\nExpression: "a red bus"\nthe bus\nthe red bus'
    ),
    "semicolons": "the dog; the brown dog; the dog under the bench",
    "chat template left over": "the dog\nthe brown dog\nthe dog under the bench<|im_end|>\n<|im_start|>",
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_every_form_of_answer_is_read(answer: str) -> None:
    assert parse(answer) == WANTED


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "\n \n",
        "```\n```",
        "1.\n2.\n3.",
        "Sure!",
        "[]",
        "{}",
        '{"phrases": []}',
        '{"phrases": [1, 2]}',
        '{"a": 1}',
        'Answer: {"phrases": null}',
        "null:",
        "***",
        "I'm sorry, I cannot do that.",
    ],
)
def test_an_answer_without_phrases_gives_none(answer: str) -> None:
    assert parse(answer) == []


def test_strings_are_taken_from_json_down_to_a_depth() -> None:
    """A list of lists of an answer is read; one that is nested without end is not followed."""
    for depth, taken in [(1, True), (5, True), (6, True), (7, False)]:
        assert parse("[" * depth + '"the dog"' + "]" * depth) == (["the dog"] if taken else []), depth
    for depth, taken in [(1, True), (6, True), (7, False), (30, False)]:
        text = '{"a": ' * depth + '"the dog"' + "}" * depth
        assert parse(text) == (["the dog"] if taken else []), depth


def test_numbers_that_begin_a_phrase_stay() -> None:
    assert parse("the bus\n2 red buses\nthe bus 47") == ["the bus", "2 red buses", "the bus 47"]


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        ("the", ["the"]),  # the only phrase stays, however it ends
        ("a dog with the\nthe", ["a dog with the"]),
        ("the dog\nthe dog with a\nof the", ["the dog"]),
        # One marked line among others is a phrase like them; two are a list, and the rest a remark.
        ("the dog\n- the brown dog", ["the dog", "the brown dog"]),
        ("There is one dog here\n- the dog\n- the brown dog", ["the dog", "the brown dog"]),
    ],
)
def test_what_decides_between_phrases_and_remarks(raw: str, wanted: list[str]) -> None:
    assert parse(raw) == wanted


def test_bounds_are_met_exactly() -> None:
    line = " ".join(f"w{number}" for number in range(MAX_WORDS))
    assert parse(f"the dog\n{line}\n{line} more") == ["the dog", line]
    for last, wanted in (("the dog", ["the cat", "the dog"]), ("the dogs", ["the cat", "the dog"])):
        blank = "\n" * (MAX_CHARS - len("the cat\nthe dog"))
        assert parse(f"the cat\n{blank}{last}") == wanted
    numbered = [f"the dog {number}" for number in range(MAX_PHRASES + 1)]
    assert parse("\n".join(numbered)) == numbered[:MAX_PHRASES]


# A form of answer with a stretch of it replaced by anything.
damaged = st.tuples(st.sampled_from(list(ANSWERS.values())), st.text(max_size=8), st.integers(0, 90)).map(
    lambda parts: parts[0][: parts[2]] + parts[1] + parts[0][parts[2] + 3 :]
)


@settings(deadline=None, max_examples=int(os.environ.get("FUZZ_EXAMPLES", "200")))
@given(st.one_of(st.text(), st.text(alphabet='-*1.2) "[]{}:,\\`\nabthe<|>/#'), damaged))
@limited()
def test_nothing_but_clean_phrases_comes_out_of_any_answer(raw: str) -> None:
    phrases = parse(raw)
    assert len(phrases) == len(set(phrases)) <= MAX_PHRASES
    for phrase in phrases:
        assert phrase == " ".join(phrase.split())
        assert any(c.isalnum() for c in phrase)
        assert len(phrase.split()) <= MAX_WORDS


@settings(deadline=None)
@given(
    st.lists(
        # No word of these letters is one that a truncated answer ends with, such as "who".
        st.from_regex(r"the [bcdfgjkm]{3,9} (red|left|big) [bcdfgjkm]{3,9}", fullmatch=True),
        min_size=1,
        max_size=5,
        unique=True,
    )
)
def test_a_list_survives_any_common_form(phrases: list[str]) -> None:
    for form in (
        "\n".join(phrases),
        "\n".join(f"{i}. {phrase}." for i, phrase in enumerate(phrases, 1)),
        "Sure! Here they are:\n" + "\n".join(f"- **{phrase}**" for phrase in phrases),
        json.dumps(phrases),
        f"```json\n{json.dumps({'phrases': phrases}, indent=2)}\n```",
    ):
        assert parse(form) == phrases


def test_real_answers_of_real_models(shared: Path) -> None:
    lines = (shared / "data" / "llm_outputs.jsonl").read_text(encoding="utf-8").splitlines()
    outputs = [json.loads(line) for line in lines]
    assert len(outputs) > 1000
    listed = [row for row in outputs if row["output"].count("\n1. ") == 1 and "```" not in row["output"]]
    assert len(listed) > 100
    for row in outputs:
        for phrase in parse(row["output"]):
            assert not phrase.startswith(("- ", "* ", "1. ", "```"))
            assert "**" not in phrase
    # Where there is one numbered list among prose, the answer is the list.
    found = sum(bool(parse(row["output"])) for row in listed)
    assert found / len(listed) > 0.6

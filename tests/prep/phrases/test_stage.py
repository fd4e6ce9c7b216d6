"""The rules as a stage: one row for every expression, equal whatever the units."""

from __future__ import annotations

import pickle
import subprocess
import sys

from prep.cache.keys import answer_key, fingerprint
from prep.cache.schema import PHRASES
from prep.phrases import tasks
from prep.phrases.checks import violations
from prep.phrases.rules.decompose import RULES_VERSION, break_up
from prep.phrases.stage import RulesStage, row, rules_settings
from prep.records import Expression, PhraseSet


def expression(number: int, text: str, problem: str = "") -> Expression:
    return Expression(f"id{number}", "own", "", "train", number, None, 7, "a/b.jpg", text, problem)


ITEMS = [
    expression(0, "red kettle on the left"),
    expression(1, "Red  kettle on the LEFT"),
    expression(2, ""),
    expression(3, "two boats", problem="the annotation is missing"),
    expression(4, "the"),
    expression(5, "x" * 5000),
    expression(6, "boat\0in red \U0001f6a3"),
]


def rows(stage: RulesStage, items: list[Expression]) -> list[dict]:
    stage.open()
    table = stage.process(stage.load(items))
    assert table.schema == PHRASES
    return table.to_pylist()


def test_every_expression_has_its_row() -> None:
    found = rows(RulesStage(), ITEMS)
    assert [row["row_id"] for row in found] == [item.row_id for item in ITEMS]
    assert [row["expression"] for row in found] == [item.text for item in ITEMS]
    assert [row["status"] for row in found] == ["ok", "ok", "error", "error", "ok", "ok", "ok"]
    first = found[0]
    assert first["phrases"] == list(break_up(ITEMS[0].text))
    assert (first["llm"], first["source"], first["prompt_version"], first["raw"]) == (
        "rules",
        "rules",
        None,
        None,
    )
    assert (first["image"], first["image_id"], first["ref_id"], first["split"]) == ("a/b.jpg", 7, 0, "train")
    assert found[4]["source"] == "expression"
    assert found[4]["rejected"] == [{"source": "rules", "violations": ["count"]}]


def test_an_expression_without_phrases_says_why() -> None:
    found = rows(RulesStage(), ITEMS)
    assert "empty" in found[2]["error"]
    assert found[3]["error"] == "the annotation is missing"
    assert found[2]["phrases"] == found[3]["phrases"] == []
    assert found[0]["error"] is None


def test_the_key_is_of_the_settings_and_the_normalised_text() -> None:
    found = rows(RulesStage(), ITEMS)
    assert found[0]["key"] == found[1]["key"] != found[3]["key"]
    assert found[0]["phrases"] == found[1]["phrases"]
    assert rules_settings() == {"llm": "rules", "version": RULES_VERSION}
    assert found[0]["key"] == answer_key(fingerprint(rules_settings()), ITEMS[0].text)


def test_rows_do_not_depend_on_the_units_or_the_worker() -> None:
    together = rows(RulesStage(), ITEMS)
    stage = RulesStage()
    assert [row for item in reversed(ITEMS) for row in rows(stage, [item])] == together[::-1]
    assert rows(pickle.loads(pickle.dumps(RulesStage())), ITEMS) == together


def test_an_empty_unit_has_no_rows() -> None:
    assert rows(RulesStage(), []) == []


def test_the_room_loads_no_heavy_library() -> None:
    heavy = ["torch", "ray", "vllm", "transformers", "open_clip", "pandas"]
    code = (
        "import sys, prep.phrases.stage, prep.phrases.prompt; prep.phrases.decompose('red kettle');"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_row_has_what_its_phrases_fail_and_what_was_tried_before() -> None:
    found = PhraseSet(
        ("the cup",), "repaired", ("uncovered", "place_lost"), (("llm", ("count",)), ("retry", ())), ("cut",)
    )
    made = row(expression(1, "cup"), tasks.PHRASES, found, llm="toy", prompt_version="1", key="k")
    assert (made["violations"], made["repairs"]) == (["uncovered", "place_lost"], ["cut"])
    assert made["rejected"] == [
        {"source": "llm", "violations": ["count"]},
        {"source": "retry", "violations": []},
    ]
    failed = row(
        expression(1, "cup"), tasks.PHRASES, found, llm="toy", prompt_version="1", key="k", error="why"
    )
    assert failed["violations"] == failed["repairs"] == failed["rejected"] == failed["phrases"] == []


def test_the_rules_write_down_what_their_own_phrases_fail() -> None:
    """Of a long list of words no five phrases say everything."""
    text = "red kettle " + " ".join(f"qq{letter}zz" for letter in "abcdefghijklmnopqrstuvwxyz")
    (made,) = rows(RulesStage(), [expression(1, text)])
    assert made["violations"] == list(violations(text, made["phrases"]))
    assert made["violations"] != []

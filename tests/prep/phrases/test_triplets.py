"""Entities and relations: what a model's answer must say, how it is mended, and what replaces it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prep.cache.keys import normalise_text
from prep.phrases.fallback import unusable
from prep.phrases.relations import Triplets
from prep.phrases.triplet_checks import CHECKS, MAX_RELATIONS, violations, words_of
from prep.phrases.triplet_reasons import FAULTS, HEAD, TAIL, second_turn
from prep.phrases.triplets import needs_retry, parse, repair, settle

TEXT = "small brown dog under the bench on the left"
RIGHT: Triplets = {
    "entity": "small brown dog",
    "relations": [["small brown dog", "under", "the bench"], ["small brown dog", "on the left", ""]],
}
WORDS = [*TEXT.split(), "cat", "is", "object", "The", "", "of", '"', "\u202e", "dog's"]


def said(entity: str, *relations: tuple[str, str, str]) -> str:
    return json.dumps({"entity": entity, "relations": relations})


def test_a_right_answer_is_taken_as_it_is() -> None:
    raw = json.dumps(RIGHT)
    assert parse(raw) == RIGHT
    assert violations(TEXT, RIGHT) == ()
    assert not needs_retry(TEXT, raw)
    found = settle(TEXT, [raw])
    assert (found.entity, [list(one) for one in found.relations]) == (RIGHT["entity"], RIGHT["relations"])
    assert (found.source, found.violations, found.rejected, found.repairs) == ("llm", (), (), ())


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Sure! Here it is:\n```json\n" + json.dumps(RIGHT, indent=1) + "\n```\nI hope it helps.", RIGHT),
        ("{ " + json.dumps(RIGHT), RIGHT),
        ('{"note": 1} ' + json.dumps(RIGHT), RIGHT),
        (json.dumps(RIGHT)[:-3], None),
        (said("dog"), None),
        ('{"entity": "dog", "relations": [["dog", "under"]]}', None),
        ('{"entity": "dog", "relations": [["dog", "under", 3]]}', None),
        ('{"entity": ["dog"], "relations": [["dog", "", ""]]}', None),
        ("[" * 30_000, None),
        ('{"a":' * 30_000, None),
        ("", None),
        ("small brown dog", None),
    ],
)
def test_the_object_is_found_in_an_answer_or_nothing_is(raw: str, expected: Triplets | None) -> None:
    found = parse(raw)
    if raw.startswith('{"entity": "Small'):
        assert found == {
            "entity": "small brown dog",
            "relations": [["small brown dog", "under", "the bench"]],
        }
    else:
        assert found == expected


@pytest.mark.parametrize(
    ("raw", "failed"),
    [
        (said("small brown dog", ("dog", "under", "the bench")), ["without_entity", "uncovered"]),
        (said("the bench", ("small brown dog", "under", "the bench")), ["entity_not_named", "uncovered"]),
        (said("dog under the bench", ("dog under the bench", "on", "left")), ["entity_not_named"]),
        (said("object", ("object", "under", "the bench")), ["entity_not_named"]),
        (said("small brown cat", ("small brown cat", "under", "the bench")), ["not_extractive"]),
        (said("small brown dog", ("small brown dog", "behind", "the bench")), ["not_extractive"]),
        (said("small brown dog", ("small brown dog", "under", "the bench bench")), ["not_extractive"]),
        (said("small brown dog", ("small brown dog", "under", "the bench")), ["uncovered"]),
        (said("small brown dog", *[("small brown dog", "under", "the bench")] * 2), ["repeated"]),
        (said("...", ("...", "", "")), ["not_triplets"]),
        (said("dog", *[("dog", "on", str(n)) for n in range(MAX_RELATIONS + 1)]), ["not_triplets"]),
    ],
)
def test_each_check_turns_down_what_it_is_for(raw: str, failed: list[str]) -> None:
    assert set(failed) <= set(violations(TEXT, parse(raw)))
    told = second_turn(TEXT, raw).splitlines()
    assert (told[0], told[-1]) == (HEAD, TAIL)
    for name in failed:
        start = FAULTS[name].split("{")[0]
        assert any(line.startswith(start) for line in told), name


def test_eight_relations_are_read_and_nine_are_none() -> None:
    text = "dog on 1 on 2 on 3 on 4 on 5 on 6 on 7 on 8 on 9"
    each = [["dog", "on", str(number)] for number in range(1, MAX_RELATIONS + 2)]
    assert MAX_RELATIONS == 8
    assert violations(text, {"entity": "dog", "relations": each}) == ("not_triplets",)
    assert "not_triplets" not in violations(text, {"entity": "dog", "relations": each[:-1]})
    assert violations(text, {"entity": "dog", "relations": []}) == ("not_triplets",)


def test_chatter_need_not_be_in_a_relation() -> None:
    found: Triplets = {"entity": "dog", "relations": [["dog", "left", ""]]}
    assert violations("dog left please", found) == ()
    assert violations("dog left bench", found) == ("uncovered",)


def test_the_second_turn_names_the_words() -> None:
    told = second_turn(TEXT, said("small brown dog", ("small brown dog", "behind", "the sofa")))
    assert '- Not in the expression, or not so often: "behind", "sofa".' in told
    assert '"bench"' in told
    assert second_turn(TEXT, "no").splitlines() == [HEAD, FAULTS["not_triplets"], TAIL]


def test_a_relation_that_is_wrong_alone_is_dropped_if_the_rest_says_all() -> None:
    right = [tuple(one) for one in RIGHT["relations"]]
    wrong = [("the bench", "near", "the cat"), ("the bench", "under", "small brown dog")]
    assert not CHECKS["not_extractive"](TEXT, {"entity": "dog", "relations": [list(wrong[0])]})
    raw = said("small brown dog", wrong[0], *right, right[0])  # type: ignore[arg-type]
    found = settle(TEXT, [raw])
    assert (found.source, found.repairs) == ("repaired", ("relation_dropped",))
    assert list(found.relations) == right
    assert found.rejected == (("llm", violations(TEXT, parse(raw))),)


def test_the_entity_gets_its_own_spelling() -> None:
    raw = said("the small brown dog", ("small brown dog", "under", "the bench"), ("", "on the left", ""))
    found = settle(TEXT, [raw])
    assert (found.source, found.repairs) == ("repaired", ("entity_respelled",))
    assert {one[0] for one in found.relations} == {"the small brown dog"}


def test_the_levels_follow_each_other() -> None:
    wrong = said("cat", ("cat", "", ""))
    assert settle(TEXT, [wrong, json.dumps(RIGHT)]).source == "retry"
    rules = settle(TEXT, [wrong, "no"])
    assert rules.source == "rules"
    assert [source for source, _ in rules.rejected] == ["llm", "retry"]
    assert rules.entity == "the small brown dog"
    assert rules.relations == (
        ("the small brown dog", "under", "the bench"),
        ("the small brown dog", "on the left", ""),
    )
    whole = settle("lol")
    assert (whole.source, whole.entity, whole.relations) == ("expression", "lol", (("lol", "", ""),))
    assert settle(" ... ").entity is None


@given(
    st.text(max_size=80) | st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join),
    st.lists(
        st.text(max_size=200)
        | st.builds(
            lambda entity, relations: json.dumps({"entity": entity, "relations": relations}),
            st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join),
            st.lists(
                st.lists(st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join), min_size=2, max_size=4),
                max_size=10,
            ),
        ),
        max_size=2,
    ),
)
@example(TEXT, [said("\ud800", ("\ud800", "", ""))])
def test_whatever_a_model_says_the_result_is_of_the_expression(text: str, raws: list[str]) -> None:
    found = settle(text, raws)
    if unusable(text):
        assert (found.entity, found.relations) == (None, ())
        return
    assert found.entity
    assert found.relations
    assert all(found.entity in (one[0], one[2]) for one in found.relations)
    json.dumps([found.entity, *found.relations]).encode("ascii")
    if found.source in ("llm", "repaired", "retry"):
        triplets: Triplets = {"entity": found.entity, "relations": [list(one) for one in found.relations]}
        assert violations(text, triplets) == found.violations == ()
        assert repair(text, triplets)[0] == triplets
        there = set(words_of(text)) | {
            *["a", "an", "the", "object", "thing", "in", "on", "with"],
            *words_of("is are"),
        }
        assert set().union(*map(words_of, (found.entity, *sum(found.relations, ())))) <= there
    elif found.source == "expression":
        assert found.entity == normalise_text(text)


def test_the_rules_relations_pass_the_checks_on_real_expressions(shared: Path) -> None:
    lines = (shared / "data" / "expressions.jsonl").read_text().splitlines()[::40]
    found = [settle(json.loads(line)["sent"]) for line in lines]
    assert {one.source for one in found} <= {"rules", "expression"}
    assert sum(not one.violations for one in found) > 0.98 * len(found)
    assert sum(bool(thing) for one in found for _, _, thing in one.relations) > len(found) // 10

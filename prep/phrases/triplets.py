"""Resolves a model's answers to an entity and its relations by the fallback chain of the phrases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache, partial

from prep.cache.keys import normalise_text
from prep.phrases.fallback import first_valid, unusable
from prep.phrases.relations import Triplets, triplets_of
from prep.phrases.rules.decompose import break_up
from prep.phrases.triplet_checks import MAX_RELATIONS, violations
from prep.records import TripletSet

MAX_CHARS = 20_000
# Objects that are tried in an answer, so that braces without end take no time.
MAX_TRIES = 8
_ARTICLES = ("the ", "a ", "an ")

_TEXT = {"type": "string", "maxLength": 100}
# The schema of the retry's structured output.
ANSWER_SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {
        "entity": {"type": "string", "minLength": 1, "maxLength": 100},
        "relations": {
            "type": "array",
            "items": {"type": "array", "items": _TEXT, "minItems": 3, "maxItems": 3},
            "minItems": 1,
            "maxItems": MAX_RELATIONS,
        },
    },
    "required": ["entity", "relations"],
    "additionalProperties": False,
}
# The same for endpoints, which know fewer keywords; the checks enforce the lengths.
OBJECT_SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {
        "entity": {"type": "string"},
        "relations": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
    },
    "required": ["entity", "relations"],
    "additionalProperties": False,
}


def parse(raw: str) -> Triplets | None:
    """The first JSON object of an answer that has an entity and relations of three texts; None if none has.

    Texts are normalised; an empty subject is the entity, as Zeroshot_REC reads it. Never raises.
    """
    text, at = raw[:MAX_CHARS], -1
    for _ in range(MAX_TRIES):
        at = text.find("{", at + 1)
        if at < 0:
            return None
        try:
            value, _end = json.JSONDecoder().raw_decode(text, at)
        except (ValueError, RecursionError):
            continue
        if (found := _triplets(value)) is not None:
            return found
    return None


def _triplets(value: object) -> Triplets | None:
    match value:
        case {"entity": str() as entity, "relations": [*relations]} if relations:
            pass
        case _:
            return None
    if not all(isinstance(one, list) and len(one) == 3 for one in relations):
        return None
    if not all(isinstance(part, str) for one in relations for part in one):
        return None
    name = normalise_text(entity)
    read = [[normalise_text(part) for part in one] for one in relations]
    return {"entity": name, "relations": [[subject or name, *rest] for subject, *rest in read]}


def repair(text: str, found: Triplets | None) -> tuple[Triplets | None, tuple[str, ...]]:
    """``found`` mended, and the names of the repairs; none if it would still fail a check.

    ``entity_respelled``: a subject or object that is the entity but for its article gets its spelling.
    ``relation_dropped``: a relation that fails a check alone, or occurs before, is dropped if others remain.
    """
    if found is None:
        return None, ()
    entity = found["entity"]
    relations = [_respelled(relation, entity) for relation in found["relations"]]
    repairs = ["entity_respelled"] if relations != found["relations"] else []
    alone = {
        tuple(one): None for one in relations if not _faulty(text, {"entity": entity, "relations": [one]})
    }
    if len(alone) < len(relations):
        repairs.append("relation_dropped")
    mended: Triplets = {"entity": entity, "relations": [list(one) for one in alone]}
    return (found, ()) if violations(text, mended) else (mended, tuple(repairs))


def _respelled(relation: list[str], entity: str) -> list[str]:
    subject, predicate, thing = (
        entity if part and at != 1 and _bare(part) == _bare(entity) else part
        for at, part in enumerate(relation)
    )
    return [subject, predicate, thing]


def _bare(part: str) -> str:
    return next((part.removeprefix(article) for article in _ARTICLES if part.startswith(article)), part)


def _faulty(text: str, found: Triplets) -> bool:
    """Whether a relation fails a check alone; what it does not cover, others may."""
    return bool(set(violations(text, found)) - {"uncovered", "entity_not_named"})


# Mended triplets, and the names of the repairs.
Mended = tuple[Triplets | None, tuple[str, ...]]


@lru_cache(maxsize=1 << 13)
def _judged(text: str, raw: str) -> tuple[Triplets | None, tuple[str, ...], Mended]:
    found = parse(raw)
    failed = violations(text, found)
    return found, failed, repair(text, found) if failed else (found, ())


def needs_retry(text: str, raw: str) -> bool:
    """Whether a model's first answer fails a check and cannot be repaired."""
    _, failed, (_, repairs) = _judged(text, raw)
    return bool(failed) and not repairs


def settle(text: str, raws: Sequence[str] = ()) -> TripletSet:
    """The entity and relations of ``text``, given the model's answers: the first one and, if any, the retry.

    The levels are those of :func:`prep.phrases.fallback.settle`; the rules' relations are those of
    :func:`prep.phrases.relations.triplets_of`, and the last level is the expression as an entity without
    relations, as Zeroshot_REC falls back. Never raises; an unusable text has no entity.
    """
    if unusable(text):
        return TripletSet(None, (), "expression", ("not_triplets",))
    level, rejected = first_valid(raws, partial(_judged, text))
    if level is not None:
        found, source, repairs = level
        assert found is not None  # nothing fails a check
        return _set(found, source, (), rejected, repairs)
    phrases = break_up(text)
    if phrases:
        by_rules = triplets_of(phrases)
        return _set(by_rules, "rules", violations(text, by_rules), rejected)
    rejected.append(("rules", ("not_triplets",)))
    name = normalise_text(text)
    whole: Triplets = {"entity": name, "relations": [[name, "", ""]]}
    return _set(whole, "expression", violations(text, whole), rejected)


def _set(
    found: Triplets,
    source: str,
    failed: tuple[str, ...],
    rejected: Sequence[tuple[str, tuple[str, ...]]],
    repairs: tuple[str, ...] = (),
) -> TripletSet:
    relations = tuple((subject, predicate, thing) for subject, predicate, thing in found["relations"])
    return TripletSet(found["entity"], relations, source, failed, tuple(rejected), repairs)

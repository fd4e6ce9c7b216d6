"""Words what is wrong with a model's entity and relations, for the second turn of the conversation."""

from __future__ import annotations

from collections.abc import Iterator

from prep.phrases.reasons import quoted, quoted_words
from prep.phrases.relations import Triplets
from prep.phrases.triplet_checks import CHECKS, foreign, missing, parts_of, shaped
from prep.phrases.triplets import parse

HEAD = "That breaks the rules above:"
TAIL = "Answer again, nothing but the JSON object."
FAULTS = {
    "not_triplets": '- Give one JSON object with an "entity" and one to eight "relations" of three texts.',
    "without_entity": "- Each relation must have the entity as subject or object, spelled as it is.",
    "entity_not_named": '- "{line}" is not the thing pointed out, as a noun with its adjectives alone.',
    "repeated": "- A relation occurs twice. Leave one out.",
    "not_extractive": "- Not in the expression, or not so often: {words}.",
    "uncovered": "- No text has: {words}.",
}


def second_turn(text: str, raw: str) -> str:
    """The user's second turn: every fault of the answer ``raw`` to ``text``, and the request."""
    return "\n".join([HEAD, *_faults(text, parse(raw)), TAIL])


def _faults(text: str, found: Triplets | None) -> Iterator[str]:
    if found is None or not shaped(text, found):
        yield FAULTS["not_triplets"]
        return
    own = [word for part in parts_of(found) for word in foreign(text, part)]
    for name, check in CHECKS.items():
        if not check(text, found):
            words = quoted_words(own if name == "not_extractive" else missing(text, found))
            yield FAULTS[name].format(line=quoted(found["entity"]), words=words)

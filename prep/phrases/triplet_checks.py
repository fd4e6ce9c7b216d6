"""Validates an entity and its relations: small pure functions, each with a name for ``violations``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator

from prep.cache.keys import normalise_text
from prep.phrases.checks import reading, target_first
from prep.phrases.relations import Triplets
from prep.phrases.rules.decompose import break_up
from prep.phrases.rules.grammar import analyse
from prep.phrases.rules.tokens import read
from prep.phrases.rules.wordforms import stem

MAX_RELATIONS = 8

_WORD = re.compile(r"[^\W_]+")
# Words that need not be in the expression: a target that it does not name, and what the rules put before
# clothing ("man red shirt") and models put before a participle.
_ADDED = frozenset(map(stem, ("the", "a", "an", "object", "thing", "in", "on", "with", "is", "are")))


def words_of(text: str) -> Counter[str]:
    """The lemmas of a text's words, and how often each occurs."""
    return Counter(map(stem, _WORD.findall(normalise_text(text))))


def parts_of(found: Triplets) -> Iterator[str]:
    """The entity, and every other text of the relations."""
    yield found["entity"]
    for relation in found["relations"]:
        yield from (part for part in relation if part != found["entity"])


def shaped(text: str, found: Triplets) -> bool:
    """There is an entity with a letter or digit, and 1 to 8 relations of three texts."""
    if not any(map(str.isalnum, found["entity"])) or not 1 <= len(found["relations"]) <= MAX_RELATIONS:
        return False
    return all(len(relation) == 3 for relation in found["relations"])


def about_entity(text: str, found: Triplets) -> bool:
    """The entity is the subject or the object of each relation, spelled as it is itself."""
    return all(found["entity"] in (subject, thing) for subject, _, thing in found["relations"])


def entity_named(text: str, found: Triplets) -> bool:
    """The entity is a noun phrase that names the expression's target, with nothing behind its noun."""
    _, tags = read(found["entity"])
    from_rules = break_up(found["entity"])
    if not from_rules or not target_first(text, from_rules[:1]):
        return False
    head, cues = analyse(tags)
    return bool(head) and all(cue.words[-1] < head[-1] for cue in cues)


def extractive(text: str, found: Triplets) -> bool:
    """Every word is in the expression, and in no part more often than there (lemmas; articles, "object",
    "in", "on", "with" and "is" may be added).
    """
    return not any(foreign(text, part) for part in parts_of(found))


def foreign(text: str, part: str) -> list[str]:
    """The lemmas of a part that the expression ``text`` lacks, or has less often."""
    there = words_of(text)
    return [word for word, count in words_of(part).items() if count > there[word] and word not in _ADDED]


def distinct(text: str, found: Triplets) -> bool:
    """No relation occurs twice."""
    return len(set(map(tuple, found["relations"]))) == len(found["relations"])


def covering(text: str, found: Triplets) -> bool:
    """Every content word of the expression is in the entity or in a relation."""
    return not missing(text, found)


def missing(text: str, found: Triplets) -> list[str]:
    """The lemmas of the expression's content words that no part has."""
    said = set().union(*map(words_of, parts_of(found)))
    return [word for word, kind in reading(text).stems.items() if kind not in ("", "y") and word not in said]


Check = Callable[[str, Triplets], bool]
# Name in ``violations`` -> the check. An answer that cannot be read fails ``not_triplets`` alone.
CHECKS: dict[str, Check] = {
    "not_triplets": shaped,
    "without_entity": about_entity,
    "entity_not_named": entity_named,
    "repeated": distinct,
    "not_extractive": extractive,
    "uncovered": covering,
}


def violations(text: str, found: Triplets | None) -> tuple[str, ...]:
    """The names of the checks that ``found`` fails for the expression ``text``; None is ``not_triplets``."""
    if found is None or not shaped(text, found):
        return ("not_triplets",)
    return tuple([name for name, check in CHECKS.items() if not check(text, found)])

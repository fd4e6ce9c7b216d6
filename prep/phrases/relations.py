"""Finds relations of a target to other things in its phrases, by the grammar of the rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from prep.phrases.rules.decompose import compose
from prep.phrases.rules.grammar import analyse
from prep.phrases.rules.shapes import Cue, noun_phrase_end
from prep.phrases.rules.tokens import read

# Classes of words (see prep/phrases/rules/lexicon.py) that start a relation, and of nouns that it ends in.
_STARTS = frozenset("IilwTFNOVvzeb")
_THINGS = frozenset("npktfuG")
_ADJECTIVES = frozenset("acjmo0e&")


class Triplets(TypedDict):
    """An entity with its attributes, and one or more ``[subject, predicate, object]`` about it.

    The entity is the subject of each; predicate or object may be empty.
    """

    entity: str
    relations: list[list[str]]


def triplets_of(phrases: Sequence[str]) -> Triplets:
    """The triplets of an expression from its phrases, the first of which names the target.

    Cues without a landmark ("on the left", "sitting") are a predicate without an object; attributes ("red")
    are part of the entity.
    """
    attributes: list[str] = []
    told: list[tuple[str, str]] = []
    for phrase in phrases[1:]:
        words, tags = read(phrase)
        head, cues = analyse(tags)
        for cue in cues:
            if (relation := _relation(words, tags, cue, head)) is not None:
                told.append(relation)
            else:
                attributes += [words[at] for at in cue.words]
    entity = _with_attributes(phrases[0], attributes)
    relations = [[entity, predicate, other] for predicate, other in dict.fromkeys(told)]
    return {"entity": entity, "relations": relations or [[entity, "", ""]]}


def _relation(words: Sequence[str], tags: str, cue: Cue, head: tuple[int, ...]) -> tuple[str, str] | None:
    """Predicate and object of a cue; None if it is an attribute: before the noun, or adjectives alone."""
    first = cue.words[0]
    if not cue.link and tags[first] not in _STARTS:
        before = bool(head) and cue.words[-1] < head[-1]
        if before or _ADJECTIVES.issuperset(tags[at] for at in cue.words):
            return None
    if len(cue.words) > 1 and tags[first] in "rR":  # "that is on the left"
        cue = Cue(cue.words[1:], cue.link)
    texts = [words[at] for at in cue.words]
    if cue.link:
        return cue.link, " ".join(texts)
    padded = tags + "$$"
    for k in range(1, len(cue.words)):
        end = noun_phrase_end(padded, cue.words[k])
        if end > cue.words[k] and _THINGS & set(tags[cue.words[k] : end]):
            return " ".join(texts[:k]), " ".join(texts[k:])
    return " ".join(texts), ""


def _with_attributes(name: str, attributes: Sequence[str]) -> str:
    """ "the man" with "red" as "the red man"."""
    words, tags = read(name)
    frame = analyse(tags)
    new = [word for word in dict.fromkeys(attributes) if word not in words]
    if not new:
        return name
    bare = compose(words, tags, frame.head, Cue(())) if frame.head else name
    article, _, rest = bare.partition(" ")
    return (
        " ".join([article, *new, rest]) if rest and article in ("the", "a", "an") else " ".join([*new, bare])
    )

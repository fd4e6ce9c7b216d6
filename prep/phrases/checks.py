"""Validates a phrase set: small pure functions, each with a name for ``violations``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from itertools import chain
from typing import NamedTuple

from prep.phrases.clip_tokens import fits
from prep.phrases.rules.grammar import analyse
from prep.phrases.rules.shapes import Cue
from prep.phrases.rules.tokens import read
from prep.phrases.rules.wordforms import stem
from prep.phrases.target import named_at, starts_with

MAX_PHRASES = 5

# "left side of the tray", as word classes.
_SIDE_OF = re.compile("[^O]*[gs]O").match
_LETTER_OR_DIGIT = re.compile(r"[^\W_]").search

_FUNCTION = "dhubOTFNwIlirR&,'q"
_FILLERS = frozenset(map(stem, ("object", "objects", "thing", "things", "one", "ones", "item", "items")))
# Location words. Prepositions among them are content words too, and dropping one loses the location.
_PLACES = {
    *("behind", "near", "nearby", "beside", "below", "beneath", "under", "underneath", "above", "between"),
    *("among", "against", "opposite", "alongside", "over", "across", "around", "before", "after", "beyond"),
    *("next", "close", "front", "top", "bottom", "back", "side", "inside", "outside", "left", "right"),
    *("middle", "center", "corner", "edge", "background", "foreground"),
}


class Reading(NamedTuple):
    """A text as the checks see it.

    ``stems`` maps the lemma of each word to its kind: ``w`` content word, ``x`` negation, ``0`` number, ``c``
    colour, ``s`` location, ``y`` chatter, or empty for function words and fillers; ``content`` has those with
    a kind. ``target`` holds the lemmas that name the target, ``cues`` the words of each cue, as positions in
    ``words``, whose classes are ``tags``.
    """

    words: tuple[str, ...]
    tags: str
    stems: dict[str, str]
    content: frozenset[str]
    target: frozenset[str]
    cues: tuple[Cue, ...]


@lru_cache(maxsize=1 << 11)
def reading(text: str) -> Reading:
    """Analyse ``text`` once for all checks."""
    words, tags = read(text)
    stems = dict(chain.from_iterable(map(_kinds, words, tags)))
    if "color" in stems and "c" in tags:  # "of a blue color" says no more than "blue"
        stems["color"] = ""
    head, cues = analyse(tags)
    target = frozenset([stem(words[i]) for i in head if tags[i] not in "O&dh"])
    return Reading(words, tags, stems, frozenset(filter(stems.get, stems)), target, cues)


def content(phrase: str) -> frozenset[str]:
    """The lemmas of the content words of a phrase."""
    return reading(phrase).content


@lru_cache(maxsize=1 << 15)
def _kinds(word: str, tag: str) -> tuple[tuple[str, str], ...]:
    """The lemma and kind of each part of a word or compound."""
    return tuple([(stem(part), _kind(part, tag)) for part in word.replace("-", " ").split()])


def _kind(part: str, tag: str) -> str:
    if part in _PLACES or tag in "sg":
        return "s"
    if tag in "x0cy":
        return tag
    return "" if tag in _FUNCTION or stem(part) in _FILLERS else "w"


def count(text: str, phrases: Sequence[str]) -> bool:
    """There are 1 to 5 phrases, each with a letter or digit."""
    return 1 <= len(phrases) <= MAX_PHRASES and all(map(_LETTER_OR_DIGIT, phrases))


def distinct(text: str, phrases: Sequence[str]) -> bool:
    """No phrase occurs twice (ignoring case and spaces)."""
    return len({reading(phrase).words for phrase in phrases}) == len(phrases)


def too_long(text: str, phrases: Sequence[str]) -> bool:
    """No phrase has more than 18 CLIP tokens, so the end token survives truncation at 20."""
    return all(map(fits, phrases))


def target_first(text: str, phrases: Sequence[str]) -> bool:
    """The first phrase names the expression's target and contains no cue.

    The target is the rules' or, where they take another noun, a noun phrase before the first relation.
    """
    first, target = reading(phrases[0]), reading(text).target
    if not first.cues and not target.isdisjoint(first.target):
        return True
    named = content(phrases[0])
    if named <= target if named else not target and not first.cues:
        return True
    return bool(named_at(text, phrases[0]))


def target_kept(text: str, phrases: Sequence[str]) -> bool:
    """Every phrase is about the target that the first one names."""
    first = phrases[0]
    return all(about(text, phrase, first) for phrase in phrases[1:])


def about(text: str, phrase: str, target: str) -> bool:
    """Whether a phrase is about what the phrase ``target`` names.

    "the left side of the tray" is about a side, unless the expression has an "of" itself.
    """
    first, other = reading(target), reading(phrase)
    if not first.content:  # "the object": any stand-in will do, and "the bigger of the two" has none
        return "O" in other.tags or first.stems == other.stems or bool(_FILLERS & other.stems.keys())
    named = first.target or first.content
    if named.isdisjoint(other.target) if other.target else not first.content <= other.stems.keys():
        return starts_with(phrase, named)
    if "O" not in other.tags or not _SIDE_OF(other.tags):
        return True
    return "O" in reading(text).tags or starts_with(phrase, named)


def cues_of(phrase: str, target: str) -> list[frozenset[str]]:
    """The content words of each cue of a phrase, without those of the phrase ``target``; none are empty."""
    words, tags, _, there, _, cues = reading(phrase)
    named = content(target)
    found = [frozenset(key for i in cue.words for key, _ in _kinds(words[i], tags[i])) for cue in cues]
    return [new for keys in found if (new := (keys & there) - named)]


def one_cue(text: str, phrases: Sequence[str]) -> bool:
    """Each later phrase has one cue, or more only if five phrases cannot hold all cues."""
    several = [phrase for phrase in phrases[1:] if len(reading(phrase).cues) > 1]
    if not several or all(len(cues_of(phrase, phrases[0])) <= 1 for phrase in several):
        return True
    return len(phrases) == MAX_PHRASES and len(reading(text).cues) >= MAX_PHRASES


def new_cue(text: str, phrases: Sequence[str]) -> bool:
    """Each later phrase has a cue, and none that is part of another phrase's."""
    first = reading(phrases[0]).stems.keys()
    new = [reading(phrase).stems.keys() - first for phrase in phrases[1:]]
    if all(new) and sum(map(len, new)) == len(set().union(*new)):  # no word is in two of them
        return True
    return not any(is_repeated(text, phrases, at) for at in range(1, len(phrases)))


def is_repeated(text: str, phrases: Sequence[str], at: int) -> bool:
    """Whether the phrase at ``at`` says nothing that the others do not.

    A word may be in as many phrases as the expression has it: "red" in "the red bus next to the red car".
    """
    first, this = reading(phrases[0]).stems.keys(), reading(phrases[at])
    if this.stems.keys() <= first:
        return True
    new = this.content - first
    others = [reading(phrase).content for i, phrase in enumerate(phrases) if i not in (0, at)]
    if not new or not any(new <= other for other in others):
        return False
    there = occurrences(text)
    return any(sum(key in other for other in others) >= max(1, there[key]) for key in new)


def occurrences(text: str) -> Counter[str]:
    """How often each lemma is in ``text``, those of compounds ("to the left of") included."""
    return Counter(stem(part) for word in reading(text).words for part in word.replace("-", " ").split())


def extractive(text: str, phrases: Sequence[str]) -> bool:
    """Every content word of the phrases occurs in the expression, by lemma; "object" may be added."""
    there = reading(text).stems.keys()
    return all(reading(phrase).content <= there for phrase in phrases)


# What the expression's words of each kind are lost as, if no phrase has them.
LOST = {"w": "uncovered", "x": "negation_lost", "0": "number_lost", "c": "colour_lost", "s": "place_lost"}


def missing_kinds(text: str, phrases: Sequence[str]) -> frozenset[str]:
    """The kinds of the expression's content words that occur in no phrase."""
    there = reading(text)
    lost = there.content.difference(*[reading(phrase).stems for phrase in phrases])
    return frozenset([there.stems[key] for key in lost])


def kept(kind: str, text: str, phrases: Sequence[str]) -> bool:
    """Every word of the expression of this kind of :class:`Reading` is in some phrase."""
    return kind not in missing_kinds(text, phrases)


Check = Callable[[str, Sequence[str]], bool]
_OF_PHRASES: dict[str, Check] = {
    "count": count,
    "repeated": distinct,
    "too_long": too_long,
    "target_not_first": target_first,
    "off_target": target_kept,
    "several_cues": one_cue,
    "repeated_cue": new_cue,
    "not_extractive": extractive,
}
# Name in ``violations`` -> the check.
CHECKS: dict[str, Check] = {**_OF_PHRASES, **{name: partial(kept, kind) for kind, name in LOST.items()}}


def violations(text: str, phrases: Sequence[str]) -> tuple[str, ...]:
    """The names of the checks that ``phrases`` fails as a decomposition of ``text``, in the order of
    ``CHECKS``.

    Without any phrase it is ``("count",)``: the other checks do not apply.
    """
    if not phrases:
        return ("count",)
    failed = [name for name, check in _OF_PHRASES.items() if not check(text, phrases)]
    if missing := missing_kinds(text, phrases):
        failed += [name for kind, name in LOST.items() if kind in missing]
    return tuple(failed)

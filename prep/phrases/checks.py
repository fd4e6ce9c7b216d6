"""What can be wrong with a phrase set: small pure functions, each with a name for ``violations``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from prep.phrases.clip_tokens import MAX_TOKENS, count_tokens
from prep.phrases.grammar import analyse
from prep.phrases.tokens import read, stem

MAX_PHRASES = 5

_FUNCTION = "dhubxOTFNwIlirR&,'yqV"
_FILLERS = frozenset(map(stem, ("object", "objects", "thing", "things", "one", "ones", "item", "items")))
# Words that say where: the prepositions that are content too, and lose the place where they are lost.
_PLACES = {
    *("behind", "near", "nearby", "beside", "below", "beneath", "under", "underneath", "above", "between"),
    *("among", "against", "opposite", "alongside", "over", "across", "around", "before", "after", "beyond"),
    *("next", "close", "front", "top", "bottom", "back", "side", "inside", "outside", "left", "right"),
    *("middle", "center", "corner", "edge", "background", "foreground"),
}


class Reading(NamedTuple):
    """A text as the checks see it: its stems by kind, those that name its target, how many cues it has."""

    content: frozenset[str]
    negations: frozenset[str]
    numbers: frozenset[str]
    colours: frozenset[str]
    places: frozenset[str]
    all: frozenset[str]
    target: frozenset[str]
    name: str
    cues: int


@lru_cache(maxsize=1 << 16)
def reading(text: str) -> Reading:
    """``text`` read once for all checks."""
    words, tags = read(text)
    frame = analyse(tags)
    kinds: dict[str, set[str]] = {
        "content": set(),
        "x": set(),
        "0": set(),
        "c": set(),
        "s": set(),
        "all": set(),
    }
    for word, tag in zip(words, tags, strict=True):
        for part in word.replace("-", " ").split():
            key = stem(part)
            kinds["all"].add(key)
            if part in _PLACES or tag in "sg":
                kinds["s"].add(key)
            elif tag in "x0c":
                kinds[tag].add(key)
            elif (tag not in _FUNCTION or tag == "V") and key not in _FILLERS:
                kinds["content"].add(key)
    target = frozenset(stem(words[i]) for i in frame.head if tags[i] not in "O&dh")
    name = stem(words[frame.head[-1]]) if frame.head else ""
    sets = [frozenset(kinds[kind]) for kind in ("content", "x", "0", "c", "s", "all")]
    return Reading(sets[0], sets[1], sets[2], sets[3], sets[4], sets[5], target, name, len(frame.cues))


def count(text: str, phrases: Sequence[str]) -> bool:
    """There are 1 to 5 phrases, each with a letter or digit."""
    return 1 <= len(phrases) <= MAX_PHRASES and all(any(c.isalnum() for c in phrase) for phrase in phrases)


def distinct(text: str, phrases: Sequence[str]) -> bool:
    """No phrase comes twice (case and spaces aside)."""
    return len({" ".join(phrase.lower().split()) for phrase in phrases}) == len(phrases)


def too_long(text: str, phrases: Sequence[str]) -> bool:
    """No phrase has more than 18 CLIP tokens, so that the end token survives a cut at 20."""
    return all(count_tokens(phrase) <= MAX_TOKENS for phrase in phrases)


def target_first(text: str, phrases: Sequence[str]) -> bool:
    """The first phrase names the expression's target and nothing else of it."""
    first, whole = reading(phrases[0]), reading(text)
    if not whole.target:
        return not first.content - whole.content and first.cues == 0
    return bool(first.target & whole.target) and first.cues == 0


def target_kept(text: str, phrases: Sequence[str]) -> bool:
    """Every phrase is about what the first one names."""
    first = reading(phrases[0])
    return all(_about(first, reading(phrase)) for phrase in phrases[1:])


def _about(first: Reading, other: Reading) -> bool:
    return bool(first.target & other.target) or (not first.target and not other.target)


def one_cue(text: str, phrases: Sequence[str]) -> bool:
    """Each phrase after the first has one cue; more only where five phrases cannot hold the cues."""
    counts = [reading(phrase).cues for phrase in phrases[1:]]
    return all(n <= 1 for n in counts) or (len(phrases) == MAX_PHRASES and reading(text).cues >= MAX_PHRASES)


def extractive(text: str, phrases: Sequence[str]) -> bool:
    """Every content word of the phrases, by lemma, is in the expression; "object" and the like may be added."""
    there = reading(text).all
    for phrase in phrases:
        said = reading(phrase)
        for words in (said.content, said.negations, said.numbers, said.colours, said.places):
            if not words <= there and words - there - _FILLERS:
                return False
    return True


def covering(text: str, phrases: Sequence[str]) -> bool:
    """Every content word of the expression is in some phrase; the next checks are about those it leaves out."""
    return _kept(reading(text).content, phrases)


def negation_kept(text: str, phrases: Sequence[str]) -> bool:
    """Words such as "not" and "without" are not lost."""
    return _kept(reading(text).negations, phrases)


def number_kept(text: str, phrases: Sequence[str]) -> bool:
    """Numbers are not lost."""
    return _kept(reading(text).numbers, phrases)


def colour_kept(text: str, phrases: Sequence[str]) -> bool:
    """Colours are not lost."""
    return _kept(reading(text).colours, phrases)


def place_kept(text: str, phrases: Sequence[str]) -> bool:
    """Words that say where are not lost."""
    return _kept(reading(text).places, phrases)


def _kept(wanted: frozenset[str], phrases: Sequence[str]) -> bool:
    if not wanted:
        return True
    missing = set(wanted)
    for phrase in phrases:
        missing -= reading(phrase).all
        if not missing:
            return True
    return False


Check = Callable[[str, Sequence[str]], bool]
# Name in ``violations`` -> the check whose failure it tells of.
CHECKS: dict[str, Check] = {
    "count": count,
    "repeated": distinct,
    "too_long": too_long,
    "target_not_first": target_first,
    "off_target": target_kept,
    "several_cues": one_cue,
    "not_extractive": extractive,
    "uncovered": covering,
    "negation_lost": negation_kept,
    "number_lost": number_kept,
    "colour_lost": colour_kept,
    "place_lost": place_kept,
}


def violations(text: str, phrases: Sequence[str]) -> tuple[str, ...]:
    """The names of the checks that ``phrases`` fail as a decomposition of ``text``, in the order of
    ``CHECKS``.

    Without any phrase that is ``("count",)``: nothing else can be said of it.
    """
    if not phrases:
        return ("count",)
    return tuple(name for name, check in CHECKS.items() if not check(text, phrases))

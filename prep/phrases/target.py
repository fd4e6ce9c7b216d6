"""Decides by words whether a line names the target of an expression, and whether a phrase is about it.

Both look at word classes and at the order of words only, so that a model's answer is not judged by the rules'
parse alone: the rules may take another noun for the target.
"""

from __future__ import annotations

from functools import lru_cache

from prep.phrases.rules.lexicon import lexicon
from prep.phrases.rules.tokens import read
from prep.phrases.rules.wordforms import stem

_NOUNS = frozenset("npkgtfG")
_ARTICLES = frozenset("dh")
# What starts a relation, an action or a clause: a noun behind it is not the target.
_RELATIONS = frozenset("VvwIilTFNOrRbxz")
# Nouns that can follow a person's without an article or preposition: what they wear, or what they are.
_TELEGRAPHIC = frozenset("kp")


def named_at(text: str, line: str) -> tuple[int, ...]:
    """The positions in ``read(text)`` of the noun phrase that ``line`` consists of; empty if it is none.

    The noun phrase has nouns, and after "of" more nouns, but no adjective; no relation precedes it in the
    expression; and it ends where the expression's compound does ("cat" is none in "cat reflection").
    """
    return _named_at(*read(text), *read(line))


@lru_cache(maxsize=1 << 13)
def _named_at(words: tuple[str, ...], tags: str, named: tuple[str, ...], named_tags: str) -> tuple[int, ...]:
    wanted = [stem(word) for word, tag in zip(named, named_tags, strict=True) if tag not in _ARTICLES]
    places = [i for i, tag in enumerate(tags) if tag not in _ARTICLES]
    stems = [stem(words[i]) for i in places]
    size = len(wanted)
    for at in range(len(places) - size + 1) if size else ():
        found = places[at : at + size]
        if not _RELATIONS.isdisjoint(tags[: found[0]]):
            return ()
        if stems[at : at + size] == wanted and _is_name(words, tags, found):
            return tuple(found)
    return ()


def _is_name(words: tuple[str, ...], tags: str, found: list[int]) -> bool:
    """Whether the words at these positions are nouns, those of a whole and its parts included."""
    size = len(found)
    of = next((k for k in range(size) if tags[found[k]] == "O"), size)
    if not of or of == size - 1:
        return False
    if of < size and tags[found[of - 1]] == "s":  # "back of the chair"
        found = found[: of - 1] + found[of:]
        of -= 1
    elif tags[found[of - 1]] not in _NOUNS and words[found[0]] != "number":
        return False
    if not all(_noun_like(words, tags, i) for i in found[:of] + found[of + 1 :]):
        return False
    last, after = tags[found[-1]], tags[found[-1] + 1 : found[-1] + 2]
    return not after or after not in _NOUNS or (last == "p" and after in _TELEGRAPHIC)


def _noun_like(words: tuple[str, ...], tags: str, i: int) -> bool:
    """A noun, one that another noun makes an adjective ("glass bottle"), or a number behind "number"."""
    if tags[i] in _NOUNS:
        return True
    lists = lexicon().lists
    if tags[i] == "0":
        return words[i] == "number" or (i > 0 and words[i - 1] == "number")
    return words[i] in lists["material"] or words[i] in lists["kin"]


def starts_with(phrase: str, nouns: frozenset[str]) -> bool:
    """Whether one of ``nouns`` (lemmas) is in the phrase before its first relation."""
    words, tags = read(phrase)
    for word, tag in zip(words, tags, strict=True):
        if tag in _RELATIONS:
            return False
        if stem(word) in nouns:
            return True
    return False

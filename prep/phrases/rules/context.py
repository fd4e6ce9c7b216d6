"""Disambiguates words with several classes by their neighbours: "that", "one", "back", "light", "orange"."""

from __future__ import annotations

from functools import lru_cache

from prep.phrases.rules.lexicon import lexicon
from prep.phrases.rules.wordforms import stem

_NOUNS = {*"npkgtf"}


def settle_classes(words: list[str], tags: list[str]) -> None:
    """Change ``tags`` from left to right where a word's neighbours imply another class."""
    ambiguous, telling = _ambiguous()
    if "p" not in tags and telling.isdisjoint(words):
        return
    made_up = lexicon().lists["made-up"]
    # A change concerns a word that was passed or is one of these, so they are the same at the end.
    concerned = [i for i, tag in enumerate(tags) if tag in "pzN" or words[i] in telling]
    for i in concerned:
        word = words[i]
        if word in ambiguous:
            before = tags[i - 1] if i else "^"
            after = tags[i + 1] if i + 1 < len(tags) else "$"
            if before == "p" and i > 1 and tags[i - 2] == "O" and words[i - 1] in lexicon().lists["kin"]:
                before = tags[i - 1] = "j"  # "a pair of adult skis"
            tags[i] = _class(word, before, after, words[i + 1] if i + 1 < len(words) else "")
        elif tags[i] == "p":
            tags[i] = _creature(word, tags[i + 1] if i + 1 < len(tags) else "$")
        elif tags[i] == "z" and i and tags[i - 1] in "dh":
            tags[i] = "n"
        elif (
            word in made_up and i and tags[i - 1] in "jmn0" and (word != "looking" or _noun_follows(tags, i))
        ):
            tags[i - 1] = "a"
        elif tags[i] == "N" and i and words[i - 1].endswith("er"):
            tags[i - 1] = "m"


def _noun_follows(tags: list[str], i: int) -> bool:
    """ "odd looking man", unlike "tree looking over the wall"."""
    return i + 1 < len(tags) and tags[i + 1] in "npkgtfjc"


@lru_cache(maxsize=1)
def _ambiguous() -> tuple[frozenset[str], frozenset[str]]:
    """The words that have several classes, including those that change the class of the previous word."""
    lists = lexicon().lists
    names = ("fruit", "material", "kin", "verb-or-noun", "near", "shade", "picture")
    single = (
        "that",
        "one",
        "all",
        "cut",
        "carry on",
        "top",
        "back",
        "half",
        "quarter",
        "can",
        "'s",
        "number",
        "right",
    )
    ambiguous = frozenset(single).union(*(lists[name] for name in names))
    comparing = [word for word, tag in lexicon().words.items() if tag == "N"]
    return ambiguous, ambiguous.union(lists["made-up"], comparing)


def _class(word: str, before: str, after: str, following: str) -> str:
    """The class of ``word`` between the classes ``before`` (``^``: start) and ``after`` (``$``: end)."""
    lists = lexicon().lists
    if word in lists["shade"]:
        if after == "c" or following in lists["shade"]:
            return "a"
        return "j" if after in _NOUNS else lists["shade"][word]
    if word in lists["fruit"]:
        return "c" if after in "npkgtfc&" or before in "Ic&pa" else "n"
    if word in lists["material"]:
        return "j" if after in ("npkgtf" if word == "glass" else "npkgtfjcG") else "n"
    if word in lists["picture"]:
        return "g" if before == "s" and after in "npktfscj" else "n"
    if word in lists["near"]:
        return "l" if before in _NOUNS and after in "npkdhf" else "m"
    if word in lists["verb-or-noun"]:
        # "a giraffe-like thing kisses a person": a noun does not follow a noun's article.
        verb = before in "prRq&fu" or (before == "n" and after in "dh")
        return "z" if verb else ("v" if word == "lay" else "n")
    return _CASES[word](before, after, following) if word in _CASES else _creature(word, after)


def _creature(word: str, after: str) -> str:
    """A person or animal may modify the next noun or own it: "baby elephant", "mans hat"."""
    if word in lexicon().lists["kin"] and after == "p":
        return "j"
    if after == "k" or (after == "n" and word.endswith("s") and stem(word) != word):
        return "G"
    return "p"


def _half(before: str, after: str, following: str) -> str:
    if after in "eF" or following in lexicon().lists["filled"]:
        return "a"
    return "j" if after in "npkgtfGjcsmo" else "t"


def _right(before: str, after: str, following: str) -> str:
    """The adverb in "right behind the man" and "that is right in the middle"."""
    if before in "sIidT":
        return "s"
    return "a" if after == "l" or (after in "Ii" and before in "rbR") else "s"


def _one(before: str, after: str, following: str) -> str:
    return "0" if after in "npkgt" and before not in "djcsom0" else "f"


def _top(before: str, after: str, following: str) -> str:
    """Clothing, as in "red top"; otherwise a location."""
    return "k" if before in "ce" and after not in "npkgtfsO" else "s"


_CASES = {
    "carry on": lambda before, after, following: "j" if after in _NOUNS else "n",
    "cut": lambda before, after, following: "n" if before == "d" and after in "vV" else "e",
    "'s": lambda before, after, following: "'",
    "that": lambda before, after, following: "r" if before in "npkgtfucsomeq0" else "d",
    "one": _one,
    "all": lambda before, after, following: "a" if after == "c" else "d",
    "top": _top,
    "back": lambda before, after, following: "k" if before in "h'w" else "s",
    "half": _half,
    "quarter": _half,
    "can": lambda before, after, following: "n" if before in "dcjn" else "b",
    "number": lambda before, after, following: "0" if after == "0" else "n",
    "right": _right,
}

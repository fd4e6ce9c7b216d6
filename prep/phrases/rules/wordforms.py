"""Classifies a single word: its most likely class, and the lemma used for comparison."""

from __future__ import annotations

import re
from functools import lru_cache

from prep.phrases.rules.lexicon import lexicon

# "bottom left of": a location before one of these is part of it.
SIDES = ("left of", "right of")

_ORDINAL = re.compile(r"\d+(?:st|nd|rd|th)")
_CHATTER = re.compile(r"u+h+m*|u+m+|h+m+|lo+l+|a+w+|ha(?:ha)+|he(?:he)+|y+e+s+|o+h+|o+k+|ye+a+h+|e+r+m*")


@lru_cache(maxsize=1 << 15)
def guess(word: str) -> str:
    """The class of a word or compound from the lexicon or, if missing, from its ending and parts."""
    words, compounds, _, _ = lexicon()
    known = words.get(word) or compounds.get(word)
    if known:
        return known
    if word.endswith(SIDES):
        return "l"
    if word.isdigit():
        return "0"
    if _ORDINAL.fullmatch(word):
        return "o"
    if _CHATTER.fullmatch(word):
        return "y"
    if "-" in word:
        first, last = word.split("-", 1)[0], word.rsplit("-", 1)[1]
        if guess(first) in "cjso0m" or last.endswith(("ed", "ing", "like", "free", "shaped")):
            return "j"
        return guess(last) if last else "n"
    return _by_ending(word)


def _by_ending(word: str) -> str:
    size = len(word)
    if size > 3 and word.endswith("s") and not word.endswith("ss"):
        singular = lexicon().words.get(word[:-1], "")
        if singular and singular in "npkgtfj":
            return "n" if singular == "j" else singular
    if size > 4 and word.endswith("ing"):
        return "v"
    if size > 3 and word.endswith("ed") and not word.endswith("eed"):
        return "e"
    if size > 5 and word.endswith("est"):
        return "m"
    if size > 5 and word.endswith(("less", "ful", "like", "ish")):
        return "j"
    if size > 5 and word.endswith("ly") and word not in lexicon().lists["no-adverb"]:
        return "a"
    if size > 6 and word.endswith(("woman", "women")):
        return "p"
    if word[0] == "w" and lexicon().words.get(word[1:]) == "c":  # "w/red hat" without its slash
        return "e"
    return "n"


@lru_cache(maxsize=1 << 15)
def stem(word: str) -> str:
    """The lemma by which words are compared: number, tense and -ing removed ("wearing": "wear").

    It is a key, not always a word: "riding" and "ride" both become "rid".
    """
    irregular = lexicon().lists["irregular"]
    word = irregular.get(word, word)
    size = len(word)
    if size > 4 and word.endswith("ies"):
        word = word[:-3] + "y"
    elif size > 4 and word.endswith(("ches", "shes", "sses", "xes", "zes")):
        word = word[:-2]
    elif size > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    elif size > 5 and word.endswith("ing"):
        word = _undouble(word[:-3])
    elif size > 4 and word.endswith("ed"):
        word = _undouble(word[:-2])
    word = irregular.get(word, word)
    return word[:-1] if len(word) > 3 and word.endswith("e") else word


def _undouble(word: str) -> str:
    """ "sitt" (from "sitting") is "sit"; "fall" stays."""
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
        return word[:-1]
    return word

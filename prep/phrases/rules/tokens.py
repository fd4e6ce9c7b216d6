"""Tokenises an expression into words and word classes: joins compounds and disambiguates in context."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise

from prep.cache.keys import normalise_text
from prep.phrases.rules.context import settle_classes
from prep.phrases.rules.lexicon import lexicon
from prep.phrases.rules.wordforms import SIDES, guess

# The rules read at most this much; the longest real expression has fewer than half as many words.
MAX_WORDS = 80
MAX_LETTERS = 24

_WORD = re.compile(r"w/|'s\b|[^\W_]+(?:['-][^\W_]+)*'?|[&,;:.!?()+@|=/]")
_POSSESSIVE = re.compile(r"(?<=\w)'s$|(?<=s)'$")
_HYPHEN = re.compile(r"(?<=\w) - (?=\w)")
_CONTRACTED = frozenset({"that's", "who's", "it's", "he's", "she's", "there's", "what's"})
_TYPOGRAPHIC = str.maketrans({"\u2019": "'", "\u2018": "'", "\u2014": ",", "\u2013": ","})


@lru_cache(maxsize=256)
def read(text: str) -> tuple[tuple[str, ...], str]:
    """The words of ``text``, lower case, compounds such as "next to" as one; and a class letter for each."""
    line = normalise_text(text)
    words = line.split(" ") if line.replace(" ", "").isalnum() else _marked_words(line)
    if len(line) > MAX_LETTERS and max(map(len, words), default=0) > MAX_LETTERS:
        words = [word[:MAX_LETTERS] for word in words]
    del words[2 * MAX_WORDS :]
    if not lexicon().starts.keys().isdisjoint(pairwise(words)):
        words = _join_compounds(words)
    del words[MAX_WORDS:]
    tags = list(map(guess, words))
    settle_classes(words, tags)
    return tuple(words), "".join(tags)


def _marked_words(line: str) -> list[str]:
    """The words of a line with punctuation; separators and possessive marks are words too."""
    if not line.isascii():
        line = line.translate(_TYPOGRAPHIC)
    if " ' " in line or " - " in line:
        line = _HYPHEN.sub("-", line.replace(" ' s ", "'s ").replace(" ' ", "' "))
    words: list[str] = []
    for word in _WORD.findall(line):
        if "'" not in word or word in _CONTRACTED or len(word) <= 2:
            words.append(word)
            continue
        bare, marks = word, 0
        while mark := _POSSESSIVE.search(bare):  # typing errors have more than one: "man's's"
            bare, marks = bare[: mark.start()], marks + 1
        words += [bare if marks else bare.rstrip("'"), *["'s"] * marks]
    return words


def _join_compounds(words: list[str]) -> list[str]:
    """Join compounds into one word, longest first; include a location before "left of"."""
    _, compounds, starts, _ = lexicon()
    joined: list[str] = []
    done = 0
    for i in [i for i, pair in enumerate(pairwise(words)) if pair in starts]:
        if i < done:
            continue
        for size in range(min(starts[words[i], words[i + 1]], len(words) - i), 1, -1):
            phrase = " ".join(words[i : i + size])
            if phrase in compounds:
                joined += words[done:i]
                if phrase in SIDES and joined and guess(joined[-1]) == "s":
                    phrase = f"{joined.pop()} {phrase}"
                joined.append(phrase)
                done = i + size
                break
    return joined + words[done:]

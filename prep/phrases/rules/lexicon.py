"""Reads the lexicon of the rules: the class of each word and compound, and short lists."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

# One letter per class; the grammar (:mod:`prep.phrases.rules.grammar`) is written over strings of them.
#
#   d determiner        h possessive pronoun   u other pronoun      f stand-in noun (one, thing)
#   n noun              p person or animal     k clothing, body     g region (side, corner)
#   t part or amount of something              G noun that owns the next one (mans hat)
#   c colour            j other adjective      s place word         o ordinal
#   m comparison        0 number               a adverb             x negation
#   v verb in -ing      V the same, taking an object                e past participle
#   z finite verb       b form of "be"         q particle (off, up) y chatter
#   w with              I in                   O of                 T to
#   F from              N than                 l preposition of a landmark (behind, near)
#   i other preposition r that, which          R who, whose
#   & and, or           , break                ' possessive mark

_HEADING = re.compile(r"== (compounds |list )?(\S+) ==")


class Lexicon(NamedTuple):
    """The contents of ``words.txt``.

    ``words`` and ``compounds`` map to a class; ``starts`` maps the first two words of a compound to its
    maximum number of words; ``lists`` are short lists by name, whose words map to what follows a colon.
    """

    words: dict[str, str]
    compounds: dict[str, str]
    starts: dict[tuple[str, str], int]
    lists: dict[str, dict[str, str]]


@lru_cache(maxsize=1)
def lexicon() -> Lexicon:
    """The word list; if a word occurs twice, the last heading applies."""
    found = Lexicon({}, {}, {}, {})
    into, letter = found.words, ""
    for line in (Path(__file__).parent / "words.txt").read_text(encoding="utf-8").splitlines():
        heading = _HEADING.fullmatch(line)
        if heading and heading[1] == "list ":
            into, letter = found.lists.setdefault(heading[2], {}), ""
        elif heading:
            into, letter = (found.compounds if heading[1] else found.words), heading[2]
        elif line and not line.startswith("#"):
            for part in line.strip(",").split(", ") if into is found.compounds else line.split():
                word, _, value = part.partition(":") if len(part) > 1 and not letter else (part, "", letter)
                into[word] = value
    for compound in found.compounds:
        first, second, *rest = compound.split(" ")
        found.starts[first, second] = max(found.starts.get((first, second), 0), 2 + len(rest))
    return found

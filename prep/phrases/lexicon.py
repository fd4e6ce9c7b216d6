"""The word list of the rules: which class a word or compound has, read once from ``words.txt``."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

# One letter per class; the grammar (:mod:`prep.phrases.grammar`) is written over strings of them.
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

_HEADING = re.compile(r"== (compounds )?(\S) ==")

IRREGULAR = {
    word: lemma
    for line in (
        "men:man women:woman children:child people:person ppl:person feet:foot teeth:tooth geese:goose",
        "mice:mouse knives:knife leaves:leaf shelves:shelf loaves:loaf wolves:wolf calves:calf",
        "halves:half wore:wear worn:wear held:hold sat:sit stood:stand rode:ride ridden:ride ate:eat",
        "eaten:eat ran:run lay:lie laid:lie lying:lie laying:lie lies:lie lays:lie threw:throw",
        "thrown:throw caught:catch took:take taken:take made:make seen:see saw:see shown:show drew:draw",
        "drawn:draw has:have had:have having:have tied:tie tying:tie ties:tie lit:light broken:break",
        "gray:grey centre:center colour:color coloured:color colored:color",
    )
    for word, _, lemma in (pair.partition(":") for pair in line.split())
}

# Shades: an adverb before a colour ("dark blue"), otherwise of the class given here.
SHADES = {
    "light": "n", "dark": "j", "bright": "j", "pale": "j", "deep": "j", "lt": "j", "medium": "j", "drk": "j",
}  # fmt: skip


class Lexicon(NamedTuple):
    """Classes of words and of compounds, and for a compound's first word the most words that it can have."""

    words: dict[str, str]
    compounds: dict[str, str]
    longest: dict[str, int]


@lru_cache(maxsize=1)
def lexicon() -> Lexicon:
    """The word list; where a word stands twice, its last heading holds."""
    words: dict[str, str] = {}
    compounds: dict[str, str] = {}
    into, sort = words, ""
    for line in (Path(__file__).parent / "words.txt").read_text(encoding="utf-8").splitlines():
        heading = _HEADING.fullmatch(line)
        if heading:
            into, sort = (compounds if heading[1] else words), heading[2]
        elif line and not line.startswith("#"):
            parts = line.strip(",").split(", ") if into is compounds else line.split()
            into.update(dict.fromkeys(parts, sort))
    longest: dict[str, int] = {}
    for compound in compounds:
        first = compound.split(" ", 1)[0]
        longest[first] = max(longest.get(first, 0), compound.count(" ") + 1)
    return Lexicon(words, compounds, longest)

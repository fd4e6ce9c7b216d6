"""Finds expressions that look broken: wrong encoding, left-over markup, control characters, joined words."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from prep.audit.overlap import words_of
from prep.phrases.rules.lexicon import lexicon
from prep.records import Expression

# UTF-8 read as cp1252 or Latin-1: a lead byte's letter, then what a continuation byte becomes.
_MOJIBAKE = re.compile(
    r"[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
)
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|&(?:#\d+|[A-Za-z]{2,8});|\\[nrtu]|\[/?[A-Z]+\]|https?://")
_REPEATED = re.compile(r"(\w)\1{3,}")
# Words that typists join to the noun before or after them: "guyin", "manon", "redclick".
_SMALL = frozenset(["in", "on", "at", "of", "the", "with", "by", "to", "and", "left", "right"])
RARE = 2  # a joined word occurs at most so often
MIN_JOINED = 5  # letters


def problems_of(row: Expression) -> Iterator[str]:
    """What is strange about one expression, as names of kinds."""
    text = row.text
    if row.problem:
        yield f"unusable: {row.problem}"
        return
    if "\ufffd" in text or _MOJIBAKE.search(text):
        yield "encoding: letters that UTF-8 read as another encoding gives"
    if _MARKUP.search(text):
        yield "markup: tags, entities, escapes or links"
    if any(unicodedata.category(letter) in ("Cc", "Cf", "Co", "Cn") for letter in text):
        yield "invisible: control or formatting characters"
    if not any(letter.isalpha() for letter in text):
        yield "no letters"
    elif any(_is_foreign(letter) for letter in text):
        yield "script: letters other than Latin ones"
    if _REPEATED.search(text):
        yield "repeated: a letter or digit four times or more"


def _is_foreign(letter: str) -> bool:
    return letter.isalpha() and not letter.isascii() and "LATIN" not in unicodedata.name(letter, "")


def broken(rows: Iterable[Expression]) -> dict[str, list[Expression]]:
    """Kind of problem -> the expressions that have it, in the order of ``rows``."""
    found: dict[str, list[Expression]] = {}
    counts: Counter[str] = Counter()
    users: dict[str, Expression] = {}
    for row in rows:
        for kind in problems_of(row):
            found.setdefault(kind, []).append(row)
        for word in words_of(row.text):
            counts[word] += 1
            users.setdefault(word, row)
    for word in (word for word, count in counts.items() if count <= RARE):
        if parts := parts_of(word, counts):
            found.setdefault(f"joined: {' '.join(parts)}", []).append(users[word])
    return found


def parts_of(word: str, counts: Mapping[str, int]) -> tuple[str, str] | None:
    """The two words that ``word`` may be without its space: a small one, and one of the rules' lexicon that
    is used more often; None if it is in the lexicon itself.
    """
    known = lexicon().words
    if len(word) < MIN_JOINED or word in known or not word.isalpha():
        return None
    for at in range(2, len(word) - 1):
        first, second = word[:at], word[at:]
        small, other = (first, second) if first in _SMALL else (second, first)
        if (
            small in _SMALL
            and len(other) > 2
            and other in known
            and counts.get(other, 0) > counts.get(word, 0)
        ):
            return first, second
    return None

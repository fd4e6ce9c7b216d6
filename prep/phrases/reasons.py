"""Words what is wrong with a model's answer, line by line, for the second turn of the conversation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prep.phrases.checks import (
    MAX_PHRASES,
    about,
    content,
    cues_of,
    is_repeated,
    reading,
    target_first,
    too_long,
    violations,
)
from prep.phrases.parse import parse
from prep.phrases.rules.tokens import read
from prep.phrases.rules.wordforms import stem

# Bounds of the second turn: faults told, and letters of a quoted line.
MAX_FAULTS = 6
MAX_QUOTED_LINE = 60

HEAD = "That breaks the rules above:"
TAIL = "Answer again with all lines, nothing but a JSON list of strings."
FAULTS = {
    "count": "- Give one to five phrases.",
    "target": '- The first line must name the target alone, without any cue; "{line}" does not.',
    "about": '- "{line}" is about something else. Name the target in it, or leave it out.',
    "several": '- "{line}" has several cues. Give each a line of its own.',
    "repeated": '- "{line}" adds no new cue. Leave it out.',
    "long": '- "{line}" is too long.',
    "foreign": "- Not in the expression: {words}.",
    "missing": "- No line has: {words}.",
}


def second_turn(text: str, raw: str) -> str:
    """The user's second turn: every fault of the answer ``raw`` to the expression ``text``, and the request.

    It names no target of its own: the rules' may be wrong. Words are quoted without marks that could end the
    quotation.
    """
    faults = list(_faults(text, parse(raw)))
    return "\n".join([HEAD, *faults[:MAX_FAULTS], TAIL])


def _faults(text: str, phrases: Sequence[str]) -> Iterator[str]:
    failed = violations(text, phrases)
    if not phrases or "count" in failed:
        yield FAULTS["count"]
    if not phrases:
        return
    if not target_first(text, phrases):
        yield _told("target", phrases[0])
    several = "several_cues" in failed
    for at, phrase in enumerate(phrases[: MAX_PHRASES + 1]):
        if not too_long(text, [phrase]):
            yield _told("long", phrase)
        if not at:
            continue
        if not about(text, phrase, phrases[0]):
            yield _told("about", phrase)
        elif several and len(cues_of(phrase, phrases[0])) > 1:
            yield _told("several", phrase)
        elif is_repeated(text, phrases, at):
            yield _told("repeated", phrase)
    yield from _words(text, phrases)


def _words(text: str, phrases: Sequence[str]) -> Iterator[str]:
    """The words that the answer has and the expression has not, and the other way round."""
    there = reading(text).stems
    said = frozenset[str]().union(*(reading(phrase).stems for phrase in phrases))
    foreign = [w for p in phrases for w in read(p)[0] if stem(w) in content(p) and stem(w) not in there]
    missing = [w for w in read(text)[0] if there.get(stem(w), "") not in ("", "y") and stem(w) not in said]
    for name, words in (("foreign", foreign), ("missing", missing)):
        if words:
            yield FAULTS[name].format(words=quoted_words(words))


def _told(name: str, phrase: str) -> str:
    return FAULTS[name].format(line=quoted(phrase))


def quoted_words(words: Sequence[str]) -> str:
    """The first few of ``words`` as a quoted list, none twice."""
    return ", ".join(f'"{quoted(word)}"' for word in list(dict.fromkeys(words))[:MAX_FAULTS])


def quoted(text: str) -> str:
    """A text to quote: no quotation mark, bracket or brace, and not too long."""
    return "".join(c for c in text if c not in '"“”[]{}<>|')[:MAX_QUOTED_LINE].strip()

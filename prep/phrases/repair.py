"""Repairs a model's answer: keeps its right lines, and mends those that break a rule of the prompt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

from prep.phrases.checks import MAX_PHRASES, about, content, cues_of, occurrences, reading, violations
from prep.phrases.clip_tokens import count_tokens
from prep.phrases.rules.decompose import STAND_IN, compose
from prep.phrases.rules.grammar import analyse
from prep.phrases.rules.shapes import Cue
from prep.phrases.rules.tokens import read
from prep.phrases.rules.wordforms import stem
from prep.phrases.target import named_at

# How alike two words are of which one is a spelling of the other, from 0 to 1.
_ALIKE = 0.75

# Classes of words that a line about the target cannot start with.
_CUE_STARTS = tuple("VvezwIilTFrRbxy")

# Name in the column ``repairs`` -> what was done, in the order in which it is tried.
REPAIRS = {
    "respelled": "a word got the spelling of the expression",
    "target_made": "the target line was made, or put first",
    "other_object_dropped": "a line about another object, or with a word of its own, was dropped",
    "split": "a line with several cues was split",
    "repeat_dropped": "a line or cue that was said already was dropped",
    "target_added": "the target was added to a cue that stood alone",
    "cue_added": "a cue that no line had was added",
    "merged": "two lines were merged, as there were more than five",
}


class Repaired(NamedTuple):
    """The phrases of a repaired answer, and the repairs: keys of :data:`REPAIRS`, each once."""

    phrases: tuple[str, ...]
    repairs: tuple[str, ...]


def repair(text: str, phrases: Sequence[str]) -> Repaired:
    """Mend ``phrases``, a model's answer for the expression ``text``, so that they pass every check.

    A valid answer comes out unchanged, as does one that cannot be mended; neither has repairs. No word is
    added that is neither in the answer nor in the expression, except "the" and "object". The rules are used
    to split a line and to word a cue, and for the target only if no line names one.
    """
    given = tuple(phrases)
    if not violations(text, given):
        return Repaired(given, ())
    mended = _Repair(text, given)
    found = mended.phrases()
    if not found or violations(text, found):
        return Repaired(given, ())
    return Repaired(found, tuple([name for name in REPAIRS if name in mended.done]))


class _Line(NamedTuple):
    """A phrase of the result: its words and the content words of its cue."""

    phrase: str
    cue: frozenset[str]


class _Repair:
    """One answer's repair; ``done`` collects the names of what was needed."""

    def __init__(self, text: str, phrases: Sequence[str]) -> None:
        self.text, self.given = text, phrases
        self.there = reading(text).stems
        self.counts = occurrences(text)
        self.done: set[str] = set()
        self.dropped: set[str] = set()
        self.lines: list[_Line] = []

    def phrases(self) -> tuple[str, ...]:
        """The repaired phrases, not yet checked; none without a target."""
        given = list(self._spelt(self.given))
        target = _target(self.text, given)
        if not target:
            return ()
        if target != given[0]:
            self.done.add("target_made")
        kept = False
        for phrase in given:
            if content(phrase) - self.there.keys():
                self._drop(phrase)
            elif about(self.text, phrase, target):
                kept = True
                self._take(phrase, target)
            elif cue := _bare_cue(phrase):
                kept = True
                self.done.add("target_added")
                self._take(f"{target} {cue}", target)
            else:
                self._drop(phrase)
        if not kept:
            return ()
        self._add_missing(target)
        while len(self.lines) >= MAX_PHRASES:
            if not self._merge(target):
                return ()
        return (target, *(line.phrase for line in self.lines))

    def _spelt(self, phrases: Sequence[str]) -> Iterator[str]:
        """The phrases with the expression's spelling of its words."""
        said = frozenset[str]().union(*map(content, phrases))
        unsaid = [
            word for word in read(self.text)[0] if self.there.get(key := stem(word)) and key not in said
        ]
        for phrase in phrases:
            words = phrase.split(" ")
            for i, word in enumerate(words):
                if stem(word) not in self.there and (match := _spelling(word, unsaid)):
                    words[i] = match
                    self.done.add("respelled")
            yield " ".join(words)

    def _drop(self, phrase: str) -> None:
        """Leave a line out, but remember which words it had."""
        self.dropped |= content(phrase)
        self.done.add("other_object_dropped")

    def _take(self, phrase: str, target: str) -> None:
        """Add the cues of a line, each as a line of its own."""
        if phrase == target:
            return
        parts = _split(phrase, target)
        if len(parts) > 1:
            self.done.add("split")
        for part in parts:
            line = _Line(part, content(part) - content(target))
            if not line.cue or any(self._says(other, line) for other in self.lines):
                self.done.add("repeat_dropped")
                continue
            self._replace_parts_of(line)
            self.lines.append(line)

    def _replace_parts_of(self, line: _Line) -> None:
        """Drop the lines that say a part of what ``line`` says."""
        kept = [other for other in self.lines if not self._says(line, other)]
        if len(kept) < len(self.lines):
            self.done.add("repeat_dropped")
            self.lines = kept

    def _says(self, line: _Line, other: _Line) -> bool:
        """Whether ``line`` says all that ``other`` does, and the expression does not say it twice."""
        return other.cue == line.cue or (
            other.cue < line.cue and any(self.counts[key] <= 1 for key in other.cue)
        )

    def _add_missing(self, target: str) -> None:
        """Add the cues, as the rules word them, that no line has; at most as many as the model's own."""
        said = content(target).union(*(line.cue for line in self.lines))
        missing = {key for key, kind in self.there.items() if kind not in ("", "y") and key not in said}
        words, tags = read(self.text)
        frame = analyse(tags)
        head, room = named_at(self.text, target) or frame.head, len(self.lines)
        for cue in frame.cues if missing else ():
            keys = {stem(part) for i in cue.words for part in words[i].replace("-", " ").split()}
            keys = {key for key in keys if self.there.get(key)} - content(target)
            if not keys & missing:
                continue
            supplied = keys & missing <= self.dropped
            room -= not supplied
            if room < 0:
                return
            self.done.add("target_added" if supplied else "cue_added")
            line = _Line(compose(words, tags, head, Cue(cue.words)), frozenset(keys))
            self._replace_parts_of(line)
            self.lines.append(line)

    def _merge(self, target: str) -> bool:
        """Merge the two neighbouring lines that are shortest together; False if none can be merged."""
        merged = {}
        for i, (line, other) in enumerate(zip(self.lines, self.lines[1:], strict=False)):
            rest = other.phrase.removeprefix(f"{target} ")
            if rest != other.phrase:
                merged[i] = _Line(f"{line.phrase} {rest}", line.cue | other.cue)
        if not merged:
            return False
        at = min(merged, key=lambda i: count_tokens(merged[i].phrase))
        self.lines[at : at + 2] = [merged[at]]
        self.done.add("merged")
        return True


def _bare_cue(phrase: str) -> str:
    """A line without its article if it is a cue without a target ("on the left", "standing"); else empty."""
    words, tags = read(phrase)
    start = len(tags) - len(tags.lstrip("d"))
    if tags[start : start + 1] in _CUE_STARTS or not reading(phrase).target:
        return " ".join(words[start:]).replace(" 's", "'s")
    return ""


def _spelling(word: str, unsaid: Sequence[str]) -> str:
    """The word of the expression that ``word`` spells in another way or in full; empty if there is none."""
    for other in unsaid:
        if len(other) > 3 and SequenceMatcher(None, other, word).ratio() >= _ALIKE:
            return other
        letters = iter(word)
        if 1 < len(other) < len(word) - 1 and other[0] == word[0] and all(c in letters for c in other):
            return other
    return ""


def _target(text: str, lines: Sequence[str]) -> str:
    """The phrase that names the target: a line, the name in one, or the rules'; empty if no line fits."""
    for line in lines:
        if named_at(text, line):
            return line
        if named_at(text, name := _name(line)):
            return name
    words, tags = read(text)
    head = analyse(tags).head
    name = compose(words, tags, head, Cue(())) if head else f"the {STAND_IN}"
    return name if any(about(text, line, name) for line in lines) else ""


def _name(phrase: str) -> str:
    """A phrase without its cues."""
    words, tags = read(phrase)
    head = analyse(tags).head
    return compose(words, tags, head, Cue(())) if head else ""


def _split(phrase: str, target: str) -> list[str]:
    """A phrase as one phrase per cue, in its own words."""
    if len(cues_of(phrase, target)) <= 1:
        return [phrase]
    words, tags = read(phrase)
    frame, named = analyse(tags), content(target)
    head, cues = set(frame.head), list[Cue]()
    for cue in frame.cues:
        if all(stem(words[i]) in named for i in cue.words if tags[i] not in "O"):
            head.update(cue.words)
        else:
            cues.append(cue)
    return [compose(words, tags, tuple(sorted(head)), Cue(cue.words)) for cue in cues]

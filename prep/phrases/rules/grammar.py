"""The grammar of referring expressions: finds the words that name the target and the cues about it.

It works on word classes alone (one letter per word, see :mod:`prep.phrases.rules.lexicon`), so that
expressions of the same shape are analysed once.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise

from prep.phrases.rules.shapes import (
    CHOICE,
    COUNTED,
    COUNTED_BEFORE_NOUN,
    END,
    LEAD_IN,
    NOUN_PHRASE,
    ORIGIN,
    POSITION,
    TARGET,
    WORN_BEHIND,
    Cue,
    Frame,
    adjective_cues,
    place_end,
)
from prep.phrases.rules.spans import clause_end, described_end, predicate_end, preposition_end, subject_end


@lru_cache(maxsize=1 << 15)
def analyse(tags: str) -> Frame:
    """The frame of an expression whose words have these classes; indices count all words, even chatter."""
    reader = _Reader(tags.replace("y", ",") + END)
    reader.read()
    return Frame(reader.head, tuple([cue for cue in reader.cues if cue.words]))


class _Reader:
    """A cursor over classes that fills in ``head`` and ``cues``."""

    def __init__(self, tags: str) -> None:
        self.tags = tags
        self.at = 0
        self.head: tuple[int, ...] = ()
        self.cues: list[Cue] = []
        # The preposition that a noun phrase after "and" repeats: "in a hat and a scarf".
        self.lead: tuple[int, ...] = ()

    def read(self) -> None:
        match = LEAD_IN.match(self.tags, self.at)
        while match:
            self.at = match.end()
            match = LEAD_IN.match(self.tags, self.at)
        # "not the big one" has no target; "no people" does.
        negated = self.tags.startswith("xd", self.at)
        if not negated and not self._target():
            self._place_then_target()
        while self.tags[self.at] != END[0]:
            before = self.at
            self._segment()
            self.at = max(self.at, before + 1)

    # The target ---------------------------------------------------------------------------------------------

    def _place_then_target(self) -> None:
        """ "on the left, the man": the cue precedes the noun phrase."""
        start = self.at
        for pattern in (COUNTED_BEFORE_NOUN, COUNTED, POSITION):
            place = pattern.match(self.tags, start)
            if place:
                self.at = place.end()
                while self.tags[self.at] == ",":
                    self.at += 1
                if self._target():
                    self.cues.insert(0, Cue(tuple(range(start, place.end()))))
                else:
                    self.at = start
                return

    def _target(self) -> bool:
        """Read the noun phrase at the cursor as the target, with the cues before its noun."""
        start = self.at
        match = TARGET.match(self.tags, start)
        cues: list[Cue] = []
        while match and self.tags[match.end()] == "'":
            # "the old man's bag": everything before the possessive mark is one cue; the noun follows.
            first = start if cues or match[1] == "h" else match.end(1)
            cues = [Cue(tuple(range(first, match.end() + 1)))]
            match = TARGET.match(self.tags, match.end() + 1)
        if not match or (not match[3].strip("g") and self.tags[match.end()] != "O"):
            return False
        if match[1].strip("d"):
            cues.extend(Cue((i,)) for i in range(match.start(1), match.end(1)) if self.tags[i] in "hx")
        if match[2]:
            cues.extend(adjective_cues(self.tags, match.start(2), match.end(2)))
        self.at = match.end()
        self.head = self._name(match, cues)
        self.cues.extend(cues)
        self._part_of()
        self._counted_from()
        self._and_another()
        return True

    def _name(self, match: re.Match[str], cues: list[Cue]) -> tuple[int, ...]:
        """The words of the name; nouns before it that are cues ("red shirt guy") are added to ``cues``."""
        first, run = match.start(3), match[3]
        if len(run) == 1:
            return (first,)
        worn = WORN_BEHIND.search(run)
        if worn:
            run = run[: worn.start() + 1]
            self.at = first + len(run)
        start = first
        for i, (tag, following) in enumerate(pairwise(run), start=first):
            bound: list[int] = []
            if tag == "G":
                bound = [word for cue in cues for word in cue.words]
                cues.clear()
            elif tag == "g" or (tag in "kn" and (following == "f" or self._worn(i, start, cues))):
                while cues and self._describes(cues[-1], tag):
                    bound = [*cues.pop().words, *bound]
            else:
                continue
            cues.append(Cue((*bound, *range(start, i + 1))))
            start = i + 1
        return tuple(range(start, first + len(run)))

    def _worn(self, i: int, start: int, cues: list[Cue]) -> bool:
        """Whether the noun at ``i`` is worn by the person after it ("red shirt guy")."""
        coloured = bool(cues) and cues[-1].words[-1] == start - 1 and self.tags[start - 1] == "c"
        return self.tags[i + 1] == "p" and (self.tags[i] == "k" or coloured)

    def _describes(self, cue: Cue, tag: str) -> bool:
        """Whether an adjective describes the noun of class ``tag`` after it rather than the target."""
        return any(self.tags[i] in ("smo" if tag == "g" else "cea") for i in cue.words)

    def _part_of(self) -> None:
        """ "piece of cake", "back of the chair", "half a melon": the whole is part of the name."""
        last, tag = self.tags[self.head[-1]], self.tags[self.at]
        if not (last in "tgs" and tag == "O") and not (last == "t" and tag == "d"):
            return
        start = self.at + (tag == "O")
        match = NOUN_PHRASE.match(self.tags, start)
        if not match or (tag == "d" and self.tags[match.end()] in "bzvV"):
            return
        name = set(range(self.at, match.end()))
        whole = TARGET.match(self.tags, start)
        if whole and whole.end() <= match.end():
            self.cues.extend(adjective_cues(self.tags, whole.start(2), whole.end(2)))
            name.difference_update(range(whole.start(2), whole.end(2)))
        self.head = (*self.head, *sorted(name))
        self.at = match.end()

    def _counted_from(self) -> None:
        """ "second boat from the left": the cue continues after the noun."""
        if not ORIGIN.match(self.tags, self.at):
            return
        for k in reversed(range(len(self.cues))):
            cue = self.cues[k]
            if any(self.tags[i] in "o0m" for i in cue.words):
                end = preposition_end(self.tags, self.at)
                self.cues[k] = Cue((*cue.words, *range(self.at, end)), cue.link)
                self.at = end
                return

    def _and_another(self) -> None:
        """ "man and woman" is a name too."""
        if self.tags[self.at] == "&":
            match = TARGET.match(self.tags, self.at + 1)
            if match and set(match[3]) != {"g"} and "x" not in match[1]:
                self.head = (*self.head, self.at, *range(match.end(1), match.end()))
                self.at = match.end()

    # What follows it ----------------------------------------------------------------------------------------

    def _add(self, end: int, link: str = "", skip: int = 0) -> None:
        """Make the words from the cursor (or ``skip`` after it) to ``end`` a cue."""
        self.cues.append(Cue(tuple(range(self.at + skip, end)), link))
        self.lead = ()
        self.at = end

    def _extend(self, end: int) -> None:
        """Extend the previous cue to ``end``."""
        if not self.cues:
            self._add(end)
            return
        last = self.cues.pop()
        self.cues.append(Cue((*last.words, *range(self.at, end)), last.link))
        self.at = end

    def _segment(self) -> None:
        """Read the next cue at the cursor, or skip a word that starts none."""
        start, tag = self.at, self.tags[self.at]
        if tag == ",":
            self._listed()
            return
        if tag == "&":
            self._coordinate()
            return
        choice = CHOICE.match(self.tags, start) if tag in "dmosc0" else None
        if choice:
            self._choose(choice, start + int(tag == "d"))
            return
        end = place_end(self.tags, start)
        if end > start:
            self._add(end)
            return
        end = predicate_end(self.tags, start)
        if end > start:
            self._add(end)
            self.lead = (start,) if tag in "wIVz" else ()
            return
        self._noun_segment()

    def _choose(self, choice: re.Match[str], first: int) -> None:
        """ "the bigger of the two dogs": the noun at the end is the target's, if it has none yet."""
        noun = end = choice.end()
        while not self.head and self.tags[noun - 1] in "npkt":
            noun -= 1
        self.head = self.head or tuple(range(noun, end))
        self.cues.append(Cue(tuple(range(first, noun))))
        self.lead = ()
        self.at = end

    def _listed(self) -> None:
        """After a comma: more clothing repeats the preposition before it ("in a red shirt, blue jeans")."""
        match = NOUN_PHRASE.match(self.tags, self.at + 1)
        if self.lead and match and self.tags[match.end() - 1] == "k":
            self.cues.append(Cue((*self.lead, *range(match.start(), match.end()))))
            self.at = match.end()
        else:
            self.lead = ()

    def _coordinate(self) -> None:
        """After "and": a new cue, repeating the preposition if only a noun phrase follows."""
        self.at += 1
        tag, after = self.tags[self.at], self.tags[self.at + 1 : self.at + 2]
        match = NOUN_PHRASE.match(self.tags, self.at)
        if not match or tag in "sm" or (tag == "u" and after in "bzVv"):
            return
        if self.lead:
            end = described_end(self.tags, self.lead[0], match)
            self.cues.append(Cue((*self.lead, *range(self.at, end))))
            self.at = end
        elif self.cues and self.cues[-1].link:
            self._add(match.end(), link=self.cues[-1].link)
        elif self.cues:
            self.at -= 1
            self._extend(match.end())

    def _noun_segment(self) -> None:
        """A noun phrase without a preposition: "man red shirt", "the chair the baby sits in"."""
        start = self.at
        if not self.head and self._target():
            # "just left of the lamp, a chair": the preceding words are a cue about this noun.
            self.lead = ()
            return
        match = NOUN_PHRASE.match(self.tags, start)
        if not match:
            if self.tags[start] in "qi":
                self._extend(start + 1)
            return
        end = match.end()
        kind, after = self.tags[end - 1], self.tags[end]
        verb = subject_end(self.tags, start)
        if verb > start and (self.tags[start] in "dhu" or kind in "pf"):
            self._add(clause_end(self.tags, verb))
        elif kind == "m" and after == "N":
            self._add(preposition_end(self.tags, end))
        elif kind == "f" or (self.tags[start] in "smog" and "O" in match[0]):
            self._add(end)
        elif kind == "g":
            self.cues.extend(adjective_cues(self.tags, start, end - 1))
            self.at = end - 1
            self._extend(end)
        elif kind in "kG" or (kind == "n" and self.head):
            self._add(end, link="in" if kind == "k" else "with")
        else:
            self.cues.extend(adjective_cues(self.tags, start, end) or [Cue(tuple(range(start, end)))])
            self.at = end

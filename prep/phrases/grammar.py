"""The grammar of referring expressions: which words name the target and which make up each cue about it.

It works on classes alone (one letter a word, see :mod:`prep.phrases.lexicon`), so that expressions of the
same shape are analysed once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

_A = "[ajcsom0e]"
_ADJECTIVES = f"(?:(?:{_A}|(?<!c)v)+(?:[&,](?:{_A})+)*)"
_NOUN = "[npkgtfG]"
_CORE = f"[dh]*{_ADJECTIVES}?{_NOUN}+(?:'{_ADJECTIVES}?{_NOUN}*)*"
_BARE = "(?:[dh]*[ajcsom0]+(?:&[ajcsom0]+)*|[uh])"
NP = re.compile(f"(?:{_CORE}|{_BARE})(?:O(?:{_CORE}|{_BARE}))*")
HEAD = re.compile(f"([dhx]*)((?:(?:{_A}|v|(?<=d)V)+(?:[&,](?:{_A}|v)+)*)?)({_NOUN}+)")
# "left", "on the far right side", "in back", "in the top left corner": nothing that these could belong to
# follows.
POSITION = re.compile(r"(?:(?:[IiT]d?)?(?:[amo0]*s)+o?g*|[Iil]d?[ajcmo0]*g+)(?![sgnpktfO'])")
# "second from the left", "third one in from the right"
COUNTED = re.compile(r"(?:[IiT]?d?)?[om0]+[npf]?g?I?Fd?[amos]*(?:[sg]+)(?![npktfO'])")
LEAD_IN = re.compile(r"(?:[ud]b+|uz|zi(?=[dhnpjcso])|[rR](?=[dhV])|[&,NOq])")


class Cue(NamedTuple):
    """One cue: its words, and the word to put before them ("in", "with") where the expression has none."""

    words: tuple[int, ...]
    link: str = ""


class Frame(NamedTuple):
    """An expression's analysis: the words that name the target, none where it has no noun, and the cues."""

    head: tuple[int, ...]
    cues: tuple[Cue, ...]


@lru_cache(maxsize=1 << 16)
def analyse(tags: str) -> Frame:
    """The frame of an expression whose words have these classes; indices count all words, also chatter."""
    kept = [i for i, tag in enumerate(tags) if tag != "y"]
    reader = _Reader("".join(tags[i] for i in kept))
    reader.run()
    head = tuple(kept[i] for i in reader.head)
    cues = tuple(Cue(tuple(kept[i] for i in cue.words), cue.link) for cue in reader.cues if cue.words)
    return Frame(head, cues)


@dataclass
class _Reader:
    """A cursor over classes that fills in ``head`` and ``cues``."""

    tags: str
    at: int = 0
    head: tuple[int, ...] = ()
    cues: list[Cue] = field(default_factory=list)
    lead: tuple[int, ...] = ()

    def run(self) -> None:
        while self.at < len(self.tags):
            match = LEAD_IN.match(self.tags, self.at)
            if not match:
                break
            self.at = match.end()
        if not self._head():
            start = self.at
            opening = COUNTED.match(self.tags, self.at) or POSITION.match(self.tags, self.at)
            if opening:
                self.at = opening.end()
                while self._tag() == ",":
                    self.at += 1
                if self._head():
                    self.cues.insert(0, Cue(tuple(range(opening.start(), opening.end()))))
                else:
                    self.at = start
        while self.at < len(self.tags):
            before = self.at
            self._segment()
            self.at = max(self.at, before + 1)

    def _tag(self, ahead: int = 0) -> str:
        i = self.at + ahead
        return self.tags[i] if i < len(self.tags) else "$"

    # -- the target
    # ------------------------------------------------------------------------------------------------

    def _head(self) -> bool:
        """Read the noun phrase at the cursor as the target's, with the cues that stand before its noun."""
        start = self.at
        cues: list[Cue] = []
        while True:
            match = HEAD.match(self.tags, self.at)
            if not match:
                self.at = start
                return False
            if self.tags[match.end() : match.end() + 1] == "'":
                # "the old man's bag": all before the mark is one cue, and the noun is still to come.
                self.at = match.end() + 1
                if HEAD.match(self.tags, self.at):
                    first = match.end(1) if self.tags[match.start() : match.end(1)] != "h" else match.start()
                    cues = [Cue(tuple(range(start if cues else first, self.at)))]
                    continue
                self.at = start
                return False
            break
        if set(match[3]) == {"g"} and self.tags[match.end() : match.end() + 1] != "O":
            self.at = start
            return False
        cues.extend(self._before_noun(match))
        self.at = match.end()
        self.head = self._noun(match, cues)
        self.cues.extend(cues)
        self._rest_of_head()
        return True

    def _before_noun(self, match: re.Match[str]) -> list[Cue]:
        """The cues of determiners and adjectives; those that belong together ("black and white") are one."""
        cues = [Cue((i,)) for i in range(match.start(1), match.end(1)) if self.tags[i] in "hx"]
        cues.extend(_adjectives(self.tags, match.start(2), match.end(2)))
        return cues

    def _noun(self, match: re.Match[str], cues: list[Cue]) -> tuple[int, ...]:
        """The words of the name; nouns before it that are cues ("red shirt guy") join ``cues``."""
        first, last = match.start(3), match.end(3) - 1
        run = match[3]
        cut = first
        for offset, tag in enumerate(run[:-1]):
            i = first + offset
            following = run[offset + 1]
            if tag == "G":
                owned = [w for cue in cues for w in cue.words]
                cues[:] = [Cue((*owned, *range(cut, i + 1)))]
                cut = i + 1
            elif tag == "g" or (tag in "kn" and following == "f") or (tag == "k" and following == "p"):
                bound: list[int] = []
                while cues and self._binds(cues[-1], tag):
                    bound = [*cues.pop().words, *bound]
                cues.append(Cue((*bound, *range(cut, i + 1))))
                cut = i + 1
        return tuple(range(cut, last + 1))

    def _binds(self, cue: Cue, tag: str) -> bool:
        """Whether an adjective describes the noun of class ``tag`` behind it rather than the target."""
        kinds = {self.tags[i] for i in cue.words}
        return bool(kinds & {*"smo"}) if tag == "g" else bool(kinds & {*"cea"})

    def _rest_of_head(self) -> None:
        """ "piece of cake" and "man and woman" are names too."""
        if self._tag() == "O" and self.tags[self.head[-1]] == "t":
            match = NP.match(self.tags, self.at + 1)
            if match:
                inner = HEAD.match(self.tags, self.at + 1)
                skip = set(range(inner.start(1), inner.end(1))) if inner else set()
                name = [i for i in range(self.at, match.end()) if i not in skip]
                if inner and inner.end() <= match.end():
                    described = _adjectives(self.tags, inner.start(2), inner.end(2))
                    self.cues.extend(described)
                    words = {i for cue in described for i in cue.words}
                    loose = range(inner.start(2), inner.end(2))
                    name = [i for i in name if i not in words and i not in loose]
                self.head = (*self.head, *name)
                self.at = match.end()
        if self._tag() == "&":
            match = HEAD.match(self.tags, self.at + 1)
            if match and set(match[3]) != {"g"}:
                self.head = (*self.head, self.at, *range(match.end(1), match.end()))
                self.at = match.end()

    # -- what follows it
    # -------------------------------------------------------------------------------------------

    def _add(self, words: range | tuple[int, ...], link: str = "", lead: tuple[int, ...] = ()) -> None:
        self.cues.append(Cue(tuple(words), link))
        self.lead = lead

    def _extend(self, end: int) -> None:
        """Let the words up to ``end`` belong to the cue before."""
        words = tuple(range(self.at, end))
        if self.cues:
            last = self.cues.pop()
            self.cues.append(Cue((*last.words, *words), last.link))
        else:
            self._add(words)
        self.at = end

    def _segment(self) -> None:
        tag = self._tag()
        if tag in ",":
            self.lead = ()
            return
        if tag == "&":
            self._coordinate()
            return
        start = self.at
        position = COUNTED.match(self.tags, start) or POSITION.match(self.tags, start)
        if position:
            self.at = position.end()
            self._add(range(start, self.at))
            return
        end = self._predicate(start)
        if end > start:
            lead = (start,) if tag in "wIV" or self.tags[start] == "z" else ()
            self.at = end
            self._add(range(start, end), lead=lead)
            return
        self._noun_segment()

    def _coordinate(self) -> None:
        """After "and": a new cue; with the lead word again where only a noun phrase follows."""
        self.at += 1
        if self._tag() in "VvezbxrRIilwTFsm$,&":
            return
        match = NP.match(self.tags, self.at)
        if not match:
            return
        if self.lead:
            words = (*self.lead, *range(match.start(), match.end()))
            end = self._low(self.lead[0], match)
            words = (*self.lead, *range(match.start(), end))
            self.at = end
            self.cues.append(Cue(words))
        elif self.cues:
            self.at -= 1
            self._extend(match.end())

    def _noun_segment(self) -> None:
        """A noun phrase without a preposition: "man red shirt", "the chair the baby sits in"."""
        start = self.at
        match = NP.match(self.tags, start)
        if not match:
            if self._tag() in "qi":
                self._extend(start + 1)
            return
        after = self.tags[match.end() : match.end() + 1]
        if after and after in "bzvVu" and self.tags[start] in "dhupf":
            self.at = self._clause(match.end())
            self._add(range(start, self.at))
            return
        self.at = match.end()
        kind = self.tags[match.end() - 1]
        if self.tags[match.end() - 1] == "m" and after == "N":
            self.at = self._phrase(match.end())
            self._add(range(start, self.at))
        elif kind in "kG" or (kind == "n" and self.head):
            self._add(range(start, self.at), link="in" if kind == "k" else "with")
        else:
            for cue in _adjectives(self.tags, start, self.at) or [Cue(tuple(range(start, self.at)))]:
                self.cues.append(cue)

    # -- spans: each of these returns where the span that starts at ``i`` ends
    # -----------------------------------------

    def _predicate(self, i: int) -> int:
        tags = self.tags
        tag = tags[i] if i < len(tags) else "$"
        if tag in "Vvez":
            return self._verb(i)
        if tag in "IilwTFNO":
            return self._phrase(i)
        if tag in "rR":
            return self._clause(i + 1)
        if tag == "b":
            return self._clause(i)
        if tag == "x":
            return self._negated(i)
        if tag == "a" and i + 1 < len(tags) and tags[i + 1] in "VvezIilwTFr":
            return self._predicate(i + 1)
        if tag == "u" and i + 1 < len(tags) and tags[i + 1] in "bzVv":
            return self._clause(i + 1)
        return i

    def _negated(self, i: int) -> int:
        j = i + 1
        position = COUNTED.match(self.tags, j) or POSITION.match(self.tags, j)
        if position:
            return position.end()
        end = self._predicate(j)
        if end > j:
            return end
        match = NP.match(self.tags, j)
        if not match:
            return j
        end = match.end()
        # "not the one on the left": what describes the other one is part of the negation.
        position = COUNTED.match(self.tags, end) or POSITION.match(self.tags, end)
        if position:
            return position.end()
        nested = self._predicate(end)
        return max(end, nested)

    def _object(self, i: int) -> int:
        match = NP.match(self.tags, i)
        return match.end() if match else i

    def _verb(self, i: int) -> int:
        tags = self.tags
        j = i + 1
        while j < len(tags) and tags[j] in "qa":
            j += 1
        position = COUNTED.match(tags, j) or POSITION.match(tags, j)
        if position and tags[i] != "e":
            return position.end()
        end = self._object(j)
        if end > j:
            j = end
            while j < len(tags) and tags[j] == "q":
                j += 1
            attached = "iTlF"
        elif j < len(tags) and tags[j] in "IilwTF":
            j = self._phrase(j)
            attached = "iTlF"
        else:
            return j
        while j < len(tags) and tags[j] in attached and not POSITION.match(tags, j):
            end = self._phrase(j)
            if end == j:
                break
            j = end
        return j

    def _phrase(self, i: int) -> int:
        """A preposition, its noun phrase, and what describes that."""
        tags = self.tags
        j = i
        while j < len(tags) and tags[j] in "IilwTFNOa":
            j += 1
        position = COUNTED.match(tags, j) or POSITION.match(tags, j)
        if position:
            return position.end()
        match = NP.match(tags, j)
        if match:
            return self._low(i, match)
        if j < len(tags) and tags[j] in "Vvx":
            return self._predicate(j)
        return j

    def _low(self, i: int, match: re.Match[str]) -> int:
        """Where the phrase of the preposition at ``i`` ends, with all that describes its noun phrase."""
        tags = self.tags
        lead = tags[i]
        j = match.end()
        last = tags[j - 1]
        own = lead in "wIV" and last in "kcjG"
        for _ in range(4):
            if j >= len(tags):
                break
            nxt = tags[j]
            after = tags[j + 1] if j + 1 < len(tags) else "$"
            if (nxt in "iIl" and after in "hu") or (
                own and nxt == "i" and after in "dk" and not self._far(j)
            ):
                end = self._phrase(j)
            elif own and lead == "I" and last == "k" and nxt == "w":
                inner = NP.match(tags, j + 1)
                end = inner.end() if inner and tags[inner.end() - 1] not in "kp" else j
            elif own:
                end = j
            elif last in "pf" and nxt in "VvewrR":
                end = self._predicate(j)
            elif last in "pf" and nxt == "I":
                inner = NP.match(tags, j + 1)
                end = inner.end() if inner and tags[inner.end() - 1] in "kc" else j
            elif last not in "pf" and nxt in "wre":
                end = self._predicate(j)
            elif nxt == "&" and lead not in "wIV":
                inner = NP.match(tags, j + 1)
                end = inner.end() if inner else j
            elif nxt == "i" and after == "$":
                end = j + 1
            else:
                end = j
            if end <= j:
                break
            j = end
            last = tags[j - 1]
        return j

    def _far(self, j: int) -> bool:
        """Whether the phrase at ``j`` is a place in the picture, which belongs to the target."""
        return bool(POSITION.match(self.tags, j))

    def _clause(self, i: int) -> int:
        """The rest of a relative or finite clause from behind its pronoun or subject."""
        tags = self.tags
        j = i
        while j < len(tags) and tags[j] in "bxa":
            j += 1
        position = COUNTED.match(tags, j) or POSITION.match(tags, j)
        if position:
            return position.end()
        end = self._predicate(j)
        if end > j:
            return end
        match = NP.match(tags, j)
        if not match:
            return j
        j = match.end()
        if j < len(tags) and tags[j] in "bzVvxe":
            return self._clause(j) if tags[j] in "bx" else self._predicate(j)
        if j < len(tags) and tags[j] in "NTIil" and tags[j - 1] in "mjco":
            return self._phrase(j)
        return j


def _adjectives(tags: str, start: int, end: int) -> list[Cue]:
    """Split a run of adjectives into cues: each alone, but places, counts and joined colours together."""
    cues: list[Cue] = []
    words: list[int] = []
    kind = ""
    joined = False
    for i in range(start, end):
        tag = tags[i]
        if tag in "d,h":
            continue
        if tag == "&":
            joined = kind in "cj"
            if joined:
                words.append(i)
            continue
        same = (tag == kind and tag in "sc") or joined or (kind == "a") or (kind in "om" and tag == "s")
        same = same or (kind == "s" and tag in "so") or (kind == "c" and tag == "e")
        if words and not same:
            cues.append(Cue(tuple(words)))
            words = []
        words.append(i)
        kind = tag
        joined = False
    if words:
        cues.append(Cue(tuple(words)))
    return cues

"""The patterns of the grammar, as regular expressions over word classes, and the types it returns.

Classes are letters (see :mod:`prep.phrases.rules.lexicon`); a string of classes ends in ``END``, so that
every word has a next letter.
"""

from __future__ import annotations

import re
from typing import NamedTuple

END = "$$"

_ADJECTIVE = "[ajcsom0e]"
_ADJECTIVES = f"(?:(?:{_ADJECTIVE}|(?<!c)v)+(?:[&,](?:{_ADJECTIVE})+)*)"
_NOUN = "[npkgtfG]"
_NUMBERED = "(?:0+(?![npkgtfjc]))?"
_WITH_NOUN = f"[dh]*{_ADJECTIVES}?{_NOUN}+{_NUMBERED}(?:'{_ADJECTIVES}?{_NOUN}*)*"
_WITHOUT_NOUN = "(?:[dh]*[ajcsom0]+(?:&[ajcsom0]+)*|[uh])"
_SIMPLE = f"(?:{_WITH_NOUN}|{_WITHOUT_NOUN})"

# A noun phrase after a preposition or verb: "a red car", "the left", "it", "the edge of the table".
NOUN_PHRASE = re.compile(f"{_SIMPLE}(?:O{_SIMPLE})*")

# A region before a noun acts as an adjective: "bottom left corner pizza".
_REGION = f"g(?=(?:{_ADJECTIVE}|g|&)*[npktf])"
# The target's own noun phrase: determiners, adjectives, nouns. "back of" and "top of" are nouns.
TARGET = re.compile(
    f"([dhx]*)((?:(?:{_ADJECTIVE}|v|(?<=d)V|{_REGION})+(?:[&,](?:{_ADJECTIVE}|v)+)*)?)({_NOUN}+|s(?=O))"
)
# "man soccer jersey": what follows the person is clothing.
WORN_BEHIND = re.compile("p(?=n+k$)")

# "left", "on the far right side", "in back", "top row", unless a noun follows that they modify.
POSITION = re.compile(
    r"(?:(?:[IiT]d?)?(?:[amo0]*s)+(?:o(?!I?F))?g*|[Iil]d?[ajcmo0]*g+|d?[o0]+g+)(?![sgnpktfGO'])"
)
# "second from the left", "third one in from the right"
COUNTED = re.compile(r"(?:[IiT]?d?)?[om0]+[npf]?g?I?Fd?[amos]*[sg]+(?![npktfGO'])")
# The same before a noun: "second from left cow", "from right second cow".
COUNTED_BEFORE_NOUN = re.compile(
    r"d?(?:[IiT]?d?)?(?:[om0]+I?Fd?[amos]*[sg]+|Fd?[as]*s+[om]?)(?=[dhajcve]*[npktf])"
)
ORIGIN = re.compile("I?F")
# "the bigger of the two": none of the words names the target.
CHOICE = re.compile(f"d?[mo0sc]*[mo0]O{NOUN_PHRASE.pattern}")
# "there is", "it was", "any of", and words that cannot start an expression.
LEAD_IN = re.compile(r"a?[ud]b+|u(?=[jcsompknd])|uz|zi(?=[dhnpjcso])|dO(?=[dh])|[rR](?=[dhV])|[&,NO]")


class Cue(NamedTuple):
    """One cue: its words, and the preposition to put before them ("in", "with") if the text has none."""

    words: tuple[int, ...]
    link: str = ""


class Frame(NamedTuple):
    """An expression's analysis: the words that name the target, empty if it has no noun, and the cues."""

    head: tuple[int, ...]
    cues: tuple[Cue, ...]


def place_end(tags: str, i: int) -> int:
    """The end of a location in the picture that starts at ``i``; ``i`` if there is none."""
    # Every location contains an "s" or "g", so most words are excluded without matching a pattern.
    if tags[i] not in "IiTldamo0s" or (tags.find("s", i) < 0 and tags.find("g", i) < 0):
        return i
    match = COUNTED.match(tags, i) or POSITION.match(tags, i)
    return match.end() if match else i


def noun_phrase_end(tags: str, i: int) -> int:
    """The end of a noun phrase that starts at ``i``; ``i`` if there is none."""
    match = NOUN_PHRASE.match(tags, i)
    return match.end() if match else i


def adjective_cues(tags: str, start: int, end: int) -> list[Cue]:
    """Split a run of adjectives into cues: one each, but locations, counts, joined colours together."""
    cues: list[Cue] = []
    words: list[int] = []
    kind, joined = "", False
    for i in range(start, end):
        tag = tags[i]
        if tag == "&":
            joined = kind in {"c", "j"}
            if joined:
                words.append(i)
        elif tag not in "d,h":
            if words and not (joined or kind + tag in _TOGETHER or kind == "a"):
                cues.append(Cue(tuple(words)))
                words = []
            words.append(i)
            kind, joined = tag, False
    if words:
        cues.append(Cue(tuple(words)))
    return cues


# Neighbours that form one cue: "top left", "second left", "left side", "blue striped", "number two".
_TOGETHER = {"ss", "so", "sg", "os", "og", "ms", "cc", "ce", "00", "o0"}

"""Decomposes an expression by rules into the bare target and the target with one cue each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from prep.phrases.clip_tokens import MAX_TOKENS, count_tokens, fits
from prep.phrases.rules.grammar import analyse
from prep.phrases.rules.lexicon import lexicon
from prep.phrases.rules.shapes import Cue, Frame
from prep.phrases.rules.tokens import read

# Part of the key of every answer of the rules: change it whenever their output changes.
RULES_VERSION = "3"
MAX_PHRASES = 5
STAND_IN = "object"

# Words in cues that are not adjectives, so the name goes before them.
_AFTER_NAME = "IilwTFNOrRVzb"
_BREAKS = "IilwTFrR&x"


def break_up(text: str) -> tuple[str, ...]:
    """One to five phrases for ``text``, the first of which names the target; none if it has no word.

    Lower case. Every content word comes from the expression, apart from "object" for a target that it does
    not name. Deterministic; never raises.
    """
    words, tags = read(text)
    frame = analyse(tags)
    if not frame.head and not frame.cues:
        return ()
    cues = list(frame.cues)
    phrases = [compose(words, tags, frame.head, cue) for cue in cues]
    fitting = all(map(fits, phrases))
    if not fitting or len(cues) >= MAX_PHRASES:
        cues = cues if fitting else _split_long(words, tags, frame)
        while len(cues) >= MAX_PHRASES:
            cues = _merge_nearest(words, tags, frame.head, cues)
        phrases = [shorten(compose(words, tags, frame.head, cue)) for cue in cues]
    phrases.insert(0, shorten(compose(words, tags, frame.head, Cue(()))))
    # A name too long for CLIP is not used.
    return () if phrases[0] == "the" else tuple(dict.fromkeys(phrases))


def shorten(text: str, limit: int = MAX_TOKENS) -> str:
    """``text`` truncated to the words that fit ``limit`` CLIP tokens; a longer first word is cut."""
    if (limit == MAX_TOKENS and fits(text)) or count_tokens(text) <= limit:
        return text
    words = text.split()
    low, high = 0, min(len(words), limit)
    while low < high:
        middle = (low + high + 1) // 2
        if count_tokens(" ".join(words[:middle])) <= limit:
            low = middle
        else:
            high = middle - 1
    if low:
        return " ".join(words[:low])
    word = words[0][: 4 * limit]
    while count_tokens(word) > limit:
        word = word[:-1]
    return word


def compose(words: Sequence[str], tags: str, head: tuple[int, ...], cue: Cue) -> str:
    """The phrase of one cue: its words and those of the target (``head``), in the order of the expression."""
    if not head:
        return _headless(words, tags, cue)
    order = _order(tags, head, cue.words) if cue.words else head
    parts = [words[i] for i in order]
    if cue.link and cue.words:
        link = "with" if words[cue.words[-1]] in lexicon().lists["had"] else cue.link
        parts.insert(order.index(cue.words[0]), link)
    if not (tags[order[0]] in "hx" or words[head[0]] in lexicon().lists["no-article"]):
        parts.insert(0, "the")
    return _join(parts)


def _order(tags: str, head: tuple[int, ...], cue: tuple[int, ...]) -> tuple[int, ...]:
    """The words of a phrase in the order of the expression, or the name first: "the man on the left"."""
    if cue[0] > head[-1]:
        return head + cue
    if cue[-1] > head[0]:
        return tuple(sorted({*head, *cue}))
    # "the bigger of the two dogs" keeps its order.
    chosen = cue[-1] == head[0] - 1 and tags[cue[-1]] in "O0d"
    return head + cue if not chosen and any(tags[i] in _AFTER_NAME for i in cue) else cue + head


def _headless(words: Sequence[str], tags: str, cue: Cue) -> str:
    parts = [words[i] for i in cue.words]
    kinds = {tags[i] for i in cue.words}
    if not parts:
        return f"the {STAND_IN}"
    if kinds <= {*"acjsom0&"} or (len(parts) == 1 and kinds <= {"e", "v"}):
        return _join(["the", *parts, STAND_IN])
    if kinds <= {*"acjsom0g"}:
        return _join(
            ["the", STAND_IN, "on" if words[cue.words[-1]].startswith("side") else "in", "the", *parts]
        )
    return _join(["the", STAND_IN, *([cue.link] if cue.link else []), *parts])


def _join(parts: Sequence[str]) -> str:
    line = " ".join(parts)
    return line.replace(" 's", "'s").replace(" ,", ",") if "'" in line or "," in line else line


def _merge_nearest(words: Sequence[str], tags: str, head: tuple[int, ...], cues: list[Cue]) -> list[Cue]:
    """Merge the two neighbouring cues that are shortest together, in tokens of the merged phrase."""
    merged = [_merge(first, second) for first, second in pairwise(cues)]
    costs = [count_tokens(compose(words, tags, head, cue)) for cue in merged]
    i = costs.index(min(costs))
    return [*cues[:i], merged[i], *cues[i + 2 :]]


def _merge(first: Cue, second: Cue) -> Cue:
    return Cue((*first.words, *second.words), first.link or "")


def _split_long(words: Sequence[str], tags: str, frame: Frame) -> list[Cue]:
    """Split cues whose phrase is too long for CLIP, where a phrase or clause starts inside them."""
    cues: list[Cue] = []
    waiting = list(frame.cues)
    while waiting:
        cue = waiting.pop(0)
        if _fits(words, tags, frame.head, cue):
            cues.append(cue)
            continue
        breaks = [k for k in range(2, len(cue.words)) if tags[cue.words[k]] in _BREAKS]
        fitting = [k for k in breaks if _fits(words, tags, frame.head, Cue(cue.words[:k], cue.link))]
        at = fitting[-1] if fitting else (breaks[0] if breaks else 0)
        if not at:
            cues.append(cue)
            continue
        cues.append(Cue(cue.words[:at], cue.link))
        waiting.insert(0, Cue(cue.words[at:]))
    return cues


def _fits(words: Sequence[str], tags: str, head: tuple[int, ...], cue: Cue) -> bool:
    return fits(compose(words, tags, head, cue))

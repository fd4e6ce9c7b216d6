"""Draws expressions to label, encodes labels as word positions, and compares phrases with them.

The labels are of texts that may not be copied, so they hold no text: a row number, the SHA-256 of the text,
and positions of words in it. ``python benchmarks/labels.py draw EXPRESSIONS.jsonl`` prints the expressions
that ``gold_real.jsonl`` labels; ``... encode EXPRESSIONS.jsonl LABELS.txt`` prints its rows from lines such
as ``17 guy, short guy :: left | ?in red // ...`` (row, heads, cues; ``?`` marks a cue that may be left out;
``//`` starts another reading that is also right).

``answer_labels.jsonl`` labels a model's answers in the same way, each with a verdict by reading: ``accept``
(the answer's phrases are right as they are), ``repair`` (its lines hold what a right set needs, the target
included) or ``reject`` (it names another target, or loses what no line has). Both files were written before
the code that is measured on them.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NotRequired, TypedDict

from prep.phrases.rules.wordforms import stem

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
EXPRESSIONS = SHARED / "expressions.jsonl"
ANSWERS = SHARED / "llm_outputs_qwen2.5-coder-1.5b.jsonl"
LABELS = ROOT / "tests" / "prep" / "phrases"
GOLD_REAL, ANSWER_LABELS = LABELS / "rules" / "gold_real.jsonl", LABELS / "answer_labels.jsonl"

SEED = 20261126
# Expressions drawn per dataset. The first half of the draw is for work, the second is held out.
DRAWN = {"refcoco": 60, "refcocog": 60, "refclef": 60, "refcocos": 15, "grefcoco": 3, "refcoco+": 2}

# Words without content. All others count, so that the comparison is independent of the rules' word classes.
STOP = frozenset(
    (
        *(
            "a",
            "an",
            "the",
            "this",
            "that",
            "thats",
            "which",
            "who",
            "whos",
            "whose",
            "some",
            "s",
            "is",
            "are",
        ),
        *(
            "was",
            "were",
            "be",
            "been",
            "it",
            "there",
            "of",
            "to",
            "in",
            "on",
            "at",
            "and",
            "or",
            "by",
            "from",
        ),
        *(
            "for",
            "with",
            "her",
            "his",
            "its",
            "object",
            "one",
            "please",
            "sorry",
            "thanks",
            "lol",
            "ok",
            "haha",
        ),
    )
)
_STAND_IN = frozenset(("object", "objects", "thing", "things", "one", "ones"))
_WORD = re.compile(r"[^\W_]+")


class Reading(NamedTuple):
    """One right decomposition, as lemmas: names of the target, cues, cues that may be left out."""

    heads: tuple[frozenset[str], ...]
    cues: tuple[frozenset[str], ...]
    optional: tuple[frozenset[str], ...]


class Encoded(TypedDict):
    """A reading as positions of words in the text."""

    heads: list[list[int]]
    cues: list[list[int]]
    optional: list[list[int]]


class Row(TypedDict):
    """A labelled text: its row in the file and its hash, the half or verdict, and the readings."""

    row: int
    sha256: str
    readings: list[Encoded]
    part: NotRequired[str]
    verdict: NotRequired[str]


def words_of(text: str) -> list[str]:
    """The words of a text, lower case, without possessive marks."""
    return _WORD.findall(text.lower().replace("'s", ""))


def content(text: str) -> frozenset[str]:
    """The lemmas of the content words of ``text``."""
    return frozenset(stem(word) for word in words_of(text) if word not in STOP)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def draw(rows: Sequence[dict[str, str]]) -> list[int]:
    """The numbers of the rows to label: seeded, stratified by dataset, no text twice."""
    generator, chosen = random.Random(SEED), []
    for dataset, wanted in DRAWN.items():
        first = {row["sent"]: i for i, row in reversed(list(enumerate(rows))) if row["dataset"] == dataset}
        chosen += generator.sample(sorted(first.values()), wanted)
    generator.shuffle(chosen)
    return chosen


def positions(text: str, label: str) -> list[int]:
    """Where the words of ``label`` are in ``text``: from left to right if possible, each place once."""
    words, found = words_of(text), list[int]()
    for word in words_of(label):
        places = [i for i, other in enumerate(words) if other == word and i not in found]
        if not places:
            raise ValueError(f"{word!r} is not in {text!r}")
        found.append(min(places, key=lambda i: (bool(found) and i < found[-1], i)))
    return found


def encode(text: str, label: str) -> list[Encoded]:
    """The readings of a label's text form, as positions in ``text``."""
    readings = []
    for one in label.split("//"):
        heads, _, cues = one.partition("::")
        split = [cue.strip() for cue in cues.split("|") if cue.strip()]
        named = [head.strip() for head in heads.split(",")]
        readings.append(
            Encoded(
                heads=[positions(text, head) if head != "object" else [] for head in named],
                cues=[positions(text, cue) for cue in split if not cue.startswith("?")],
                optional=[positions(text, cue) for cue in split if cue.startswith("?")],
            )
        )
    return readings


def decoded(text: str, readings: Sequence[Encoded]) -> list[Reading]:
    """The readings of a labelled text, as lemmas."""
    words = words_of(text)

    def lemmas(places: list[int]) -> frozenset[str]:
        return content(" ".join(words[i] for i in places))

    return [Reading(*(tuple(map(lemmas, one[name])) for name in Encoded.__annotations__)) for one in readings]


def labelled(labels: Path, texts: Sequence[str]) -> Iterator[tuple[Row, str]]:
    """Each label with its text; raises ValueError if the file has changed since it was labelled."""
    for line in labels.read_text(encoding="utf-8").splitlines():
        row: Row = json.loads(line)
        text = texts[row["row"]]
        if digest(text) != row["sha256"]:
            raise ValueError(f"row {row['row']} is another text than the one that was labelled")
        yield row, text


def compare(phrases: Sequence[str], reading: Reading) -> tuple[bool, int, int, int]:
    """How phrases agree with a reading: whether the first names the target; cues right, said and wanted."""
    said = [content(phrase) for phrase in phrases]
    names = frozenset[str]().union(*reading.heads)
    wanted = Counter(cue - names or cue for cue in reading.cues)
    optional = Counter(cue - names or cue for cue in reading.optional)
    found = Counter[frozenset[str]]()
    for phrase, text in zip(said[1:], phrases[1:], strict=True):
        cue = phrase - names or phrase
        # The target's full name after its short one is no cue; without the target a phrase is wrong.
        if cue == phrase and said[0] < phrase and phrase in reading.heads:
            continue
        named = any(
            head <= phrase if head else not _STAND_IN.isdisjoint(text.split()) for head in reading.heads
        )
        found[cue if named else phrase | {"another object"}] += 1
    right = (wanted & found).total()
    extra = (found - wanted) & optional
    return said[0] in reading.heads, right, found.total() - extra.total(), wanted.total()


def is_right(phrases: Sequence[str], readings: Sequence[Reading]) -> bool:
    """Whether the phrases are one of the readings: target first, every cue alone, nothing else."""
    scores = [compare(phrases, reading) for reading in readings] if phrases else []
    return any(named and right == said == wanted for named, right, said, wanted in scores)


def best(phrases: Sequence[str], readings: Sequence[Reading]) -> tuple[bool, int, int, int]:
    """:func:`compare` with the reading that the phrases agree with most."""

    def agreement(score: tuple[bool, int, int, int]) -> tuple[bool, float]:
        named, right, said, wanted = score
        return named, 2 * right / (said + wanted) if said + wanted else 1.0

    return max((compare(phrases, reading) for reading in readings), key=agreement)


def load_expressions(path: Path = EXPRESSIONS) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    rows = load_expressions(Path(sys.argv[2]))
    chosen = draw(rows) if sys.argv[1] == "draw" else []
    for number in chosen:
        print(number, rows[number]["sent"])
    if sys.argv[1] == "encode":
        for at, line in enumerate(Path(sys.argv[3]).read_text(encoding="utf-8").splitlines()):
            number, label = line.split(" ", 1)
            text = rows[int(number)]["sent"]
            part = "work" if at < sum(DRAWN.values()) // 2 else "held"
            encoded = Row(row=int(number), sha256=digest(text), part=part, readings=encode(text, label))
            print(json.dumps(encoded))


if __name__ == "__main__":
    main()

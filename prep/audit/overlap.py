"""Finds images and expressions of held-out splits that some dataset trains on."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import SequenceMatcher

from prep.cache.keys import normalise_text
from prep.records import Expression

TRAIN = "train"
ALIKE = 0.9  # of the letters of two expressions, by difflib's ratio
LONG = 6  # words from which equal texts of two images are no coincidence
_WORD = re.compile(r"[^\W_]+")


@dataclass
class Overlap:
    """Images that one dataset trains on and another (or the same) holds out."""

    train: str
    held_out: str
    images: int
    of: int


@dataclass
class Twin:
    """Two expressions with almost the same words: one trained on, one held out."""

    train: str
    held_out: str
    train_text: str
    held_out_text: str
    image: str
    held_out_image: str


@dataclass
class Shared:
    """What training and held-out splits share. ``held_out`` are the images of all held-out splits."""

    overlaps: list[Overlap] = field(default_factory=list)
    same_image: list[Twin] = field(default_factory=list)
    other_image: list[Twin] = field(default_factory=list)
    held_out: set[str] = field(default_factory=set)


def name_of(row: Expression) -> str:
    """A dataset with its split version."""
    return f"{row.dataset} {row.split_by}".strip()


def shared(rows: Iterable[Expression]) -> Shared:
    """Compare the ``train`` splits of all datasets in ``rows`` with all their other splits, by image path.

    COCO's images have one path, whichever dataset names them.
    """
    by_image: dict[str, list[Expression]] = defaultdict(list)
    for row in rows:
        if row.image is not None and not row.problem:
            by_image[row.image].append(row)
    found = Shared()
    counts: dict[tuple[str, str], int] = defaultdict(int)
    sizes: dict[str, int] = defaultdict(int)
    for image, own in by_image.items():
        trains = {name_of(row) for row in own if row.split == TRAIN}
        held = {f"{name_of(row)} {row.split}" for row in own if row.split != TRAIN}
        for train in trains:
            sizes[train] += 1
            for other in held:
                counts[train, other] += 1
        if held:
            found.held_out.add(image)
        if trains and held:
            found.same_image += _twins(own)
    found.overlaps = [
        Overlap(train, other, count, sizes[train]) for (train, other), count in sorted(counts.items())
    ]
    found.other_image = list(_long_twins(by_image))
    return found


def words_of(text: str) -> tuple[str, ...]:
    """The words of an expression, lower case, without punctuation."""
    return tuple(_WORD.findall(normalise_text(text)))


def _twins(rows: list[Expression]) -> Iterator[Twin]:
    """The held-out expressions of an image that have a twin among those trained on, each with the first."""
    said = [(row, " ".join(words_of(row.text))) for row in rows]
    for row, text in said:
        if row.split == TRAIN or not text:
            continue
        for other, own in said:
            if other.split == TRAIN and _alike(text, own):
                yield _twin(other, row)
                break


def _alike(first: str, second: str) -> bool:
    if first == second:
        return True
    shorter, longer = sorted((len(first), len(second)))
    if 2 * shorter < ALIKE * (shorter + longer):  # the ratio cannot be reached
        return False
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    return matcher.quick_ratio() >= ALIKE and matcher.ratio() >= ALIKE


def _long_twins(by_image: dict[str, list[Expression]]) -> Iterator[Twin]:
    """Long expressions that are equal, one trained on, one held out, of two images."""
    trained: dict[tuple[str, ...], Expression] = {}
    held: list[tuple[tuple[str, ...], Expression]] = []
    for rows in by_image.values():
        for row in rows:
            words = words_of(row.text)
            if len(words) >= LONG and row.split == TRAIN:
                trained.setdefault(words, row)
            elif len(words) >= LONG:
                held.append((words, row))
    for words, row in held:
        other = trained.get(words)
        if other is not None and other.image != row.image:
            yield _twin(other, row)


def _twin(train: Expression, held: Expression) -> Twin:
    return Twin(
        train=name_of(train),
        held_out=f"{name_of(held)} {held.split}",
        train_text=train.text,
        held_out_text=held.text,
        image=str(train.image),
        held_out_image=str(held.image),
    )

"""The expected counts of each released dataset, and a comparison with the files on this machine."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from prep.datasets.refer import RefDataset

ALL = "(all)"
NAMED = 3  # missing images that are told by name


class Counts(NamedTuple):
    """References, sentences and images; ``None`` if no published figure was found."""

    refs: int | None
    sentences: int | None
    images: int | None


Table = dict[tuple[str, str], dict[str, Counts]]

# (dataset, split_by) -> split -> counts; ALL is the sum over the splits (images: each once). Sources: refcoco
# unc sentences: the annotation files themselves; refs and images: the TFDS catalogue, the Hugging Face cards
# of jxu124/refcoco, refcocoplus, refcocog (refs), jxu124/refcoco-benchmark (images of val and the tests),
# Text4Seg (images of train), MCN (total of sentences of RefCOCOg); the sentences of RefCOCO+ and RefCOCOg umd
# by split: a project that counted them in the archives of prep/datasets/releases.py. gRefCOCO: the totals of
# its released file, and its splits as counted identically by two projects.
OFFICIAL: Table = {
    ("refcoco", "unc"): {
        "train": Counts(42404, 120624, 16994),
        "val": Counts(3811, 10834, 1500),
        "testA": Counts(1975, 5657, 750),
        "testB": Counts(1810, 5095, 750),
        ALL: Counts(50000, 142210, 19994),
    },
    ("refcoco", "google"): {
        "train": Counts(40000, None, 19213),
        "val": Counts(5000, None, 4559),
        "test": Counts(5000, None, 4527),
    },
    ("refcoco+", "unc"): {
        "train": Counts(42278, 120191, 16992),
        "val": Counts(3805, 10758, 1500),
        "testA": Counts(1975, 5726, 750),
        "testB": Counts(1798, 4889, 750),
        ALL: Counts(49856, 141564, None),
    },
    ("refcocog", "google"): {
        "train": Counts(None, None, 24698),
        "val": Counts(5000, None, 4650),
        ALL: Counts(None, 104560, None),
    },
    ("refcocog", "umd"): {
        "train": Counts(42226, 80512, 21899),
        "val": Counts(2573, 4896, 1300),
        "test": Counts(5023, 9602, 2600),
        ALL: Counts(49822, 95010, None),
    },
    ("grefcoco", "unc"): {
        "val": Counts(None, 14229, 1501),
        "testA": Counts(None, 19200, 750),
        "testB": Counts(None, 16063, 750),
        ALL: Counts(None, 259859, 19994),
    },
}


@dataclass
class Found:
    """The counts of a dataset on this machine, and its problems as text."""

    name: str
    split_by: str
    counts: Counts
    known: bool
    problems: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # the image files that do not exist

    @property
    def complete(self) -> bool:
        """Whether the counts match the expected ones and every image file exists."""
        return self.known and not self.problems


def check(dataset: RefDataset, table: Table = OFFICIAL) -> Found:
    """Count a dataset's references, sentences and images, and check that every image file exists.

    Raises :class:`~prep.errors.PrepError` if its files cannot be read.
    """
    refs: Counter[str] = Counter()
    sentences: Counter[str] = Counter()
    for ref in dataset.refs:
        for split in (ref.split, ALL):
            refs[split] += 1
            sentences[split] += len(ref.sentences)
    splits = [*dataset.splits(), ALL]
    images = {split: _images(dataset, None if split == ALL else split) for split in splits}
    counted = {split: Counts(refs[split], sentences[split], len(images[split])) for split in splits}
    official = table.get((dataset.name, dataset.split_by), {})
    found = Found(dataset.name, dataset.split_by, counted[ALL], bool(official))
    for split, wanted in official.items():
        found.problems += _differences(split, counted.get(split, Counts(0, 0, 0)), wanted)
    found.missing = sorted(images[ALL] - _files(dataset.root, images[ALL]))
    if found.missing:
        names = ", ".join([*found.missing[:NAMED], *["..."][: len(found.missing) > NAMED]])
        found.problems.append(f"{len(found.missing):,} image files are missing: {names}")
    return found


def _images(dataset: RefDataset, split: str | None) -> set[str]:
    return {ref.image for ref in dataset.images(None if split is None else [split])}


def _differences(split: str, counted: Counts, wanted: Counts) -> list[str]:
    return [
        f"{split} has {has:,} of {wants:,} {what}"
        for what, has, wants in zip(Counts._fields, counted, wanted, strict=True)
        if wants is not None and has != wants
    ]


def _files(root: Path, images: set[str]) -> set[str]:
    """Which of the images exist, with one directory listing per folder."""
    there: set[str] = set()
    for folder in {os.path.dirname(image) for image in images}:
        try:
            there.update(f"{folder}/{entry.name}" for entry in os.scandir(root / folder))
        except OSError:
            continue
    return there & images

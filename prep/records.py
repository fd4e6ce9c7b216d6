"""Defines the shared record types, and which splits a row is in."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict

# The datasets that are read in their published layout (prep/datasets/catalogue.py).
DATASET_NAMES = ("refcoco", "refcoco+", "refcocog", "grefcoco", "refclef")
# What JSON can hold, as a value that is only read.
Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
# An object of a library that declares no types (the models of transformers and open_clip, vLLM, Ray, Arrow's
# file systems), or what such a library passes: mypy cannot check what is done with it.
Untyped: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Expression:
    """One referring expression of a dataset.

    ``row_id`` is its identity (see :func:`prep.cache.keys.row_id`); ``image`` the POSIX path of its image
    relative to the data root or image folder; the integer IDs come from the dataset and may be missing.
    ``problem`` is empty, or says why the dataset's entry cannot be used (its row then has
    ``status="error"``).
    """

    row_id: str
    dataset: str
    split_by: str
    split: str
    ref_id: int | None
    sent_id: int | None
    image_id: int | None
    image: str | None
    text: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image to generate masks for: its join key, its ID if it has one, and its file.

    ``problem`` is empty, or says why it cannot be used (its row then has ``status="error"``).
    """

    image: str
    image_id: int | None
    path: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class PhraseSet:
    """The phrases of an expression and where they come from.

    ``source`` is one of :data:`prep.cache.schema.PHRASE_SOURCES`; ``violations`` are the checks that
    ``phrases`` fail; ``rejected`` lists the levels rejected before, as ``(source, violations)``; ``repairs``
    names what was mended in an answer with the source ``repaired``.
    """

    phrases: tuple[str, ...]
    source: str
    violations: tuple[str, ...] = ()
    rejected: tuple[tuple[str, tuple[str, ...]], ...] = ()
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TripletSet:
    """The entity that an expression names, and its relations, each as (subject, predicate, object).

    ``entity`` is None if there is none; the other fields are those of :class:`PhraseSet`.
    """

    entity: str | None
    relations: tuple[tuple[str, str, str], ...]
    source: str
    violations: tuple[str, ...] = ()
    rejected: tuple[tuple[str, tuple[str, ...]], ...] = ()
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proposal:
    """One mask of an image, in pixels of the stored image (origin top left).

    ``counts`` is the compressed COCO RLE string of the H x W mask, ``bbox`` is XYWH, ``point`` the XY prompt
    that produced the mask and ``crop_box`` the XYWH crop it was generated in. Fields that a generator does
    not provide are ``None``.
    """

    counts: str
    area: int
    bbox: tuple[float, float, float, float]
    predicted_iou: float | None = None
    stability_score: float | None = None
    point: tuple[float, float] | None = None
    crop_box: tuple[float, float, float, float] | None = None


class Rle(TypedDict):
    """A mask as COCO RLE: ``size`` is (height, width), ``counts`` the compressed string."""

    size: Sequence[int]
    counts: str


class MaskRow(TypedDict):
    """An element of the column ``masks`` of the proposals table, a :class:`Proposal` with lists in it."""

    counts: str
    area: int
    bbox: list[float]
    predicted_iou: float | None
    stability_score: float | None
    point: list[float] | None
    crop_box: list[float] | None


class ProposalRow(TypedDict):
    """A row of the proposals table, or of those of its columns that were read.

    ``height`` and ``width`` are None in a row with the status ``error``, which has no masks.
    """

    image: str
    image_id: int | None
    image_sha256: str | None
    height: int
    width: int
    masks: list[MaskRow]
    grid32: bytes
    generator: str
    key: str
    status: str
    error: str | None


class ConceptMask(TypedDict):
    """An element of the column ``masks`` of the concepts table; a detector of boxes has no ``counts``."""

    counts: str | None
    area: int | None
    bbox: list[float]
    score: float


class ConceptRow(TypedDict):
    """A row of the concepts table, or of those of its columns that were read, as :class:`ProposalRow`."""

    concept_id: str
    image: str
    phrase: str
    image_sha256: str | None
    height: int
    width: int
    masks: list[ConceptMask]
    detector: str
    key: str
    status: str
    error: str | None


def in_splits(split: str, wanted: Collection[str]) -> bool:
    """Whether a row's split is selected; RefClef's shared test sets (``testAB``) belong to both of theirs."""
    if split in wanted:
        return True
    letters = split[4:] if split.startswith("test") else ""
    return len(letters) > 1 and any(f"test{letter}" in wanted for letter in letters)

"""Reads the expressions of a split with their phrases, ground-truth masks and proposals."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pcnet.data.table import OVER_LIMIT
from prep.cache.store import Store
from prep.datasets.catalogue import Dataset
from prep.datasets.truth import Box, Truth
from prep.errors import PrepError
from prep.masks import rle
from prep.records import ConceptMask, Expression, Rle

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Item:
    """One expression to evaluate.

    ``sentence`` is its index within its ref; ``truth`` is the RLE mask, ``None`` if the expression has no
    target (gRefCOCO); ``groups`` are the expression types under which it is counted. ``boxes`` are the boxes
    of Hit where they are not that of ``truth``.
    """

    row_id: str
    ref_id: int | None
    sent_id: int | None
    sentence: int
    image: str
    text: str
    phrases: tuple[str, ...]
    truth: Rle | None
    size: tuple[int, int]
    groups: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()

    def mask(self) -> Mask:
        """The ground-truth mask, bool (H, W); all false without a target."""
        return np.zeros(self.size, dtype=bool) if self.truth is None else decode(self.truth)


@dataclass(frozen=True)
class EvalSet:
    """The items of a split, grouped by image; ``skipped`` counts what cannot be scored, by reason.

    ``proposals`` are the RLE masks of each image, ``concepts`` the masks of each image and first phrase as in
    the concepts table; ``None`` if they were not requested.
    """

    root: Path
    items: list[Item]
    skipped: dict[str, int] = field(default_factory=dict)
    proposals: Mapping[str, list[Rle]] | None = None
    concepts: Mapping[tuple[str, str], list[ConceptMask]] | None = None


def decode(coded: Rle) -> Mask:
    """An RLE mask as bool (H, W); raises PrepError if it is damaged."""
    return rle.decode_counts(coded["counts"], *coded["size"])


def encode(mask: Mask) -> Rle:
    """A bool (H, W) mask as COCO RLE."""
    return {"size": list(mask.shape), "counts": rle.counts_of(mask)}


def load_evalset(
    dataset: Dataset,
    store: Store,
    split: str | None,
    *,
    sentences: str = "all",
    limit: int | None = None,
    proposals: bool = False,
    released: bool = False,
) -> EvalSet:
    """Join a split's expressions to their phrases by ``row_id`` and read their ground truth.

    ``sentences`` is ``all`` (the standard protocol) or ``first`` of each ref (as in the released code), and
    ``limit`` keeps only the first so many of these. With ``released``, targets and boxes are those of the
    released code (:class:`prep.datasets.truth.Truth`).

    :raises PrepError: if the store lacks rows of the split, or no expression has a mask.
    """
    chosen = _chosen(dataset.expressions(None if split is None else [split]), sentences)
    wanted = chosen[:limit]
    phrases = _phrases(store, {e.row_id for e, _ in wanted}, dataset)
    missing = [e.row_id for e, _ in wanted if e.row_id not in phrases]
    if missing:
        raise PrepError(
            f"{len(missing)} of {len(wanted)} expressions have no phrases in {store.uri}, e.g. {missing[0]}.",
            f"Run: pcnet-prep phrases {dataset.flags} --store {shlex.quote(store.uri)}",
        )
    skipped = {OVER_LIMIT: left} if (left := len(chosen) - len(wanted)) else {}
    truth = _CodedTruth(Truth(dataset, released), released)
    items = _items(wanted, phrases, truth, expression_types(dataset), skipped)
    if not items:
        counts = ", ".join(f"{n} because {why}" for why, n in sorted(skipped.items())[:5])
        raise PrepError(
            f"No expression of {dataset.name} can be scored: {counts}.",
            "Evaluation needs masks: docs/datasets.md says how they are given.",
        )
    items.sort(key=lambda item: item.image)
    masks = read_masks(store, {item.image for item in items}) if proposals else None
    return EvalSet(dataset.root, items, skipped, masks)


def _phrases(store: Store, wanted: set[str], dataset: Dataset) -> dict[str, list[str]]:
    """The phrases of the wanted rows that the store has."""
    reader = store.require_table("phrases", f"pcnet-prep phrases {dataset.flags}")
    found = {}
    for batch in reader.batches(["row_id", "phrases"]):
        rows = zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)
        found.update({row_id: phrases for row_id, phrases in rows if row_id in wanted})
    return found


def _chosen(expressions: Iterable[Expression], sentences: str) -> list[tuple[Expression, int]]:
    """The expressions to evaluate, each with its index within its ref."""
    chosen, spoken = [], Counter[int]()
    for expression in expressions:
        sentence = 0
        if expression.ref_id is not None:
            sentence = spoken[expression.ref_id]
            spoken[expression.ref_id] += 1
        if sentences == "all" or sentence == 0:
            chosen.append((expression, sentence))
    return chosen


def _items(
    wanted: Iterable[tuple[Expression, int]],
    phrases: Mapping[str, list[str]],
    coded: _CodedTruth,
    types: Mapping[str, tuple[str, ...]],
    skipped: dict[str, int],
) -> list[Item]:
    items: list[Item] = []
    for expression, sentence in wanted:
        own = phrases[expression.row_id]
        found = coded(expression)
        if found is None or expression.image is None or not own:
            reason = coded.problems.get(expression.row_id, "it has no image or no phrases")
            skipped[reason] = skipped.get(reason, 0) + 1
            continue
        items.append(
            Item(
                row_id=expression.row_id,
                ref_id=expression.ref_id,
                sent_id=expression.sent_id,
                sentence=sentence,
                image=expression.image,
                text=expression.text,
                phrases=tuple(own),
                truth=found[0],
                size=found[1],
                groups=types.get(str(expression.sent_id), ()),
                boxes=found[2],
            )
        )
    return items


class _CodedTruth:
    """Ground truth with the mask as RLE; consecutive expressions of one ref share one."""

    def __init__(self, truth: Truth, released: bool) -> None:
        self._truth, self._released = truth, released
        self.problems = truth.problems
        self._last: tuple[int | None, tuple[Rle | None, tuple[int, int], tuple[Box, ...]] | None] = (
            None,
            None,
        )

    def __call__(self, expression: Expression) -> tuple[Rle | None, tuple[int, int], tuple[Box, ...]] | None:
        """(RLE or ``None`` without a target, (H, W), boxes of Hit); ``None`` without usable ground truth."""
        if expression.ref_id is not None and expression.ref_id == self._last[0] and self._last[1]:
            return self._last[1]
        mask = self._truth.mask(expression)
        boxes = self._truth.boxes(expression) if self._released else ()
        found = None
        if mask is not None and boxes is not None:
            # Overlapping polygons can leave nothing of a target; it is still one.
            found = encode(mask) if mask.any() or boxes else None, (mask.shape[0], mask.shape[1]), boxes
        self._last = (expression.ref_id, found)
        return found


def expression_types(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    """``sent_id`` -> the groups under which it is counted, from ``types.json`` next to the annotations, if it
    exists.

    The file maps each sent_id to ``{"type": ..., "hard": ...}``; a hard one is counted under its type and
    "hard <type>".
    """
    path = Path(dataset.root) / "refer" / dataset.name / "types.json"
    if not path.is_file():
        return {}
    try:
        told = json.loads(path.read_bytes())
        return {
            sent_id: (entry["type"], *([f"hard {entry['type']}"] if entry.get("hard") else []))
            for sent_id, entry in told.items()
        }
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise PrepError(
            f"{path} does not give each sent_id a type: {error or type(error).__name__}.",
            'Write {"1": {"type": "position"}, ...}, or remove the file.',
        ) from error


def read_masks(store: Store, images: set[str]) -> dict[str, list[Rle]]:
    """The stored proposals of ``images`` as RLE; an image that is not in the store has none.

    :raises PrepError: if the store has no proposals at all.
    """
    reader = store.stage("proposals").reader()
    if reader.num_rows == 0:
        raise PrepError(
            f"The store {store.uri} has no proposals yet.",
            f"Run: pcnet-prep sam --store {shlex.quote(store.uri)}",
        )
    found: dict[str, list[Rle]] = {image: [] for image in images}
    for batch in reader.batches(["image", "height", "width", "masks"]):
        for place, image in enumerate(batch.column(0).to_pylist()):
            if image in found:
                size = [batch.column(1)[place].as_py(), batch.column(2)[place].as_py()]
                masks = batch.column(3)[place].as_py()
                found[image] = [{"size": size, "counts": mask["counts"]} for mask in masks]
    return found

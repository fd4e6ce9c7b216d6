"""Looks up the stored masks of an expression's target noun phrase, and chooses one by its response map."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pcnet.evaluation.dataset import EvalSet, Item
from prep.cache.store import Store
from prep.errors import PrepError
from prep.masks import rle
from prep.records import ConceptRow

Mask = NDArray[np.bool_]
FAILED = "the detector of concepts failed or could not read the image"
OTHER_SIZE = "the masks of its concept are of an image of another size"


def with_concepts(evalset: EvalSet, store: Store) -> EvalSet:
    """``evalset`` with the concepts of its items: each item is joined by its image and its first phrase.

    Items whose concept has an error, or masks of an image of another size, are left out and counted in
    ``skipped``.

    :raises PrepError: if the store lacks concepts of some items or has boxes only, or no item is left.
    """
    command = f"pcnet-prep concepts --store {shlex.quote(store.uri)}"
    rows = _rows(store, {_pair(item) for item in evalset.items})
    missing = [item for item in evalset.items if _pair(item) not in rows]
    if missing:
        raise PrepError(
            f"{len(missing)} of {len(evalset.items)} expressions have no concept in {store.uri}, e.g. "
            f"{missing[0].phrases[0]!r} in {missing[0].image}.",
            f"Run: {command}",
        )
    if any(mask["counts"] is None for row in rows.values() for mask in row["masks"]):
        raise PrepError(
            f"The concepts in {store.uri} are boxes without masks.",
            f"Find masks in another store, or instead of these: {command} --detector sam3 --replace",
        )
    kept, skipped = [], Counter(evalset.skipped)
    for item in evalset.items:
        row = rows[_pair(item)]
        if row["status"] == "error":
            skipped[FAILED] += 1
        elif (row["height"], row["width"]) != item.size:
            skipped[OTHER_SIZE] += 1
        else:
            kept.append(item)
    if not kept:
        raise PrepError(
            f"No expression has a usable concept in {store.uri}: "
            + ", ".join(f"{count} because {why}" for why, count in skipped.items())
            + ".",
            f"Read the errors in its table concepts, then make it again: {command} --replace",
        )
    concepts = {pair: row["masks"] for pair, row in rows.items()}
    return replace(evalset, items=kept, skipped=dict(skipped), concepts=concepts)


def _pair(item: Item) -> tuple[str, str]:
    return item.image, item.phrases[0]


def _rows(store: Store, wanted: set[tuple[str, str]]) -> dict[tuple[str, str], ConceptRow]:
    """The rows of the concepts table for pairs of image and phrase."""
    reader = store.require_table("concepts", "pcnet-prep concepts")
    found = {}
    for batch in reader.batches(["image", "phrase", "height", "width", "masks", "status"]):
        pairs = zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)
        for place, pair in enumerate(pairs):
            if pair in wanted:
                found[pair] = batch.slice(place, 1).to_pylist()[0]
    return found


class ConceptMasks:
    """The mask of each item's concept that its response map agrees with; the last item's are cached."""

    def __init__(self, evalset: EvalSet) -> None:
        self._concepts = evalset.concepts
        self._last: tuple[tuple[str, str], list[Mask]] | None = None

    def __call__(self, item: Item, peak: tuple[int, int]) -> Mask | None:
        """The chosen mask, bool (H, W), empty if the concept has none; ``None`` if none were requested."""
        if self._concepts is None:
            return None
        pair = _pair(item)
        if self._last is None or self._last[0] != pair:
            coded = [mask["counts"] for mask in self._concepts[pair]]
            self._last = pair, [rle.decode_counts(counts, *item.size) for counts in coded]
        masks = self._last[1]
        chosen = choose(masks, [mask["score"] for mask in self._concepts[pair]], peak)
        return np.zeros(item.size, dtype=bool) if chosen is None else masks[chosen]


def choose(masks: Sequence[Mask], scores: Sequence[float], peak: tuple[int, int]) -> int | None:
    """The number of the mask with the highest score among those that contain the peak (row, column).

    If none contains it, the one with the highest score of all; of equal scores the first. ``None`` without
    masks.
    """
    inside = [at for at, mask in enumerate(masks) if mask[peak]]
    return max(inside or range(len(masks)), key=lambda at: scores[at], default=None)

"""Makes the masks that an evaluation compares: the map, proposals, concepts, and SAM at a point."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pcnet.data.images import open_rgb
from pcnet.evaluation.concepts import ConceptMasks
from pcnet.evaluation.dataset import EvalSet, Item, decode
from pcnet.evaluation.responses import EvalSettings, Map
from pcnet.metrics import SampleScore, binarise
from prep.proposals.prompt import PointPrompter, inner_point
from prep.records import Rle

Mask = NDArray[np.bool_]


class StoredMasks:
    """The proposals of an item as bool (P, H, W), ``None`` if they were not requested; the last image's are
    cached.
    """

    def __init__(self, evalset: EvalSet) -> None:
        self._coded = evalset.proposals
        self._image, self._masks = "", np.zeros((0, 1, 1), dtype=bool)

    def __call__(self, item: Item) -> NDArray[np.bool_] | None:
        """The proposals of one item."""
        if self._coded is None:
            return None
        if item.image != self._image:
            coded: list[Rle] = [m for m in self._coded[item.image] if tuple(m["size"]) == item.size]
            masks = [decode(one) for one in coded]
            self._masks = np.stack(masks) if masks else np.zeros((0, *item.size), dtype=bool)
            self._image = item.image
        return self._masks


class SamMasks:
    """SAM's masks in the images of a split; with ``oracle`` also those prompted by the ground truth."""

    def __init__(self, root: Path, prompter: PointPrompter, oracle: bool) -> None:
        self._root, self._prompter, self._oracle = root, prompter, oracle

    def __call__(self, item: Item, peak: tuple[int, int]) -> dict[str, Mask]:
        """``sam``: the mask at the peak (row, column). ``oracle_sam``: the mask at the pixel farthest from
        the outline of the target, empty without a target.
        """
        found = {"sam": self._at(item, peak)}
        if self._oracle:
            inside = inner_point(item.mask())
            found["oracle_sam"] = (
                np.zeros(item.size, dtype=bool) if inside is None else self._at(item, inside)
            )
        return found

    def _at(self, item: Item, point: tuple[int, int]) -> Mask:
        return self._prompter.mask(item.image, lambda: np.asarray(open_rgb(self._root / item.image)), *point)


def predicted_masks(
    item: Item,
    response: Map,
    score: SampleScore,
    proposals: NDArray[np.bool_] | None,
    sam: SamMasks | None,
    settings: EvalSettings,
    concepts: ConceptMasks,
) -> dict[str, Mask]:
    """The masks of one item by kind, bool (H, W) each: those of ``settings.masks``, and the oracles of
    ``proposal`` (the best proposal) and ``sam``.
    """
    peak = score.peak_y, score.peak_x
    found: dict[str, Mask] = {}
    if "map" in settings.masks:
        found["map"] = binarise(response, settings.threshold)
    if proposals is not None:
        for kind, index in (("proposal", score.proposal), ("oracle", score.oracle)):
            found[kind] = np.zeros(item.size, dtype=bool) if index is None else proposals[index]
    if (concept := concepts(item, peak)) is not None:
        found["concept"] = concept
    if sam is not None:
        found |= sam(item, peak)
    return found

"""Decodes the stored proposals of the expressions of a split."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pcnet.evaluation.dataset import EvalSet, Item, Rle, decode


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

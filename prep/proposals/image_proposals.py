"""The masks of one image as a list, which a notebook shows over the image."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from prep.masks.rle import decode_counts
from prep.records import Proposal


class ImageProposals(list[Proposal]):
    """The masks of one image; ``pixels`` uint8 H x W x 3 is the image, in RGB.

    A :class:`prep.records.Proposal` alone has no picture: its run lengths do not tell the image's height.
    """

    def __init__(self, masks: Iterable[Proposal], pixels: npt.NDArray[np.uint8]) -> None:
        super().__init__(masks)
        self.pixels = pixels

    def _repr_png_(self) -> bytes:
        """The image with each mask as a tinted area with an outline."""
        from prep.pictures import preview

        height, width = self.pixels.shape[:2]
        return preview(self.pixels, (decode_counts(mask.counts, height, width) for mask in self))

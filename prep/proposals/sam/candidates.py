"""Holds the candidate masks of a crop or an image between the decoder and the proposals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from prep.masks import rle
from prep.proposals.sam.crops import Points
from prep.records import Proposal


@dataclass
class MaskData:
    """Masks of one crop or image before they become proposals; one entry per mask, in order.

    ``boxes`` (n x 4, float32) are XYXY in pixels of the image, ``points`` (n x 2, float64) XY likewise.
    """

    runs: list[rle.Runs]
    iou: torch.Tensor
    stability: npt.NDArray[np.float32]
    boxes: npt.NDArray[np.float32]
    points: Points
    crops: npt.NDArray[np.int64]

    def pick(self, order: npt.NDArray[np.int64]) -> MaskData:
        """The masks with the indices ``order``."""
        return MaskData(
            [self.runs[i] for i in order], self.iou[torch.as_tensor(order)], self.stability[order],
            self.boxes[order], self.points[order], self.crops[order],
        )  # fmt: skip

    @staticmethod
    def join(parts: Sequence[MaskData]) -> MaskData:
        """All masks of ``parts``."""
        return MaskData(
            [runs for part in parts for runs in part.runs],
            torch.cat([part.iou for part in parts]),
            np.concatenate([part.stability for part in parts]),
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.points for part in parts]),
            np.concatenate([part.crops for part in parts]),
        )

    @staticmethod
    def nothing() -> MaskData:
        """No masks."""
        none = np.empty((0, 4), np.float32)
        return MaskData([], torch.empty(0), none[:, 0], none, np.empty((0, 2)), np.empty((0, 4), np.int64))

    def proposal(self, i: int) -> Proposal:
        """Mask ``i`` as a proposal."""
        x0, y0, x1, y1 = (float(v) for v in self.boxes[i])
        left, top, right, bottom = (float(v) for v in self.crops[i])
        return Proposal(
            counts=rle.compress(self.runs[i]),
            area=rle.area(self.runs[i]),
            bbox=(x0, y0, x1 - x0, y1 - y0),
            predicted_iou=float(self.iou[i]),
            stability_score=float(self.stability[i]),
            point=(float(self.points[i, 0]), float(self.points[i, 1])),
            crop_box=(left, top, right - left, bottom - top),
        )

"""Removes small holes and islands from the logits of SAM 2, as its CUDA extension does.

``SAM2Transforms.postprocess_masks`` (sam2/utils/transforms.py) labels regions with an extension that is
compiled for a GPU. Without it, the package leaves every mask as it is and warns; here, the same regions are
found on any machine.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from prep.masks import rle
from prep.masks.jit import compiled
from prep.proposals.sam.small_regions import intervals, regions

FILLED = 10.0  # the logit of a small hole, and with a minus that of a small island


def remove_small_regions(logits: torch.Tensor, area: int) -> torch.Tensor:
    """Logits (n, L, L), float32, whose holes and islands of at most ``area`` pixels are filled or removed.

    Regions are 8-connected parts of the logits that are above 0, or not, before anything was changed.
    """
    cleaned = logits.cpu().numpy().copy()
    for mask in cleaned:
        runs, side = rle.encode(mask > 0), mask.shape[0]
        for outside, value in ((True, FILLED), (False, -FILLED)):
            first, after, columns = intervals(runs, side, outside)
            sizes, _, root = regions(first, after, columns, side)
            _paint(mask, first, after, columns, sizes[root] <= area, np.float32(value))
    return torch.from_numpy(cleaned).to(logits.device)


@compiled
def _paint(
    mask: npt.NDArray[np.float32],
    first: rle.Runs,
    after: rle.Runs,
    columns: rle.Runs,
    small: npt.NDArray[np.bool_],
    value: np.float32,
) -> None:
    """Set the pixels of the spans that are ``small`` to ``value``."""
    for i in range(len(first)):
        if small[i]:
            for y in range(first[i], after[i]):
                mask[y, columns[i]] = value

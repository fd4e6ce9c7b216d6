"""Defines what a detector finds in an image: a box and a score, and a mask if it makes one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]


class Found(NamedTuple):
    """One object that a detector found, in pixels of the stored image (origin top left).

    ``counts`` is the compressed COCO RLE string of the H x W mask and ``area`` its pixels, both ``None`` for
    a detector of boxes; ``bbox`` is the detector's box XYWH, ``score`` is in 0 to 1.
    """

    counts: str | None
    area: int | None
    bbox: Box
    score: float


def xywh(corners: Sequence[float]) -> Box:
    """A box given by its left, top, right and bottom edge as x, y, width and height."""
    left, top, right, bottom = map(float, corners)
    return left, top, right - left, bottom - top

"""Computes the crops of an image and the points in each, as in the reference generator."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from prep.proposals.sam.settings import GridSettings

Points = npt.NDArray[np.float64]
EDGE = 20  # distance in pixels from a crop's edge within which a mask counts as cut off


@dataclass(frozen=True)
class Crop:
    """A part of an image, XYXY in pixels, and its layer (0 for the whole image)."""

    box: tuple[int, int, int, int]
    layer: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.box[3] - self.box[1], self.box[2] - self.box[0]


def crops(size: tuple[int, int], layers: int, overlap_ratio: float) -> list[Crop]:
    """The whole image of ``size`` (H, W), then each layer's 4**layer crops, column by column.

    Neighbours in the first layer overlap by ``overlap_ratio`` of the shorter side, half as much in each
    further layer.
    """
    height, width = size
    out = [Crop((0, 0, width, height), 0)]
    for layer in range(1, layers + 1):
        side = 2**layer
        overlap = int(overlap_ratio * min(size) * (2 / side))
        wide, high = (math.ceil((overlap * (side - 1) + length) / side) for length in (width, height))
        for i, j in product(range(side), range(side)):
            x, y = int((wide - overlap) * i), int((high - overlap) * j)
            out.append(Crop((x, y, min(x + wide, width), min(y + high, height)), layer))
    return out


def grids(settings: GridSettings) -> list[Points]:
    """For each layer the prompt points, (n, 2) of (x, y) in [0, 1]."""
    if settings.point_grids is not None:
        return [np.array(points, np.float64).reshape(-1, 2) for points in settings.point_grids]
    per_side = settings.points_per_side or 0
    scale = settings.crop_n_points_downscale_factor
    return [grid(int(per_side / scale**layer)) for layer in range(settings.crop_n_layers + 1)]


def grid(per_side: int) -> Points:
    """``per_side`` x ``per_side`` points at the centres of equal cells, row by row; none for zero."""
    if per_side == 0:
        return np.empty((0, 2))
    offset = 1 / (2 * per_side)
    line = np.linspace(offset, 1 - offset, per_side)
    return np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)


def resized(size: tuple[int, int], side: int) -> tuple[int, int]:
    """``size`` (H, W) scaled so that the longer side is ``side`` pixels; zeros for an empty one."""
    if min(size) <= 0:
        return 0, 0
    scale = side * 1.0 / max(size)
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def scaled(points: Points, size: tuple[int, int], target: tuple[int, int]) -> Points:
    """Points scaled from pixels of ``size`` (H, W) to pixels of ``target``; float64, as in the reference."""
    factors = np.array([target[1] / size[1], target[0] / size[0]])
    return np.asarray(points * factors, np.float64)


def cut_off(boxes: npt.NDArray[np.int64], crop: Crop, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Which masks reach an edge of the crop that is not an image edge; XYXY boxes in pixels of the crop."""
    x, y, _, _ = crop.box
    placed = (boxes + np.array([x, y, x, y])).astype(np.float32)
    edge = np.abs(placed - np.array(crop.box, np.float32)) <= EDGE
    image_edge = np.abs(placed - np.array([0, 0, size[1], size[0]], np.float32)) <= EDGE
    return np.asarray(np.any(edge & ~image_edge, axis=1))

"""Converts COCO segmentations of all kinds to H x W masks, and rejects invalid ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from prep.datasets.coco_json import integer
from prep.errors import PrepError
from prep.masks import rle

Mask = npt.NDArray[np.bool_]

MAX_PIXELS = 1 << 28
# Larger than any annotation error, and small enough that rasterising the outline stays cheap.
MAX_COORDINATE = 1e5


class BadSegmentation(ValueError):
    """Why a segmentation is not a mask, as text for a table of failures."""


def decode(segmentation: Any, height: int, width: int) -> Mask:
    """The bool H x W mask of polygons ``[[x, y, ...], ...]``, or of an RLE or a list of them (as in RefClef).

    An RLE is ``{"size": [H, W], "counts": ...}`` with counts as numbers or as COCO's compressed string. A
    segmentation that covers no pixel of the image is rejected too: such an object is an error in the data.
    """
    if not 0 < height * width <= MAX_PIXELS or height < 0:
        raise BadSegmentation(f"an image of {width} x {height} pixels")
    parts = segmentation if isinstance(segmentation, list) else [segmentation]
    if not parts:
        raise BadSegmentation("the segmentation is empty")
    if all(isinstance(part, dict) for part in parts):
        mask: Mask = np.logical_or.reduce([_rle(part, height, width) for part in parts])
    else:
        mask = rle.decode_counts(_polygons(parts, height, width), height, width)
    if not mask.any():
        raise BadSegmentation("the segmentation covers no pixel of the image")
    return mask


def _polygons(polygons: list[Any], height: int, width: int) -> bytes:
    """The compressed run lengths of what any of the polygons covers."""
    for polygon in polygons:
        if not isinstance(polygon, list):
            raise BadSegmentation(f"a polygon that is a {type(polygon).__name__}")
        # pycocotools interprets four numbers as a box and drops an odd one.
        if len(polygon) < 6 or len(polygon) % 2:
            raise BadSegmentation(f"a polygon of {len(polygon)} numbers (three points need six)")
        for value in polygon:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise BadSegmentation(f"a polygon with a {type(value).__name__} among its numbers")
            if not math.isfinite(value) or abs(value) > MAX_COORDINATE:
                raise BadSegmentation("a polygon with a point far outside the image")
    from pycocotools import mask as coco

    parts = coco.frPyObjects([[float(value) for value in polygon] for polygon in polygons], height, width)
    return bytes(coco.merge(parts)["counts"])


def _rle(part: Any, height: int, width: int) -> Mask:
    """The mask of an RLE, after checking that it is of that size and that its runs fill the image exactly."""
    size = part.get("size") if isinstance(part, dict) else None
    if not isinstance(size, list) or [integer(value) for value in size] != [height, width]:
        raise BadSegmentation(f"an RLE of size {str(size)[:40]} for an image of [{height}, {width}]")
    if not isinstance(part.get("counts"), (str, bytes, list)):
        raise BadSegmentation("an RLE without counts")
    try:
        return rle.decode_counts(part["counts"], height, width)
    except PrepError as error:
        raise BadSegmentation(error.message.rstrip(".")) from error

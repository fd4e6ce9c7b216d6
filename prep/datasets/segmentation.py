"""Converts COCO segmentations of all kinds to H x W masks with pycocotools, and rejects invalid ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from prep.datasets.coco_json import integer

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
        rles = [checked_rle(part, height, width) for part in parts]
    else:
        rles = _polygons(parts, height, width)
    from pycocotools import mask as coco

    mask: Mask = coco.decode(rles).any(axis=2)
    if not mask.any():
        raise BadSegmentation("the segmentation covers no pixel of the image")
    return mask


def _polygons(polygons: list[Any], height: int, width: int) -> list[Any]:
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

    return list(
        coco.frPyObjects([[float(value) for value in polygon] for polygon in polygons], height, width)
    )


def checked_rle(rle: Any, height: int, width: int) -> dict[str, Any]:
    """``rle`` as a compressed COCO RLE of that size, after checking that its runs fill the image exactly."""
    size = rle.get("size") if isinstance(rle, dict) else None
    if not isinstance(size, list) or [integer(value) for value in size] != [height, width]:
        raise BadSegmentation(f"an RLE of size {str(size)[:40]} for an image of [{height}, {width}]")
    counts = rle.get("counts")
    if isinstance(counts, (str, bytes)):
        text = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
        runs = _runs(text)
    elif isinstance(counts, list) and all(type(run) is int for run in counts):
        runs, text = counts, b""
    else:
        raise BadSegmentation("an RLE without counts")
    if any(run < 0 for run in runs) or sum(runs) != height * width:
        raise BadSegmentation(f"an RLE whose runs add up to {sum(runs)}, not {height} x {width}")
    if text:
        return {"size": [height, width], "counts": text}
    from pycocotools import mask as coco

    return dict(coco.frPyObjects({"size": [height, width], "counts": runs}, height, width))


def _runs(counts: bytes) -> list[int]:
    """The run lengths of COCO's compressed string: 5 bits per character, differences from the fourth on."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = character - 48
        if not 0 <= bits < 64 or shift > 60:
            raise BadSegmentation("an RLE string with an invalid character")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    if shift:
        raise BadSegmentation("a truncated RLE string")
    return runs

"""Checks COCO segmentations of all kinds, and converts them to runs or H x W masks."""

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
# Larger than any annotation error, and small enough that rasterising the outline stays cheap: pycocotools
# keeps 80 bytes for each pixel of its length.
MAX_COORDINATE = 1e5
MAX_OUTLINE = 1 << 20


class BadSegmentation(ValueError):
    """Why a segmentation is not a mask, as text for a table of failures."""


def decode(segmentation: object, height: int, width: int) -> Mask:
    """The bool H x W mask of a segmentation (:func:`runs_of`).

    One that covers no pixel of the image is rejected too: such an object is an error in the data.
    """
    runs = runs_of(segmentation, height, width)
    if not rle.area(runs):
        raise BadSegmentation("the segmentation covers no pixel of the image")
    return rle.decode(runs, height, width)


def decode_once(segmentation: object, height: int, width: int) -> Mask:
    """The pixels that exactly one part (polygon or RLE) of a segmentation covers, bool H x W.

    The released code's target: it adds the parts up and keeps the pixels with the sum 1, so that pixels where
    polygons overlap are lost, if need be all of them. Rejects what :func:`decode` rejects.
    """
    whole = decode(segmentation, height, width)
    if (
        not isinstance(segmentation, list)
        or len(segmentation) == 1
        or isinstance(segmentation[0], (int, float))
    ):
        return whole
    from pycocotools import mask as coco

    if isinstance(segmentation[0], dict):
        parts = (rle.decode(_rle(part, height, width), height, width) for part in segmentation)
    else:
        polygons = [[float(value) for value in polygon] for polygon in segmentation]
        parts = (coco.decode(one) for one in coco.frPyObjects(polygons, height, width))
    covered = np.zeros((height, width), dtype=np.int32)
    for part in parts:
        covered += part
    once: Mask = covered == 1
    return once


def runs_of(segmentation: object, height: int, width: int) -> rle.Runs:
    """The runs of polygons ``[[x, y, ...], ...]`` or one, or of an RLE or a list of them (as in RefClef).

    An RLE is ``{"size": [H, W], "counts": ...}`` with counts as numbers or as COCO's compressed string. Every
    segmentation from outside is read by this function: pycocotools takes four numbers for a box, drops an odd
    one, and takes all memory for a point far outside. Raises :class:`BadSegmentation`.
    """
    if not 0 < height * width <= MAX_PIXELS or height < 0:
        raise BadSegmentation(f"an image of {width} x {height} pixels")
    parts: list[Any] = segmentation if isinstance(segmentation, list) else [segmentation]
    if not parts:
        raise BadSegmentation("the segmentation is empty")
    if all(isinstance(part, dict) for part in parts):
        runs = [_rle(part, height, width) for part in parts]
        return runs[0] if len(runs) == 1 else _union(runs, height * width)
    flat = all(isinstance(part, (int, float)) for part in parts)
    return _polygons([parts] if flat and parts is segmentation else parts, height, width)


def _union(masks: list[rle.Runs], pixels: int) -> rle.Runs:
    """The runs of what any of the masks covers."""
    # Where a run ends another begins: each second one is inside, one level deeper.
    places = np.concatenate([np.cumsum(runs) for runs in masks])
    steps = np.concatenate([np.resize([1, -1], len(runs)) for runs in masks])
    places, index = np.unique(places, return_inverse=True)
    inside = np.cumsum(np.bincount(index, steps)) > 0
    edges = places[np.flatnonzero(np.diff(inside, prepend=False))]
    return np.diff(edges[edges < pixels], prepend=0, append=pixels)


def _polygons(polygons: list[Any], height: int, width: int) -> rle.Runs:
    """The runs of what any of the polygons covers."""
    length, whole = 0.0, False
    pairs = len(polygons) > 2 and all(isinstance(part, list) and len(part) == 2 for part in polygons)
    for polygon in polygons:
        if not isinstance(polygon, list):
            raise BadSegmentation(f"a polygon that is a {type(polygon).__name__}")
        if pairs or any(isinstance(value, list) for value in polygon):
            raise BadSegmentation("a polygon of points [[x, y], ...], where COCO has [x, y, x, y, ...]")
        # pycocotools interprets four numbers as a box and drops an odd one.
        if len(polygon) < 6 or len(polygon) % 2:
            raise BadSegmentation(f"a polygon of {len(polygon)} numbers (three points need six)")
        for value in polygon:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise BadSegmentation(f"a polygon with a {type(value).__name__} among its numbers")
            if not abs(value) <= MAX_COORDINATE:  # nor is NaN
                nan = isinstance(value, float) and math.isnan(value)
                raise BadSegmentation(
                    f"a polygon with {'NaN among its numbers' if nan else 'a point far outside the image'}"
                )
        points = np.array(polygon, float).reshape(-1, 2)
        length += float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())
        whole |= bool((points > 1).any() or (points == np.rint(points)).all())
        if length > MAX_OUTLINE:
            raise BadSegmentation(f"polygons with an outline of more than {MAX_OUTLINE:,} pixels")
    if not whole:
        raise BadSegmentation("polygons with fractions up to 1 as coordinates, where COCO has pixels")
    from pycocotools import mask as coco

    parts = coco.frPyObjects([[float(value) for value in polygon] for polygon in polygons], height, width)
    return rle.checked_runs(bytes(coco.merge(parts)["counts"]), height, width)


def _rle(part: dict[str, object], height: int, width: int) -> rle.Runs:
    """The runs of an RLE, after checking that it is of that size and that its runs fill the image exactly."""
    size = part.get("size")
    if not isinstance(size, list) or [integer(value) for value in size] != [height, width]:
        raise BadSegmentation(f"an RLE of size {str(size)[:40]} for an image of [{height}, {width}]")
    counts = part.get("counts")
    if not isinstance(counts, (str, bytes, list)):
        raise BadSegmentation("an RLE without counts")
    if isinstance(counts, list):  # tables also write 12.0
        counts = [integer(run) if isinstance(run, float) else run for run in counts]
    try:
        return rle.checked_runs(counts, height, width)
    except PrepError as error:
        raise BadSegmentation(error.message.rstrip(".")) from error

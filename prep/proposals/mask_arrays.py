"""Reads the masks of an image from an ``.npy`` file of the released layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from prep.datasets.object_npy import HEADER_ERRORS
from prep.inputs import open_plain
from prep.masks import rle

MAX_ARRAY = 1 << 31  # bytes of one released .npy: 40 masks of 7 megapixels as float64
MAX_MASKS = 10_000


class BadMasks(Exception):
    """Masks of one image that cannot be used; the text is the reason for a row's ``error`` column."""


def array_runs(path: Path, height: int, width: int) -> list[rle.Runs]:
    """The runs of every mask of an array (P, H', W') in an ``.npy`` file, resized to the image's size.

    Raises :class:`BadMasks` if the file holds anything else.
    """
    try:
        open_plain(path).close()
        # Reads no pickle, and of an array only what is used.
        stored = np.lib.format.open_memmap(path, mode="r")
        _check_array(path.name, stored, height, width)
        rows = np.arange(height) * stored.shape[1] // height
        columns = np.arange(width) * stored.shape[2] // width
        return [rle.encode(_finite(mask[np.ix_(rows, columns)])) for mask in stored]
    except (OSError, *HEADER_ERRORS) as error:
        reason = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise BadMasks(f"{path.name} could not be read as an array: {reason}") from error


def _check_array(name: str, stored: npt.NDArray[np.generic], height: int, width: int) -> None:
    """Refuse an array that is not masks (P, H', W') of an image of that size."""
    if stored.ndim != 3 or 0 in stored.shape[1:] or stored.dtype.kind not in "biuf":
        raise BadMasks(f"{name} contains {stored.dtype} {stored.shape}, not numbers (masks, height, width)")
    if stored.nbytes > MAX_ARRAY:
        raise BadMasks(f"{name} contains {stored.nbytes} bytes, over the limit of {MAX_ARRAY}")
    first, second, third = stored.shape
    size = height, width
    # The masks are last if the first two axes have the image's proportions, and the last two do not.
    last = _like((first, second), size) and third < min(first, second) and not _like((second, third), size)
    if (second, third) != size and ((first, second) == size or last):
        raise BadMasks(f"{name} contains {stored.shape}, (height, width, masks), not (masks, height, width)")
    if (third, second) == size and height != width:
        raise BadMasks(f"{name} contains {stored.shape}, (masks, width, height), not (masks, height, width)")
    if first > MAX_MASKS:
        raise BadMasks(f"{name} contains {first} masks, over the limit of {MAX_MASKS}")


def _finite(mask: npt.NDArray[np.number]) -> npt.NDArray[np.number]:
    if not np.isfinite(mask).all():
        raise ValueError("a mask has values that are not numbers")
    return mask


def _like(shape: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether two (height, width) have the same proportions, but for rounding."""
    return abs(shape[0] * size[1] - shape[1] * size[0]) <= max(*shape, *size)

"""Converts COCO run-length masks between runs, compressed strings and arrays, and computes area and box.

A mask of H x W pixels is read column by column (Fortran order). Its *runs* (int64, shape ``(n,)``) are the
lengths of alternating segments: outside, inside, outside and so on, where the first may be zero. The
compressed string is that of pycocotools: from the fourth run on, the difference from the run two before; each
number in groups of five bits, lowest first, with a sixth bit if more follow, plus 48 to make a printable
character.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from prep.errors import PrepError
from prep.masks.jit import compiled

Runs = npt.NDArray[np.int64]
LONGEST = 2**31 - 1


def compress(runs: npt.NDArray[np.integer]) -> str:
    """The compressed string of ``runs``."""
    return bytes(_pack(np.ascontiguousarray(runs, np.int64))).decode("ascii")


def expand(counts: str | bytes) -> Runs:
    """The runs of a compressed string; raises PrepError for an invalid string."""
    data = counts.encode("utf-8", "surrogatepass") if isinstance(counts, str) else counts
    runs = _unpack(np.frombuffer(data, np.uint8))
    # No image has longer runs, and sums of longer ones could overflow to a small image's size.
    if len(runs) and (runs.min() < 0 or runs.max() > LONGEST):
        raise PrepError(f"A compressed mask is damaged: {data[:40]!r}.", "Generate it again.")
    return runs


def encode(mask: npt.NDArray[np.generic]) -> Runs:
    """The runs of an H x W mask (any dtype; non-zero is inside)."""
    return _runs_of(np.ascontiguousarray(mask.T != 0))


def decode(runs: npt.NDArray[np.integer], height: int, width: int) -> npt.NDArray[np.bool_]:
    """The H x W mask of ``runs``; raises PrepError if they do not cover it exactly."""
    # Check each run first: the sum of very long runs could overflow to the right number.
    if (len(runs) and not 0 <= runs.min() <= runs.max() <= height * width) or runs.sum() != height * width:
        raise PrepError(
            f"The runs of a mask cover {int(runs.sum())} pixels, not {height} x {width}.",
            "Give the size with which it was encoded.",
        )
    return _fill(np.ascontiguousarray(runs, np.int64), height, width).T


def checked_runs(counts: Any, height: int, width: int) -> Runs:
    """The runs of ``counts``, a compressed string or the runs themselves as plain integers.

    Raises PrepError where they do not fill an H x W mask exactly: a mask from outside is read by this or by
    :func:`decode_counts` alone, since pycocotools may read and write past its memory on a damaged string.
    """
    pixels = height * width
    if isinstance(counts, (str, bytes)):
        runs = expand(counts)
        total = int(runs.sum())  # of fewer than 2**31 runs below 2**31 each
    else:
        if not isinstance(counts, list) or any(type(run) is not int for run in counts):
            raise PrepError(
                "A mask's counts are neither a string nor a list of integers.", "Generate the mask again."
            )
        total = sum(counts)
        runs = np.array(counts if all(0 <= run <= pixels for run in counts) else [-1], np.int64)
    if total != pixels or (len(runs) and runs.min() < 0):
        raise PrepError(
            f"A mask's runs add up to {total} pixels and do not cover {height} x {width}.",
            "Give the size of the image that it was made for.",
        )
    return runs


def decode_counts(counts: Any, height: int, width: int) -> npt.NDArray[np.bool_]:
    """The H x W mask of ``counts``; raises PrepError as :func:`checked_runs` does."""
    return decode(checked_runs(counts, height, width), height, width)


def counts_of(mask: npt.NDArray[np.generic]) -> str:
    """The compressed string of an H x W mask."""
    return compress(encode(mask))


def area(runs: npt.NDArray[np.integer]) -> int:
    """The number of pixels inside."""
    return int(runs[1::2].sum())


def corners(runs: npt.NDArray[np.integer], height: int) -> tuple[int, int, int, int]:
    """First column, first row, last column and last row that have a pixel inside; four zeros for an empty
    mask.

    These are the XYXY boxes of SAM's generator, whose width and height are one less than the number of pixels
    they span.
    """
    left, top, right, bottom = _corners(np.ascontiguousarray(runs, np.int64), height)
    return int(left), int(top), int(right), int(bottom)


def bounding_box(runs: npt.NDArray[np.integer], height: int) -> tuple[int, int, int, int]:
    """The XYWH box of COCO: width and height count pixels; four zeros for an empty mask."""
    if area(runs) == 0:
        return 0, 0, 0, 0
    left, top, right, bottom = corners(runs, height)
    return left, top, right - left + 1, bottom - top + 1


@compiled
def _pack(runs: Runs) -> npt.NDArray[np.uint8]:
    """The bytes of the compressed string: at most 13 per run, since 13 groups of 5 bits hold 64."""
    out = np.empty(13 * len(runs), np.uint8)
    used = 0
    for i in range(len(runs)):
        value = runs[i] - runs[i - 2] if i > 2 else runs[i]
        more = True
        while more:
            group = value & 31
            value >>= 5
            more = value != -1 if group & 16 else value != 0
            out[used] = (group | 32 if more else group) + 48
            used += 1
    return out[:used]


@compiled
def _unpack(data: npt.NDArray[np.uint8]) -> Runs:
    """The runs of a compressed string's bytes; a single run of -1 means that they are invalid."""
    out = np.empty(len(data), np.int64)
    used, value, shift = 0, np.int64(0), 0
    for byte in data:
        group = np.int64(byte) - 48
        if group < 0 or group > 63 or shift > 60:
            return np.full(1, -1, np.int64)
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value |= np.int64(-1) << shift
        out[used] = value + out[used - 2] if used > 2 else value
        used += 1
        value, shift = np.int64(0), 0
    if shift:
        return np.full(1, -1, np.int64)
    return out[:used].copy()


@compiled
def _runs_of(columns: npt.NDArray[np.bool_]) -> Runs:
    """The runs of a mask given column by column (W x H, contiguous)."""
    flat = columns.ravel()
    changes = 1
    for i in range(1, len(flat)):
        changes += flat[i] != flat[i - 1]
    if len(flat) == 0:
        return np.zeros(0, np.int64)
    first = 1 if flat[0] else 0
    out = np.zeros(first + changes, np.int64)
    at, start = first, 0
    for i in range(1, len(flat)):
        if flat[i] != flat[i - 1]:
            out[at] = i - start
            at, start = at + 1, i
    out[at] = len(flat) - start
    return out


@compiled
def _fill(runs: Runs, height: int, width: int) -> npt.NDArray[np.bool_]:
    """The mask of ``runs`` column by column (W x H)."""
    flat = np.zeros(height * width, np.bool_)
    end = 0
    for i in range(len(runs)):
        if i & 1:
            flat[end : end + runs[i]] = True
        end += runs[i]
    return flat.reshape(width, height)


@compiled
def _corners(runs: Runs, height: Any) -> Any:
    left: Any = np.int64(-1)
    top: Any = np.int64(height)
    right, bottom = left + 1, left
    end: Any = 0
    for i in range(len(runs)):
        start, end = end, end + runs[i]
        if i & 1 and runs[i] > 0:
            first, last = start // height, (end - 1) // height
            if left < 0:
                left = first
            right = last
            # A run that spans two columns covers the end of one and the start of the next.
            top = min(top, start % height if first == last else 0)
            bottom = max(bottom, (end - 1) % height if first == last else height - 1)
    if left < 0:
        return left + 1, left + 1, left + 1, left + 1
    return left, top, right, bottom

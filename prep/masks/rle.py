"""Converts COCO run-length masks between runs, compressed strings and arrays, and computes area and box.

A mask of H x W pixels is read column by column (Fortran order). Its *runs* (int64, shape ``(n,)``) are the
lengths of alternating segments: outside, inside, outside and so on, where the first may be zero. The
compressed string is that of pycocotools: from the fourth run on, the difference from the run two before; each
number in groups of five bits, lowest first, with a sixth bit if more follow, plus 48 to make a printable
character.
"""

from __future__ import annotations

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
    """The runs of an H x W mask (any dtype and memory order; non-zero is inside)."""
    inside = mask if mask.dtype == np.bool_ else mask != 0
    height = inside.shape[0]
    if inside.size == 0:
        return np.zeros(0, np.int64)
    if inside.flags.f_contiguous:
        columns = inside.T.reshape(-1).view(np.uint8)
        changed = _words(columns[1:], columns[:-1])
        count = int(np.count_nonzero(changed.view(np.uint8)))
        return _runs_of(changed, int(columns[0]), count, len(columns))
    rows = np.ascontiguousarray(inside).view(np.uint8)
    return _runs_of_rows(_words(rows[1:], rows[:-1]), rows[0], rows[-1], height)


def _words(these: npt.NDArray[np.uint8], those: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Where two arrays of 0 and 1 differ, eight bytes to a word: most words of a mask are 0."""
    differ = np.empty(-(-these.size // 8), np.uint64)
    differ[-1:] = 0
    np.bitwise_xor(these, those, out=differ.view(np.uint8)[: these.size].reshape(these.shape))
    return differ


def decode(runs: npt.NDArray[np.integer], height: int, width: int) -> npt.NDArray[np.bool_]:
    """The H x W mask of ``runs``; raises PrepError if they do not cover it exactly."""
    # Check each run first: the sum of very long runs could overflow to the right number.
    if (len(runs) and not 0 <= runs.min() <= runs.max() <= height * width) or runs.sum() != height * width:
        raise PrepError(
            f"The runs of a mask cover {int(runs.sum())} pixels, not {height} x {width}.",
            "Give the size with which it was encoded.",
        )
    return _fill(np.ascontiguousarray(runs, np.int64), height, width).T


def checked_runs(counts: object, height: int, width: int) -> Runs:
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


def decode_counts(counts: object, height: int, width: int) -> npt.NDArray[np.bool_]:
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
def _runs_of(changed: npt.NDArray[np.uint64], begins: int, count: int, size: int) -> Runs:
    """The runs of a mask of ``size`` pixels whose columns lie one after another.

    A byte of ``changed`` (0 or 1, ``count`` of them are 1) says whether a pixel differs from the one before,
    from the second one on; ``begins`` whether the first is inside.
    """
    runs = np.empty(count + begins + 1, np.int64)
    runs[0] = 0
    used, start = begins, 0
    for number in range(len(changed)):
        word = changed[number]
        if word:
            place = 8 * number + 1
            for _ in range(8):
                if word & np.uint64(1):
                    runs[used] = place - start
                    used, start = used + 1, place
                word >>= np.uint64(8)
                place += 1
    runs[used] = size - start
    return runs


@compiled
def _runs_of_rows(
    changed: npt.NDArray[np.uint64], top: npt.NDArray[np.uint8], bottom: npt.NDArray[np.uint8], height: int
) -> Runs:
    """The runs of a mask whose rows lie one after another.

    A byte of ``changed`` says whether a pixel differs from the one above it, from the second row on; ``top``
    and ``bottom`` are the first and the last row. The changes are sorted by column, and within it by row.
    """
    width = len(top)
    fill = np.zeros(width + 1, np.int64)  # the number of changes up to a column, then where its next one goes
    for column in range(width):
        above = bottom[column - 1] if column else np.uint8(0)
        fill[column + 1] = top[column] != above
    for number in range(len(changed)):
        word = changed[number]
        if word:
            column = 8 * number % width
            for _ in range(8):
                fill[column + 1] += np.int64(word & np.uint64(1))
                word >>= np.uint64(8)
                column = column + 1 if column + 1 < width else 0
    for column in range(width):
        fill[column + 1] += fill[column]
    count = fill[width]
    places = np.empty(count + 2, np.int64)
    places[0], places[count + 1] = 0, width * height
    for column in range(width):
        fill[column] += 1
        if top[column] != (bottom[column - 1] if column else np.uint8(0)):
            places[fill[column]] = column * height
            fill[column] += 1
    for number in range(len(changed)):
        word = changed[number]
        if word:
            column, row = 8 * number % width, 8 * number // width + 1
            for _ in range(8):
                if word & np.uint64(1):
                    places[fill[column]] = column * height + row
                    fill[column] += 1
                word >>= np.uint64(8)
                column += 1
                if column == width:
                    column, row = 0, row + 1
    return places[1:] - places[:-1]


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
def _corners(runs: Runs, height: int) -> tuple[np.int64, np.int64, np.int64, np.int64]:
    left, top = np.int64(-1), np.int64(height)
    right, bottom = left + 1, left
    end = np.int64(0)
    for i in range(len(runs)):
        start, end = end, end + runs[i]
        if i & 1 and runs[i] > 0:
            first, last = start // height, (end - 1) // height
            if left < 0:
                left = first
            right = last
            # A run that spans two columns covers the end of one and the start of the next.
            top = min(top, start % height if first == last else np.int64(0))
            bottom = max(bottom, (end - 1) % height if first == last else np.int64(height - 1))
    if left < 0:
        return left + 1, left + 1, left + 1, left + 1
    return left, top, right, bottom

"""Samples run-length masks on the 32 x 32 grid for training, without decoding them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

SIZE = 32
BYTES_PER_MASK = SIZE * SIZE // 8


def grid32(counts: Iterable[str], height: int, width: int) -> bytes:
    """The masks at 32 x 32, packed: 128 bytes per mask, in order.

    ``counts`` are compressed COCO RLE strings of ``height`` x ``width`` masks. Cell (i, j) is the mask's
    pixel at row ``floor(i * height / 32)`` and column ``floor(j * width / 32)``; cells are row-major, eight
    to a byte, the first in the highest bit.
    """
    # Only here: those who unpack grids, as the processes that load training batches do, need no numba.
    from prep.masks.rle import expand

    positions = _positions(height, width)
    return b"".join(np.packbits(_sample(expand(text), positions)).tobytes() for text in counts)


def unpack(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Packed grids, (..., 128), as 0 and 1: (..., 32, 32)."""
    return np.unpackbits(packed, axis=-1, bitorder="big").reshape(*packed.shape[:-1], SIZE, SIZE)


def _positions(height: int, width: int) -> npt.NDArray[np.int64]:
    """Column-major index of the source pixel of every cell, 32 x 32 in row-major order."""
    rows = np.arange(SIZE, dtype=np.int64) * height // SIZE
    columns = np.arange(SIZE, dtype=np.int64) * width // SIZE
    return columns[None, :] * height + rows[:, None]


def _sample(lengths: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """The mask's value at each position: the parity of the number of runs that end at or before it."""
    return (np.searchsorted(np.cumsum(lengths), positions, side="right") & 1).astype(bool)

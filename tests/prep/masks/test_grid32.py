"""The 32 x 32 grid against decoding the mask and indexing it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from prep.masks.grid32 import BYTES_PER_MASK, grid32, unpack

Mask = npt.NDArray[np.bool_]
masks = st.tuples(st.integers(1, 70), st.integers(1, 70)).flatmap(lambda shape: arrays(bool, shape))


def rle(mask: Mask) -> str:
    return str(coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode())


def brute_force(mask: Mask) -> bytes:
    height, width = mask.shape
    cells = [mask[i * height // 32, j * width // 32] for i in range(32) for j in range(32)]
    return np.packbits(np.array(cells), bitorder="big").tobytes()


@settings(max_examples=150, deadline=None)
@given(masks)
def test_grid_is_the_decoded_mask_indexed(mask: Mask) -> None:
    assert grid32([rle(mask)], *mask.shape) == brute_force(mask)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (480, 640), (33, 31), (3000, 4000)])
@pytest.mark.parametrize("density", [0.0, 0.001, 0.5, 1.0])
def test_sizes_and_densities(shape: tuple[int, int], density: float) -> None:
    mask = np.zeros(shape, bool)
    rng = np.random.default_rng(0)
    mask[:: max(1, shape[0] // 97)] = rng.random(mask[:: max(1, shape[0] // 97)].shape) < density
    assert grid32([rle(mask)], *shape) == brute_force(mask)


def test_masks_are_in_order_and_never_padded() -> None:
    full, empty = np.ones((7, 9), bool), np.zeros((7, 9), bool)
    data = grid32([rle(full), rle(empty), rle(full)], 7, 9)
    assert len(data) == 3 * BYTES_PER_MASK
    packed = np.frombuffer(data, np.uint8).reshape(1, 3, BYTES_PER_MASK)
    assert unpack(packed).shape == (1, 3, 32, 32)
    assert [g.all() for g in unpack(packed)[0]] == [True, False, True]
    assert grid32([], 7, 9) == b""
    assert unpack(np.zeros((0, BYTES_PER_MASK), np.uint8)).shape == (0, 32, 32)


@settings(max_examples=50, deadline=None)
@given(masks)
def test_unpacking_undoes_packing(mask: Mask) -> None:
    packed = np.frombuffer(grid32([rle(mask)], *mask.shape), np.uint8)
    assert np.packbits(unpack(packed)).tobytes() == brute_force(mask)

"""Removal of small regions on runs against the official removal on pixels, with OpenCV."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.utils.amg import remove_small_regions as official

from prep.masks import rle
from prep.proposals.sam.small_regions import remove_small_regions


def expected(mask: np.ndarray, area: int) -> tuple[np.ndarray, bool]:
    filled, first = official(mask, area, mode="holes")
    cleaned, second = official(filled, area, mode="islands")
    return cleaned, first or second


@settings(deadline=None, max_examples=300)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    density=st.sampled_from([0.0, 0.05, 0.2, 0.5, 0.8, 0.95, 1.0]),
    area=st.sampled_from([1, 2, 3, 5, 9, 30, 10_000]),
)
def test_equal_on_noise(seed: int, height: int, width: int, density: float, area: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < density
    wanted, changed = expected(mask, area)
    runs, ours = remove_small_regions(rle.encode(mask), height, width, area)
    assert ours == changed
    assert np.array_equal(runs, rle.encode(wanted))


@pytest.mark.parametrize("area", [10, 100, 1000])
def test_equal_on_large_shapes(area: int) -> None:
    rng = np.random.default_rng(area)
    y, x = np.mgrid[:301, :407]
    for _ in range(6):
        waves = sum(
            np.sin(rng.normal(0, 0.08) * x + rng.normal(0, 0.08) * y + rng.uniform(0, 6)) for _ in range(5)
        )
        mask = waves + rng.normal(0, 0.4, waves.shape) > 0.5
        wanted, changed = expected(mask, area)
        runs, ours = remove_small_regions(rle.encode(mask), *mask.shape, area)
        assert ours == changed
        assert np.array_equal(runs, rle.encode(wanted))


def test_of_equal_islands_the_one_that_opencv_labels_first_is_kept() -> None:
    """Every pair of pixels: OpenCV looks at blocks of 2 x 2, so the upper one is not always the first."""
    places = [(row, column) for row in range(6) for column in range(7)]
    later = 0
    for first, second in itertools.combinations(places, 2):
        mask = np.zeros((6, 7), bool)
        mask[first] = mask[second] = True
        wanted, _ = expected(mask, 3)
        runs, _ = remove_small_regions(rle.encode(mask), 6, 7, 3)
        assert np.array_equal(runs, rle.encode(wanted))
        later += wanted.sum() == 1 and wanted[second]
    assert later > 0

"""Crops, points and the edge filter against the official functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.utils import amg
from segment_anything.utils.transforms import ResizeLongestSide

from prep.proposals.sam.crops import Crop, crops, cut_off, grids, resized, scaled
from prep.proposals.sam.settings import SamSettings

sizes = st.tuples(st.integers(1, 1500), st.integers(1, 1500))


@settings(deadline=None)
@given(sizes, st.integers(0, 3), st.floats(0, 1))
def test_crops_are_the_official_ones(size: tuple[int, int], layers: int, overlap: float) -> None:
    boxes, numbers = amg.generate_crop_boxes(size, layers, overlap)
    assert [(list(crop.box), crop.layer) for crop in crops(size, layers, overlap)] == list(
        zip(boxes, numbers, strict=True)
    )


@pytest.mark.parametrize(("side", "layers", "factor"), [(1, 0, 1), (8, 0, 1), (32, 2, 2), (7, 1, 3)])
def test_grids_are_the_official_ones(side: int, layers: int, factor: int) -> None:
    ours = grids(
        SamSettings(points_per_side=side, crop_n_layers=layers, crop_n_points_downscale_factor=factor)
    )
    for mine, theirs in zip(ours, amg.build_all_layer_point_grids(side, layers, factor), strict=True):
        assert np.array_equal(mine, theirs)


@settings(deadline=None)
@given(sizes)
def test_points_are_scaled_to_the_bit(size: tuple[int, int]) -> None:
    resize = ResizeLongestSide(1024)
    points = amg.build_point_grid(5) * np.array([size[1], size[0]])
    inside = resized(size, 1024)
    assert inside == resize.get_preprocess_shape(*size, 1024)
    assert np.array_equal(scaled(points, size, inside), resize.apply_coords(points, size))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_cut_off_is_the_official_filter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    box = (40 * int(rng.integers(0, 3)), 30 * int(rng.integers(0, 3)), 200, 150)
    first = rng.integers(0, 80, (50, 2))
    boxes = np.concatenate([first, first + rng.integers(0, 90, (50, 2))], axis=1)
    expected = amg.is_box_near_crop_edge(torch.as_tensor(boxes), list(box), [0, 0, 230, 150])
    assert cut_off(boxes, Crop(box, 1), (150, 230)).tolist() == expected.tolist()

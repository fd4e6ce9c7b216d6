"""Suppression against torchvision's, ties and oddities included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops.boxes import batched_nms

from prep.proposals.sam.nms import suppress


def compare(boxes: np.ndarray, scores: torch.Tensor, threshold: float) -> None:
    expected = batched_nms(torch.as_tensor(boxes).float(), scores, torch.zeros(len(boxes)), threshold)
    assert suppress(boxes, scores, threshold).tolist() == expected.tolist()


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 60),
    side=st.sampled_from([1, 4, 40, 2000]),
    levels=st.sampled_from([1, 2, 5, 10**6]),
    threshold=st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]),
)
def test_equal_to_torchvision(seed: int, count: int, side: int, levels: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    first = rng.integers(0, side, (count, 2))
    boxes = np.concatenate([first, first + rng.integers(0, side, (count, 2))], axis=1)
    scores = torch.as_tensor(rng.integers(0, levels, count) / levels, dtype=torch.float32)
    compare(boxes, scores, threshold)


@pytest.mark.parametrize("count", [1000, 1001, 1500])
def test_equal_on_both_sides_of_the_category_path(count: int) -> None:
    rng = np.random.default_rng(count)
    first = rng.integers(0, 300, (count, 2))
    boxes = np.concatenate([first, first + rng.integers(1, 60, (count, 2))], axis=1)
    compare(boxes, torch.as_tensor(rng.integers(0, 3, count), dtype=torch.float32), 0.5)


def test_a_score_that_is_no_number_is_best() -> None:
    boxes = np.array([[0, 0, 9, 9], [0, 0, 9, 8], [50, 50, 60, 60]])
    compare(boxes, torch.tensor([0.5, float("nan"), 0.1]), 0.5)

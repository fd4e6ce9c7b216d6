"""Masks and scores against slow loops written from the equations of SOLOv2."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from prep.proposals.freesolo.inference import enlarge, matrix_nms, points_nms, select
from prep.proposals.freesolo.settings import FreeSoloSettings

GRIDS, STRIDES = (40, 36, 24, 16, 12), (8, 8, 16, 32, 32)


def _points(scores: Any) -> Any:
    found = scores.copy()
    for (row, column), value in np.ndenumerate(scores):
        near = [(row - 1, column), (row, column - 1), (row - 1, column - 1)]
        if any(min(at) >= 0 and scores[at] > value for at in near):
            found[row, column] = 0
    return found


def _decayed(labels: Any, masks: Any, scores: Any, kernel: str, sigma: float) -> list[float]:
    """Equations 4 to 6: the smallest f(iou of i and j) / f(largest iou of i with a better mask)."""

    def iou(i: int, j: int) -> float:
        if labels[i] != labels[j]:
            return 0.0
        return float((masks[i] & masks[j]).sum() / (masks[i] | masks[j]).sum())

    def f(x: float) -> float:
        return 1 - x if kernel == "linear" else math.exp(-sigma * x * x)

    number = range(len(scores))
    ious = [[iou(i, j) for i in range(j)] for j in number]  # with the better masks
    found = []
    for j in number:
        factors = [f(ious[j][i]) / f(max(ious[i], default=0.0)) for i in range(j)] + [1.0]
        found.append(float(scores[j]) * min(factors))
    return found


def _select(logits: Any, kernels: Any, features: Any, s: FreeSoloSettings) -> list[tuple[Any, float]]:
    candidates = []
    for level, side in enumerate(GRIDS):
        for label in range(logits[level].shape[1]):
            heat = _points(1 / (1 + np.exp(-logits[level][0, label])))
            for row, column in np.ndindex(side, side):
                if heat[row, column] > s.score_thr:
                    kernel = kernels[level][0, :, row, column]
                    soft = 1 / (1 + np.exp(-np.einsum("k,khw->hw", kernel, features[0])))
                    hard = soft > s.mask_thr
                    if hard.sum() > STRIDES[level]:
                        score = heat[row, column] * soft[hard].mean()
                        candidates.append((score, label, soft, hard))
    candidates = sorted(candidates, key=lambda each: -each[0])[: s.nms_pre]
    scores, labels, softs, hards = zip(*candidates, strict=True)
    decayed = _decayed(labels, hards, scores, s.nms_kernel, s.nms_sigma)
    kept = [(soft, score) for soft, score in zip(softs, decayed, strict=True) if score >= s.update_thr]
    return sorted(kept, key=lambda each: -each[1])[: s.max_per_img]


def test_points_nms_compares_above_left_and_above_left() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (1, 2, 9, 9)) / 6  # with ties
    found = points_nms(torch.tensor(scores))[0].numpy()
    for label in range(2):
        np.testing.assert_array_equal(found[label], _points(scores[0, label]))


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
@pytest.mark.parametrize("sigma", [2.0, 0.5])
def test_matrix_nms_equals_its_equations(kernel: str, sigma: float) -> None:
    rng = np.random.default_rng(1)
    masks = rng.random((12, 6, 7)) < 0.6
    labels = rng.integers(0, 2, 12)
    scores = np.sort(rng.random(12))[::-1].copy()
    tensors = (torch.tensor(each) for each in (labels, masks, scores))
    found = matrix_nms(*tensors, kernel, sigma)
    np.testing.assert_allclose(found, _decayed(labels, masks, scores, kernel, sigma), rtol=1e-5)


def _outputs(seed: int) -> tuple[list[Any], list[Any], Any]:
    rng = np.random.default_rng(seed)
    logits = [rng.normal(-2.5, 1.2, (1, 2, side, side)) for side in GRIDS]
    kernels = [rng.normal(0, 0.8, (1, 6, side, side)) for side in GRIDS]
    return logits, kernels, np.maximum(rng.normal(0, 1, (1, 6, 7, 9)), 0)


@pytest.mark.parametrize(
    "settings",
    [
        FreeSoloSettings(score_thr=0.6),
        FreeSoloSettings(score_thr=0.6, mask_thr=0.6, nms_kernel="linear", update_thr=0.2, nms_pre=60),
        FreeSoloSettings(score_thr=0.55, nms_sigma=0.5, max_per_img=7),
    ],
)
def test_masks_equal_the_slow_loops(settings: FreeSoloSettings) -> None:
    logits, kernels, features = _outputs(3)
    soft, scores = select(
        [torch.tensor(each) for each in logits],
        [torch.tensor(each) for each in kernels],
        torch.tensor(features),
        settings,
    )
    expected = _select(logits, kernels, features, settings)
    assert len(expected) == len(scores) > 5
    np.testing.assert_allclose(scores, [score for _, score in expected], rtol=1e-5)
    np.testing.assert_allclose(soft, [each for each, _ in expected], rtol=1e-6)


def test_no_location_and_no_mask_give_nothing() -> None:
    logits, kernels, features = ([torch.tensor(e) for e in each] for each in _outputs(3))
    stacked = torch.stack(list(features))
    soft, scores = select(logits, kernels, stacked, FreeSoloSettings(score_thr=1.0))
    assert soft.shape == (0, 7, 9)
    assert len(scores) == 0
    soft, scores = select(logits, kernels, stacked * 0, FreeSoloSettings())  # 0.5 is not above 0.5
    assert soft.shape == (0, 7, 9)
    assert len(scores) == 0


def test_masks_are_cut_to_the_image_before_they_are_resized() -> None:
    soft = torch.zeros(1, 8, 8)
    soft[:, :, 4:] = 1  # the padding, from column 16 of 32
    found = enlarge(soft, (32, 16), (64, 32), 0.5)
    assert found.shape == (1, 64, 32)
    assert found.dtype == torch.bool
    assert not found.any()
    assert enlarge(soft, (32, 24), (32, 24), 0.5)[0].sum(1).tolist() == [8] * 32

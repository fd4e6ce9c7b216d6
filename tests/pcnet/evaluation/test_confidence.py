"""Entropy and margin against scipy, brute force and cases with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pcnet.evaluation.confidence import SIDE, confidence


def test_entropy_is_that_of_the_positive_part() -> None:
    response = np.random.default_rng(0).normal(size=(30, 50))
    positive = np.maximum(response, 0).ravel()
    expected = stats.entropy(positive) / np.log(positive.size)
    assert confidence(response, None, None) == {"entropy": pytest.approx(expected), "margin": None}


def test_entropy_runs_from_one_pixel_to_all() -> None:
    point = np.full((20, 20), -1.0)
    assert confidence(point, None, None)["entropy"] is None
    point[3, 4] = 2.0
    assert confidence(point, None, None)["entropy"] == pytest.approx(0.0)
    assert confidence(np.ones((20, 20)), None, None)["entropy"] == pytest.approx(1.0)


def test_the_margin_is_against_the_best_other_proposal() -> None:
    rng = np.random.default_rng(1)
    response, masks = rng.normal(size=(40, 60)), rng.random((5, 40, 60)) > 0.6
    soft = np.maximum(response, 0) / response.max()
    merits = [float(soft[mask].sum() / (soft.sum() + mask.sum() - soft[mask].sum())) for mask in masks]
    for chosen in range(5):
        others = max(merit for at, merit in enumerate(merits) if at != chosen)
        assert confidence(response, masks, chosen)["margin"] == pytest.approx(merits[chosen] - others)
    assert confidence(response, masks[:1], 0)["margin"] is None


def test_large_maps_are_sampled_evenly() -> None:
    response = np.zeros((480, 640))
    response[100:300, 200:500] = 1.0
    masks = np.zeros((2, 480, 640), dtype=bool)
    masks[0, 100:300, 200:500] = True
    masks[1, 100:300, 200:350] = True
    told = confidence(response, masks, 0)
    share = 200 * 300 / (480 * 640)
    assert told["margin"] == pytest.approx(0.5, abs=2 / SIDE)
    assert told["entropy"] == pytest.approx(1 + np.log(share) / np.log(SIDE * SIDE), abs=0.03)

"""The metrics against definitions written out pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pcnet.metrics import (
    binarise,
    box_iou,
    box_of,
    normalise,
    oracle_proposal,
    peak,
    proposal_under_peak,
    score_sample,
    summarise,
)

SIDES = st.tuples(st.integers(1, 6), st.integers(1, 6))
VALUES = st.integers(-8, 8).map(lambda v: v / 4)


@st.composite
def cases(draw):
    shape = draw(SIDES)
    response = draw(hnp.arrays(np.float32, shape, elements=VALUES))
    truth = draw(hnp.arrays(bool, shape))
    proposals = draw(hnp.arrays(bool, (draw(st.integers(0, 4)), *shape)))
    return response, truth, proposals, draw(st.sampled_from([1e-9, 0.5]))


def brute(response, truth, proposals, threshold):
    """Every figure by loops over pixels, from the definitions."""
    height, width = response.shape
    best, best_at = -np.inf, None
    top = 0.0
    for y in range(height):
        for x in range(width):
            if response[y, x] > best:
                best, best_at = response[y, x], (y, x)
            top = max(top, float(response[y, x]))
    predicted = {
        (y, x)
        for y in range(height)
        for x in range(width)
        if top > 0 and max(float(response[y, x]), 0) / top > threshold
    }
    real = {(y, x) for y in range(height) for x in range(width) if truth[y, x]}
    box = None
    if real:
        ys, xs = [y for y, _ in real], [x for _, x in real]
        box = (min(xs), min(ys), max(xs), max(ys))
    shown = None
    if predicted:
        ys, xs = [y for y, _ in predicted], [x for _, x in predicted]
        shown = (min(xs), min(ys), max(xs), max(ys))
    inside = [
        {(y, x) for y in range(b[1], b[3] + 1) for x in range(b[0], b[2] + 1)} for b in (shown, box) if b
    ]
    return {
        "box_iou": len(inside[0] & inside[1]) / len(inside[0] | inside[1]) if len(inside) == 2 else 0.0,
        "peak": best_at,
        "intersection": len(predicted & real),
        "union": len(predicted | real),
        "point": best_at in real,
        "hit_box": box is not None and box[0] <= best_at[1] <= box[2] and box[1] <= best_at[0] <= box[3],
        "empty": top <= 0,
        "oracle_iou": max(
            (
                len(real & own) / len(real | own) if real | own else 0.0
                for own in ({(int(y), int(x)) for y, x in np.argwhere(p)} for p in proposals)
            ),
            default=0.0,
        ),
    }


@settings(max_examples=300, deadline=None)
@given(cases())
def test_every_figure_agrees_with_its_definition(case):
    response, truth, proposals, threshold = case
    score = score_sample(response, truth, proposals, threshold)
    expected = brute(*case)
    assert (score.peak_y, score.peak_x) == expected["peak"] == peak(response)
    assert (score.intersection, score.union) == (expected["intersection"], expected["union"])
    assert score.point == expected["point"]
    assert score.hit_box == expected["hit_box"]
    assert score.box_iou == pytest.approx(expected["box_iou"])
    assert score.iou == pytest.approx(expected["intersection"] / max(expected["union"], 1))
    chosen = np.zeros_like(truth) if score.proposal is None else proposals[score.proposal]
    assert score.proposal_intersection == (chosen & truth).sum()
    assert score.proposal_union == (chosen | truth).sum()
    assert score.proposal_iou == pytest.approx((chosen & truth).sum() / max((chosen | truth).sum(), 1))
    assert score.empty == expected["empty"]
    assert score.oracle_iou == pytest.approx(expected["oracle_iou"])


@settings(max_examples=200, deadline=None)
@given(cases())
def test_the_chosen_proposal_contains_the_peak_if_any_does_and_fits_best_among_those(case):
    response, _, proposals, _ = case
    chosen = proposal_under_peak(response, proposals)
    if len(proposals) == 0:
        assert chosen is None
        return
    y, x = peak(response)
    soft = normalise(response)

    def fit(mask):
        union = np.maximum(soft, mask).sum()
        return np.minimum(soft, mask).sum() / union if union else 0.0

    under = [p for p in proposals if p[y, x]]
    assert proposals[chosen][y, x] or not under
    assert fit(proposals[chosen]) == pytest.approx(max(fit(p) for p in (under or proposals)))


def test_a_tie_goes_to_the_smaller_proposal_whatever_the_order():
    response = np.zeros((4, 4), np.float32) - 1
    small, large = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    small[0, :2], large[0, :3] = True, True
    assert proposal_under_peak(response, np.stack([small, large])) == 0
    assert proposal_under_peak(response, np.stack([large, small])) == 1


def test_the_peak_is_that_of_the_raw_map_where_nothing_is_positive():
    response = np.full((3, 4), -2.0)
    response[2, 1] = -1.0
    truth = np.zeros((3, 4), bool)
    truth[2, 1] = True
    score = score_sample(response, truth)
    assert score.point
    assert score.empty
    assert score.iou == 0.0
    assert not binarise(response).any()


def test_boxes_are_tight_and_their_iou_counts_pixels():
    mask = np.zeros((5, 7), bool)
    mask[1:3, 2:6] = True
    assert box_of(mask) == (2, 1, 6, 3)
    assert box_of(np.zeros((2, 2), bool)) is None
    assert box_iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert box_iou((0, 0, 2, 2), (2, 0, 4, 2)) == 0.0
    assert box_iou(None, (0, 0, 1, 1)) == 0.0


def test_the_summary_is_the_mean_of_ious_and_the_ratio_of_sums():
    response = np.array([[1.0, 0.5, 0.0, 0.0]])
    masks = [np.array([[True, True, False, False]]), np.array([[True, False, True, True]])]
    figures = summarise(score_sample(response, mask, np.stack(masks)) for mask in masks)
    assert figures.n == 2
    assert figures.miou == pytest.approx(100 * (1.0 + 0.25) / 2)
    assert figures.oiou == pytest.approx(100 * (2 + 1) / (2 + 4))
    assert figures.pointm == 100.0
    assert figures.oracle_miou == 100.0
    assert figures.proposal_miou == pytest.approx(100 * (1.0 + 0.25) / 2)
    assert figures.proposal_oiou == pytest.approx(100 * (2 + 1) / (2 + 4))
    assert (figures.hit, figures.box_accuracy, figures.empty) == (100.0, 50.0, 0)


def test_an_image_without_proposals_counts_as_a_miss_after_refinement():
    truth = np.array([[True, False]])
    response = np.array([[1.0, -1.0]])
    figures = summarise([score_sample(response, truth, np.zeros((0, 1, 2), bool))])
    assert figures.miou == 100.0
    assert figures.proposal_miou == 0.0
    assert figures.proposal_oiou == 0.0
    assert summarise([score_sample(response, truth)]).proposal_miou is None
    assert summarise([]).n == 0


def test_oracle_takes_the_best_overlap():
    truth = np.array([[True, True, False]])
    proposals = np.array([[[True, False, False]], [[True, True, True]]])
    assert oracle_proposal(truth, proposals) == 1


def test_a_box_of_exactly_half_overlap_does_not_count() -> None:
    truth = np.zeros((4, 4), bool)
    truth[:2] = True
    half, more = np.zeros((4, 4)), np.zeros((4, 4))
    half[:1] = 1.0
    more[:3] = 1.0
    scores = [score_sample(response, truth) for response in (half, more)]
    assert [score.box_iou for score in scores] == [0.5, 2 / 3]
    assert [summarise([score]).box_accuracy for score in scores] == [0.0, 100.0]

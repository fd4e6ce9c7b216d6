"""The paper's selection against its rules spelled out on decoded masks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from prep.errors import PrepError
from prep.proposals.select import PAPER, Selection, select
from prep.records import Proposal

SIDE = 12


def proposal(mask: npt.NDArray[np.bool_]) -> Proposal:
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    box = coco.toBbox(encoded)
    return Proposal(encoded["counts"].decode(), int(mask.sum()), (box[0], box[1], box[2], box[3]))


def rectangle(top: int, left: int, height: int, width: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def by_the_rules(masks: list[npt.NDArray[np.bool_]], chosen: Selection) -> list[int]:
    order = list(range(len(masks)))
    if chosen.off:
        return order
    order = [i for i in order if masks[i].sum() >= chosen.min_area]
    order.sort(key=lambda i: (-masks[i].sum(), i))
    kept: list[int] = []
    for i in order:
        overlaps = [(masks[i] & masks[k]).sum() / max((masks[i] | masks[k]).sum(), 1) for k in kept]
        if not chosen.max_overlap or all(iou <= chosen.max_overlap for iou in overlaps):
            kept.append(i)
    return kept[: chosen.max_masks or None]


rectangles = st.builds(rectangle, st.integers(0, 8), st.integers(0, 8), st.integers(0, 6), st.integers(0, 6))
selections = st.builds(
    Selection,
    min_area=st.sampled_from([0, 4, 9]),
    max_overlap=st.sampled_from([0.0, 0.25, 0.5, 0.8, 1.0]),
    max_masks=st.sampled_from([0, 1, 3]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(rectangles, max_size=12), selections)
def test_selection_follows_its_rules(masks: list[npt.NDArray[np.bool_]], chosen: Selection) -> None:
    proposals = [proposal(m) for m in masks]
    kept = select(proposals, chosen, SIDE, SIDE)
    assert kept == [proposals[i] for i in by_the_rules(masks, chosen)]


def test_limits_themselves_are_kept() -> None:
    large, half = proposal(rectangle(0, 0, 4, 4)), proposal(rectangle(0, 0, 4, 2))
    assert select([half], Selection(min_area=8), SIDE, SIDE) == [half]
    assert select([half], Selection(min_area=9), SIDE, SIDE) == []
    assert select([large, half], Selection(max_overlap=0.5), SIDE, SIDE) == [large, half]
    assert select([large, half], Selection(max_overlap=0.49), SIDE, SIDE) == [large]


def test_equal_masks_keep_the_generators_first() -> None:
    first = Proposal(proposal(rectangle(0, 0, 3, 3)).counts, 9, (0, 0, 3, 3), predicted_iou=0.1)
    second = Proposal(first.counts, 9, (0, 0, 3, 3), predicted_iou=0.9)
    assert select([first, second], Selection(max_overlap=0.8), SIDE, SIDE) == [first]
    assert select([second, first], Selection(max_overlap=0.8), SIDE, SIDE) == [second]


def test_a_suppressed_mask_suppresses_nothing() -> None:
    wide, middle, narrow = (proposal(rectangle(0, 0, 1, width)) for width in (10, 8, 6))
    # The middle falls to the wide one (0.8); the narrow one overlaps the wide one by 0.6 only.
    assert select([narrow, middle, wide], Selection(max_overlap=0.7), SIDE, SIDE) == [wide, narrow]


def test_off_keeps_the_generators_order() -> None:
    small, large = proposal(rectangle(0, 0, 1, 1)), proposal(rectangle(0, 0, 5, 5))
    assert select([small, large, small], Selection(), SIDE, SIDE) == [small, large, small]
    assert select([small, large], Selection(max_masks=5), SIDE, SIDE) == [large, small]


def test_the_papers_numbers() -> None:
    assert PAPER.settings() == {"min_area": 1000, "max_overlap": 0.8, "max_masks": 40}


OUT_OF_RANGE = [{"min_area": -1}, {"max_masks": -1}, {"max_overlap": 1.5}, {"max_overlap": -0.1}]


@pytest.mark.parametrize("values", OUT_OF_RANGE)
def test_values_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(PrepError):
        Selection(**values)  # type: ignore[arg-type]

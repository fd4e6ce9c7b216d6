"""The weightless generator: what it finds on shapes, and what it must never do."""

from __future__ import annotations

import pickle

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools import mask as coco

from prep.proposals.segments.generator import SegmentGenerator, SegmentSettings
from prep.records import Proposal

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


SHAPES = [((18, 18), (210, 50, 40)), ((44, 20), (50, 90, 210)), ((30, 46), (230, 210, 60))]  # centre, colour


def decoded(proposal: Proposal, image: Pixels) -> Mask:
    size = list(image.shape[:2])
    return np.asarray(coco.decode({"size": size, "counts": proposal.counts.encode()})).astype(bool)


def scene(seed: int, side: int = 64) -> tuple[Pixels, list[Mask]]:
    """Discs and squares of distinct colours on a noisy ground, and their masks."""
    rng = np.random.default_rng(seed)
    image = rng.normal(110, 9, (side, side, 1)) + rng.normal(0, 3, (side, side, 3))
    rows, columns = np.mgrid[:side, :side]
    masks = []
    for place, colour in SHAPES:
        reach = rng.uniform(6, 11)
        far = np.maximum(abs(rows - place[0]), abs(columns - place[1]))
        near = np.hypot(rows - place[0], columns - place[1])
        mask = (near if rng.random() < 0.5 else far) <= reach
        image[mask] = np.array(colour) + rng.normal(0, 5, (int(mask.sum()), 3))
        masks.append(mask)
    return image.clip(0, 255).astype(np.uint8), masks


def best_iou(mask: Mask, found: list[Mask]) -> float:
    return max((float((mask & f).sum() / (mask | f).sum()) for f in found), default=0.0)


@pytest.fixture(scope="module")
def generator() -> SegmentGenerator:
    made = SegmentGenerator()
    made.open()
    return made


def test_shapes_on_a_textured_ground_are_found(generator: SegmentGenerator) -> None:
    ious = []
    for seed in range(12):
        image, masks = scene(seed)
        found = [decoded(p, image) for p in generator.propose([image])[0]]
        ious += [best_iou(mask, found) for mask in masks]
    assert np.mean(ious) > 0.85
    assert np.mean(np.array(ious) > 0.5) > 0.95


def test_at_most_forty_distinct_masks_with_true_fields(generator: SegmentGenerator) -> None:
    rng = np.random.default_rng(0)
    for shape in ((64, 64, 3), (90, 200, 3), (300, 420, 3)):
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        proposals = generator.propose([image])[0]
        assert len(proposals) <= 40
        assert len({p.counts for p in proposals}) == len(proposals)
        for proposal in proposals:
            mask = decoded(proposal, image)
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            assert proposal.area == mask.sum() > 0
            size = columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
            assert proposal.bbox == (columns[0], rows[0], *size)
            assert proposal.predicted_iou is None


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 40, 3), (40, 1, 3), (2, 3, 3), (7, 900, 3)])
def test_odd_sizes(generator: SegmentGenerator, shape: tuple[int, int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    for proposal in generator.propose([image])[0]:
        assert decoded(proposal, image).sum() == proposal.area


def test_a_reduced_image_has_the_masks_of_its_own_reduction(generator: SegmentGenerator) -> None:
    small, _ = scene(5)
    large = small.repeat(3, axis=0).repeat(5, axis=1)
    reduced = SegmentGenerator(SegmentSettings(max_side=64))
    squeezed = reduced.propose([large])[0]  # 64 wide, 38 high: another shape, so other masks
    assert all(decoded(p, large).sum() == p.area for p in squeezed)
    even = small.repeat(4, axis=0).repeat(4, axis=1)
    wanted = [decoded(p, small) for p in reduced.propose([small])[0]]
    found = [decoded(p, even) for p in reduced.propose([even])[0]]
    np.testing.assert_array_equal(found, [m.repeat(4, axis=0).repeat(4, axis=1) for m in wanted])


def test_a_plain_image_has_no_proposal(generator: SegmentGenerator) -> None:
    assert generator.propose([np.full((64, 64, 3), 90, np.uint8)]) == [[]]


def test_the_same_pixels_give_the_same_masks(generator: SegmentGenerator) -> None:
    images = [scene(seed)[0] for seed in range(4)]
    together = generator.propose(images)
    other = pickle.loads(pickle.dumps(SegmentGenerator()))
    other.open()
    assert [other.propose([image])[0] for image in reversed(images)] == together[::-1]


def test_settings_are_plain_and_complete() -> None:
    made = SegmentGenerator(SegmentSettings(max_masks=7))
    assert made.settings()["max_masks"] == 7
    assert made.weights_sha256 is None
    image, _ = scene(3)
    assert len(made.propose([image])[0]) == 7

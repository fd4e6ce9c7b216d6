"""The generator against the official one: every field, every option, in order."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything.modeling import Sam

from prep.errors import PrepError
from prep.proposals.sam import upsample
from prep.proposals.sam.decoder import Decoded, Decoder
from prep.proposals.sam.generator import SamGenerator
from prep.proposals.sam.settings import SamSettings
from prep.records import Proposal

Official = Callable[..., list[Proposal]]
# Random weights: almost nothing is steady, and every box is nearly the whole image.
RAGGED = {
    "points_per_side": 6, "pred_iou_thresh": -100.0, "stability_score_thresh": 0.0,
    "stability_score_offset": 0.02, "box_nms_thresh": 1.0,
}  # fmt: skip
SMOOTH = {"points_per_side": 8, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.5}


def ours(model: Sam, **options: Any) -> SamGenerator:
    generator = SamGenerator(SamSettings(model="vit_b", **options), load=lambda _: model)
    generator.open()
    return generator


def assert_same(found: list[Proposal], expected: list[Proposal]) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        # repr, so that NaN equals NaN and every digit counts; the reference mixes int and float boxes.
        assert repr(mine.stability_score) == repr(theirs.stability_score)
        assert (mine.counts, mine.area, mine.bbox, mine.point, mine.crop_box, mine.predicted_iou) == (
            theirs.counts, theirs.area, theirs.bbox, theirs.point, theirs.crop_box, theirs.predicted_iou,
        )  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"points_per_batch": 7},
        {"stability_score_thresh": 0.5},
        {"stability_score_offset": -0.02},
        {"pred_iou_thresh": 0.1},
        {"min_mask_region_area": 40},
        {"crop_n_layers": 1, "points_per_side": 4},
    ],
    ids=str,
)
def test_ragged_masks_are_the_official_ones(
    options: dict[str, Any], ragged: Sam, photo: np.ndarray, official: Official
) -> None:
    options = RAGGED | options
    expected = official(ragged, photo, **options)
    assert expected
    assert_same(ours(ragged, **options).propose([photo])[0], expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"points_per_side": 5, "box_nms_thresh": 0.95, "pred_iou_thresh": 0.1},
        {"box_nms_thresh": 0.3, "pred_iou_thresh": 0.0},
        {"min_mask_region_area": 300},
        {"min_mask_region_area": 1500, "box_nms_thresh": 0.9, "pred_iou_thresh": 0.05},
        {"crop_n_layers": 1},
        {"crop_n_layers": 2, "crop_n_points_downscale_factor": 2, "crop_nms_thresh": 0.9},
        {"crop_n_layers": 1, "crop_overlap_ratio": 0.6, "min_mask_region_area": 50},
        {"pred_iou_thresh": 0.4, "stability_score_thresh": 0.8, "stability_score_offset": 0.5},
    ],
    ids=str,
)
def test_smooth_masks_are_the_official_ones(
    options: dict[str, Any], smooth: Sam, photo: np.ndarray, official: Official
) -> None:
    options = SMOOTH | options
    expected = official(smooth, photo, **options)
    assert len({proposal.bbox for proposal in expected}) > 1, "the case is meant to have different masks"
    assert_same(ours(smooth, **options).propose([photo])[0], expected)


@pytest.mark.slow
def test_more_than_a_thousand_masks_keep_the_official_order(
    ragged: Sam, photo: np.ndarray, official: Official
) -> None:
    options = RAGGED | {"points_per_side": 19}
    assert_same(ours(ragged, **options).propose([photo])[0], official(ragged, photo, **options))


def test_explicit_points(smooth: Sam, photo: np.ndarray, official: Official) -> None:
    points = np.random.default_rng(3).random((11, 2))
    options = {"points_per_side": None, "pred_iou_thresh": 0.2, "stability_score_thresh": 0.4}
    expected = official(smooth, photo, **options, point_grids=[points])
    assert expected
    grid = (tuple((float(x), float(y)) for x, y in points),)
    assert_same(ours(smooth, **options, point_grids=grid).propose([photo])[0], expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 60), (50, 2), (128, 128), (300, 200)])
def test_odd_images(size: tuple[int, int], ragged: Sam, official: Official) -> None:
    image = np.random.default_rng(9).integers(0, 256, (*size, 3), dtype=np.uint8)
    options = RAGGED | {"points_per_side": 3}
    assert_same(ours(ragged, **options).propose([image])[0], official(ragged, image, **options))


def test_masks_near_a_threshold_are_recomputed_where_the_arithmetic_is_not_torchs(
    ragged: Sam, photo: np.ndarray, official: Official, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upsample, "agreeing", lambda plan, device: None)
    upsample._geometry.cache_clear()
    try:
        generator = ours(ragged, **RAGGED)
        assert_same(generator.propose([photo])[0], official(ragged, photo, **RAGGED))
        assert 0 < generator.recomputed <= generator.measured == 108
    finally:
        upsample._geometry.cache_clear()


def test_where_nothing_survives_there_are_no_masks(ragged: Sam, photo: np.ndarray) -> None:
    for options in ({"pred_iou_thresh": 100.0}, {"pred_iou_thresh": 100.0, "crop_n_layers": 1}):
        generator = ours(ragged, **(RAGGED | options))
        assert generator.propose([photo, photo]) == [[], []]


@pytest.mark.parametrize(("size", "layers"), [((1, 400), 0), ((2, 2), 2), ((0, 5), 0)])
def test_crops_too_thin_for_the_model_have_no_masks(size: tuple[int, int], layers: int, ragged: Sam) -> None:
    image = np.zeros((*size, 3), np.uint8)
    generator = ours(ragged, **(RAGGED | {"crop_n_layers": layers, "points_per_side": 2}))
    assert len(generator.propose([image])) == 1


def test_an_image_has_the_same_masks_whatever_is_beside_it(smooth: Sam, photo: np.ndarray) -> None:
    images = [photo, photo[:, ::-1].copy(), photo[:50], photo]
    together = ours(smooth, **SMOOTH, images_per_batch=3, threads=3).propose(images)
    alone = ours(smooth, **SMOOTH, images_per_batch=1, threads=1)
    assert together == [alone.propose([image])[0] for image in images]
    assert together[0] == together[3]


def test_it_travels_to_a_worker_before_it_is_opened(photo: np.ndarray) -> None:
    generator = pickle.loads(pickle.dumps(SamGenerator(SamSettings(model="vit_b"))))
    assert generator.name == "sam:vit_b"
    with pytest.raises(PrepError, match="has not been opened"):
        generator.propose([photo])


def test_a_shared_pass_with_other_bits_is_dropped_and_said(
    ragged: Sam, photo: np.ndarray, official: Official, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, shared = ours(ragged, **RAGGED), Decoder.shared

    def other_bits(self: Decoder, *inputs: Any) -> Decoded:
        found = shared(self, *inputs)
        return dataclasses.replace(found, iou=found.iou + 1e-6)

    monkeypatch.setattr(Decoder, "shared", other_bits)
    assert_same(generator.propose([photo])[0], official(ragged, photo, **RAGGED))
    (note,) = generator.pop_stats()["notes"]
    assert note.startswith("the decoder's shared pass is not used")


def test_the_decoder_s_shared_pass_gives_the_reference_s_bits_or_is_not_used(ragged: Sam) -> None:
    generator = ours(ragged, **RAGGED)
    decode = generator._decode
    with torch.inference_mode():
        prompts = decode.prompts(torch.rand((12, 2), dtype=torch.float64) * 128)
        features = torch.randn((1, 32, 8, 8))
        logits, iou = decode.reference(features, prompts)
        shared = decode.shared(features, prompts, -1.0)
        assert torch.allclose(shared.logits, logits.flatten(0, 1), atol=1e-5)
        assert torch.allclose(shared.iou, iou.flatten(), atol=1e-5)
        for threshold in (-1.0, float(iou.median()), 10.0):
            for _ in range(2):  # the first call compares, the second trusts what it found
                found = decode(features, prompts, threshold)
                kept = (iou.flatten() > threshold).nonzero().flatten() if threshold > 0 else torch.arange(36)
                assert torch.equal(found.index, kept)
                assert torch.equal(found.logits, logits.flatten(0, 1)[kept])
                assert torch.equal(found.iou, iou.flatten()[kept])

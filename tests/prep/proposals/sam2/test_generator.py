"""The generator against the official one: every field, every option, in order."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from prep.errors import PrepError
from prep.proposals.sam import upsample
from prep.proposals.sam2.generator import Sam2Generator
from prep.proposals.sam2.settings import Sam2Settings
from prep.records import Proposal

pytestmark = pytest.mark.slow
pytest.importorskip("sam2", reason="sam2 is not installed: SAM2_BUILD_CUDA=0 pip install 'pcnet-prep[sam2]'")
Official = Callable[..., list[Proposal]]
# Random weights: almost nothing is steady, and every box is nearly the whole image.
RAGGED = {
    "points_per_side": 5, "pred_iou_thresh": -100.0, "stability_score_thresh": 0.0,
    "stability_score_offset": 0.02, "box_nms_thresh": 1.0,
}  # fmt: skip
SMOOTH = {"points_per_side": 8, "pred_iou_thresh": 0.3, "stability_score_thresh": 0.5}


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """torch resizes one mask at a time in another order with one thread than with two."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def ours(model: Any, **options: Any) -> Sam2Generator:
    generator = Sam2Generator(Sam2Settings(device="cpu", **options), load=lambda _: model)
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
        {"use_m2m": True, "points_per_side": 4, "points_per_batch": 5},
        {"multimask_output": False},
        {"mask_threshold": 0.03, "stability_score_thresh": 0.2},
        {"stability_score_offset": -0.02},
        {"pred_iou_thresh": 0.5},
        {"crop_n_layers": 1, "points_per_side": 3},
    ],
    ids=str,
)
def test_ragged_masks_are_the_official_ones(
    options: dict[str, Any], threads: int, ragged: Any, photo: np.ndarray, official: Official
) -> None:
    options = RAGGED | options
    expected = official(ragged, photo, **options)
    assert expected
    generator = ours(ragged, **options)
    assert_same(generator.propose([photo])[0], expected)
    assert generator.measured >= len(expected)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"points_per_side": 5, "box_nms_thresh": 0.95, "pred_iou_thresh": 0.1},
        {"use_m2m": True},
        {"use_m2m": True, "multimask_output": False, "crop_n_layers": 1, "points_per_side": 6},
        {"multimask_output": False, "box_nms_thresh": 0.9},
        {"mask_threshold": 1.5, "stability_score_offset": 0.5},
        {"crop_n_layers": 1},
        {"crop_n_layers": 2, "crop_n_points_downscale_factor": 2, "crop_nms_thresh": 0.9},
        {"crop_n_layers": 1, "crop_overlap_ratio": 0.6, "points_per_batch": 13},
    ],
    ids=str,
)
def test_smooth_masks_are_the_official_ones(
    options: dict[str, Any], threads: int, smooth: Any, photo: np.ndarray, official: Official
) -> None:
    options = SMOOTH | options
    expected = official(smooth, photo, **options)
    assert len({proposal.bbox for proposal in expected}) > 1, "the case is meant to have different masks"
    assert_same(ours(smooth, **options).propose([photo])[0], expected)


def test_refinement_changes_the_masks(smooth: Any, photo: np.ndarray) -> None:
    once, twice = (ours(smooth, **SMOOTH, use_m2m=m2m).propose([photo])[0] for m2m in (False, True))
    assert {mask.counts for mask in once}.isdisjoint(mask.counts for mask in twice)


class Extension:
    """sam2's extension for a GPU, which labels the 8-connected regions of (n, 1, H, W), by scipy."""

    @staticmethod
    def get_connected_componnets(masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        labels, areas = torch.zeros(masks.shape, dtype=torch.int), torch.zeros(masks.shape, dtype=torch.int)
        for i, mask in enumerate(masks[:, 0].numpy()):
            found, _ = ndimage.label(mask, np.ones((3, 3)))
            counts = np.bincount(found.ravel())
            counts[0] = 0
            labels[i, 0], areas[i, 0] = torch.from_numpy(found), torch.from_numpy(counts[found])
        return labels, areas


@pytest.mark.parametrize("options", [{}, {"use_m2m": True}, {"multimask_output": False}], ids=str)
def test_small_regions_are_those_of_the_official_extension(
    options: dict[str, Any], ragged: Any, photo: np.ndarray, official: Official, monkeypatch: Any
) -> None:
    monkeypatch.setattr("sam2._C", Extension, raising=False)
    options = RAGGED | {"points_per_side": 3} | options
    without = official(ragged, photo, **options)
    options["min_mask_region_area"] = 30
    expected = official(ragged, photo, **options)
    assert [mask.counts for mask in expected] != [mask.counts for mask in without]
    assert_same(ours(ragged, **options).propose([photo])[0], expected)


def test_explicit_points(smooth: Any, photo: np.ndarray, official: Official) -> None:
    points = np.random.default_rng(3).random((11, 2))
    options = {"points_per_side": None, "pred_iou_thresh": 0.2, "stability_score_thresh": 0.4}
    expected = official(smooth, photo, **options, point_grids=[points])
    assert expected
    grid = (tuple((float(x), float(y)) for x, y in points),)
    assert_same(ours(smooth, **options, point_grids=grid).propose([photo])[0], expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 60), (50, 2), (256, 256), (300, 200)])
def test_odd_images(size: tuple[int, int], ragged: Any, official: Official) -> None:
    image = np.random.default_rng(9).integers(0, 256, (*size, 3), dtype=np.uint8)
    options = RAGGED | {"points_per_side": 3}
    assert_same(ours(ragged, **options).propose([image])[0], official(ragged, image, **options))


@pytest.mark.parametrize("multimask", [True, False])
def test_masks_near_a_threshold_are_recomputed_where_the_arithmetic_is_not_torchs(
    multimask: bool,
    threads: int,
    ragged: Any,
    photo: np.ndarray,
    official: Official,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upsample, "agreeing", lambda plan, device: None)
    upsample._geometry.cache_clear()
    options = RAGGED | {"multimask_output": multimask}
    try:
        generator = ours(ragged, **options)
        assert_same(generator.propose([photo])[0], official(ragged, photo, **options))
        assert 0 < generator.recomputed <= generator.measured == (75 if multimask else 25)
        stats = generator.pop_stats()
        assert stats["measured"] == (75 if multimask else 25)
        assert generator.measured == 0
    finally:
        upsample._geometry.cache_clear()


def test_where_nothing_survives_there_are_no_masks(ragged: Any, photo: np.ndarray) -> None:
    for options in ({"pred_iou_thresh": 100.0}, {"pred_iou_thresh": 100.0, "crop_n_layers": 1}):
        assert ours(ragged, **(RAGGED | options)).propose([photo, photo[:0]]) == [[], []]


def test_an_image_has_the_same_masks_whatever_is_beside_it(smooth: Any, photo: np.ndarray) -> None:
    images = [photo, photo[:, ::-1].copy(), photo[:50], photo]
    together = ours(smooth, **SMOOTH, threads=2).propose(images)
    alone = ours(smooth, **SMOOTH, threads=1)
    assert together == [alone.propose([image])[0] for image in images]
    assert together[0] == together[3] != together[1]


def test_fast_is_compared_with_exact(smooth: Any, photo: np.ndarray) -> None:
    fast = ours(smooth, **SMOOTH, fidelity="fast")
    fast.propose([photo])
    found = fast.report()["compared_with_exact"]
    exact = ours(smooth, **SMOOTH).propose([photo])[0]
    assert (found["images"], found["masks"]) == (1, len(exact))
    assert found["identical"] < 1.0, "bfloat16 is meant to change the embedding"
    assert fast.settings() != ours(smooth, **SMOOTH).settings()


def test_it_travels_to_a_worker_before_it_is_opened(photo: np.ndarray) -> None:
    generator = pickle.loads(pickle.dumps(Sam2Generator(Sam2Settings(model="sam2.1_hiera_t"))))
    assert generator.name == "sam2:sam2.1_hiera_t"
    with pytest.raises(PrepError, match="has not been opened"):
        generator.propose([photo])


def test_the_released_architecture(photo: np.ndarray, official: Official, released: Any) -> None:
    options = SMOOTH | {"points_per_side": 3, "pred_iou_thresh": 0.2}
    expected = official(released, photo, **options)
    assert len({mask.counts for mask in expected}) > 4
    assert_same(ours(released, **options).propose([photo])[0], expected)

"""One object is what numpy, pycocotools and supervision take, and each of them finds the same masks in it."""

from __future__ import annotations

import json
import sys
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import supervision
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from prep.errors import PrepError
from prep.masks.objects import Masks


def masks_of(pixels: np.ndarray, scored: bool = True, image_id: int | None = 7) -> Masks:
    """The masks N x H x W, as pycocotools encodes them."""
    rows = []
    for number, mask in enumerate(pixels):
        rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        rows.append(
            {
                "counts": rle["counts"].decode(),
                "area": int(coco.area(rle)),
                "bbox": coco.toBbox(rle).tolist(),
                "predicted_iou": 0.5 + number / 100 if scored else None,
                "stability_score": 0.9 if scored else None,
            }
        )
    return Masks("train/1.jpg", pixels.shape[1], pixels.shape[2], rows, image_id)


PIXELS = np.zeros((3, 20, 30), bool)
PIXELS[0, 3:9, 4:20] = PIXELS[1, 10:, ::3] = PIXELS[2, 0, 0] = True


@given(arrays.arrays(bool, st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(1, 9))))
def test_what_goes_in_comes_out(pixels: np.ndarray) -> None:
    masks = masks_of(pixels)
    assert np.array_equal(np.asarray(masks), pixels)
    assert np.asarray(masks).dtype == bool
    assert len(masks) == len(list(masks)) == len(pixels)
    assert masks.areas.tolist() == pixels.sum((1, 2)).tolist()
    assert all(np.array_equal(masks.array(n), pixels[n]) for n in range(len(pixels)))


def test_pycocotools_takes_it() -> None:
    masks = masks_of(PIXELS)
    assert np.array_equal(coco.decode(list(masks)), PIXELS.transpose(1, 2, 0))
    assert np.array_equal(coco.decode(masks[1]), PIXELS[1])
    assert np.array_equal(coco.decode(masks[-1]), PIXELS[2])
    assert coco.area(masks[:2]).tolist() == masks.areas[:2].tolist()
    assert np.allclose(coco.toBbox(list(masks)), masks.boxes)
    assert json.loads(json.dumps(masks[0])) == masks[0]


def test_coco_results_are_loaded_by_pycocotools(tmp_path: Any) -> None:
    target = COCO()
    target.dataset = {"images": [{"id": 7}], "annotations": [], "categories": [{"id": 1}]}
    target.createIndex()
    results = tmp_path / "results.json"
    results.write_text(json.dumps(masks_of(PIXELS).to_coco()))
    loaded = target.loadRes(str(results))
    for number, one in enumerate(loaded.loadAnns(loaded.getAnnIds(imgIds=[7]))):
        assert np.array_equal(coco.decode(one["segmentation"]), PIXELS[number])
        assert one["score"] == 0.5 + number / 100
    assert [one["score"] for one in masks_of(PIXELS, scored=False).to_coco()] == [1.0] * 3
    assert masks_of(PIXELS).to_coco(image_id=9, category_id=4)[0]["image_id"] == 9
    with pytest.raises(PrepError, match="no image_id"):
        masks_of(PIXELS, image_id=None).to_coco()


@pytest.mark.parametrize("scored", [True, False])
def test_supervision_takes_it(scored: bool) -> None:
    found = masks_of(PIXELS, scored).to_supervision()
    assert np.array_equal(found.mask, PIXELS)
    assert found.area.tolist() == PIXELS.sum((1, 2)).tolist()
    assert np.array_equal(supervision.mask_to_xyxy(PIXELS)[:, :2], found.xyxy[:, :2])
    assert found.xyxy[0].tolist() == [4, 3, 20, 9]
    assert (found.confidence is None) is not scored
    assert len(found[found.area > 1]) == 2
    found.class_id = np.arange(3)  # of the colours
    image = np.zeros((20, 30, 3), np.uint8)
    drawn = supervision.MaskAnnotator(opacity=1.0).annotate(image, found)
    assert np.array_equal(drawn.any(2), PIXELS.any(0))


@pytest.mark.parametrize("shape", [(3, 20, 30), (2, 1500, 300)])
def test_a_notebook_shows_every_mask_in_a_colour_of_its_own(shape: tuple[int, int, int]) -> None:
    pixels = np.zeros(shape, bool)
    half = shape[2] // 2
    pixels[0, : shape[1] // 2, :half] = pixels[1, shape[1] // 2 :, half:] = True
    picture = np.asarray(Image.open(BytesIO(masks_of(pixels)._repr_png_())))
    assert 300 <= max(picture.shape[:2]) <= 640
    assert abs(picture.shape[0] / picture.shape[1] - shape[1] / shape[2]) < 0.15 * shape[1] / shape[2]
    upper, lower = picture[: picture.shape[0] // 2 - 5], picture[picture.shape[0] // 2 + 5 :]
    middle = picture.shape[1] // 2
    assert upper[:, : middle - 5].any(2).all()
    assert not upper[:, middle + 5 :].any()
    assert lower[:, middle + 5 :].any(2).all()
    assert not lower[:, : middle - 5].any()
    assert upper[5, 5].argmax() != lower[-5, -5].argmax()  # red, then blue


def test_an_image_without_masks() -> None:
    masks = masks_of(np.zeros((0, 20, 30), bool))
    assert np.asarray(masks).shape == (0, 20, 30)
    assert masks.boxes.shape == (0, 4)
    assert masks.to_coco() == list(masks) == []
    assert len(masks.to_supervision()) == 0


def test_damage_and_a_missing_package_are_errors_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = masks_of(PIXELS)
    with pytest.raises(IndexError):
        masks[3]
    for counts in ("", "\u00e9", "0" * 50, masks[0]["counts"][:-1]):
        with pytest.raises(PrepError, match="mask"):
            Masks("1.jpg", 20, 30, [{"counts": counts}]).array(0)
    with pytest.raises(PrepError, match=r"1\.jpg has no masks: not an image"):
        Masks.of_row({"image": "1.jpg", "status": "error", "error": "not an image"})
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(PrepError, match="not installed") as error:
        masks.to_supervision()
    assert error.value.remedy == "Run: python -m pip install supervision"

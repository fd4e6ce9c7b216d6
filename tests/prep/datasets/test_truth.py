"""Truth masks against pycocotools' own, brute force on small ones, and reasons where a mask cannot be had."""

from __future__ import annotations

import json
import os
import pickle
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from pycocotools import mask as coco

from prep.datasets.catalogue import open_dataset, open_jsonl
from prep.datasets.segmentation import BadSegmentation, decode, decode_once, runs_of
from prep.datasets.truth import Truth
from prep.demo.dataset import write
from prep.records import Expression
from tests.limits import limited

BOX = np.zeros((6, 5), dtype=bool)
BOX[1:4, 2:5] = True


def _rle(mask: np.ndarray, compressed: bool = True) -> dict[str, Any]:
    if compressed:
        rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"size": list(rle["size"]), "counts": rle["counts"].decode()}
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=24)), st.booleans())
def test_an_rle_decodes_to_the_mask_it_was_made_of(mask: np.ndarray, compressed: bool) -> None:
    if mask.any():
        assert (decode(_rle(mask, compressed), *mask.shape) == mask).all()
        assert (decode([_rle(mask, compressed)], *mask.shape) == mask).all()
    else:
        with pytest.raises(BadSegmentation, match="no pixel"):
            decode(_rle(mask, compressed), *mask.shape)


@given(st.lists(arrays(bool, (5, 7)), min_size=2, max_size=4), st.booleans())
def test_several_rles_are_united(masks: list[np.ndarray], compressed: bool) -> None:
    union = np.logical_or.reduce(masks)
    if union.any():
        np.testing.assert_array_equal(decode([_rle(mask, compressed) for mask in masks], 5, 7), union)


def test_runs_of_no_length_and_many_rles_are_united() -> None:
    split = {"size": [5, 6], "counts": [3, 0, 0, 2, 0, 0, 0, 4, 21]}
    assert decode([split, split], 5, 6).T.ravel().nonzero()[0].tolist() == list(range(3, 9))
    whole = {"size": [16_000, 16_000], "counts": [0, 16_000 * 16_000]}
    began = time.process_time()
    assert runs_of([whole] * 1000, 16_000, 16_000).tolist() == [0, 16_000 * 16_000]
    assert time.process_time() - began < 2  # one decoded mask takes a quarter of a second


def test_polygons_are_filled_as_pycocotools_fills_them_and_united() -> None:
    parts = [[0.0, 0.0, 3.5, 0.0, 3.5, 2.2, 0.0, 2.2], [2, 1, 9, 1, 5, 7]]
    wanted = coco.decode(coco.merge(coco.frPyObjects([[float(v) for v in p] for p in parts], 8, 10))).astype(
        bool
    )
    assert (decode(parts, 8, 10) == wanted).all()


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([], "empty"),
        ([[1, 2, 3, 4]], "polygon of 4 numbers"),
        ([[1, 2, 3, 4, 5, 6, 7]], "polygon of 7 numbers"),
        ([[1, 2, 3, 4, 5, float("nan")]], "NaN among its numbers"),
        ([[1, 2, 3, 4, 5, float("-inf")]], "far outside"),
        ([[1, 2, 3, 4, 5, 10**400]], "far outside"),
        ([[1e9, 2, 3, 4, 5, 6]], "far outside"),
        ([["1", 2, 3, 4, 5, 6]], "a str among its numbers"),
        ([[0.1, 0.1, 0.9, 0.1, 0.9, 0.9]], "fractions"),
        ([1, 2, 3, 4], "polygon of 4 numbers"),
        ([[1, 1, 4, 1, 4, 4], [1, 2, 3, 4]], "polygon of 4 numbers"),
        ([[]], "polygon of 0 numbers"),
        ([[1, 1, 3, 3, 4, 4]], "no pixel"),
        ([{"size": [6, 5], "counts": [10, 10, 10]}, [1, 1, 4, 1, 4, 4]], "a polygon that is a dict"),
        ([[1, 1], [4, 1], [4, 4]], "points"),
        ([[1, 1], [1, 1, 4, 1, 4, 4]], "polygon of 2 numbers"),
        ([[[1, 1], [4, 1], [4, 4]]], "points"),
        ([[1e5, 1e5, -1e5, -1e5] * 20], "an outline of more than"),
        ([[1, 1, 4, 1, 4, 4]] + [[1e5, 1e5, -1e5, -1e5, 0, 0]] * 3, "an outline of more than"),
        ("text", "a polygon that is a str"),
        (None, "a polygon that is a NoneType"),
        ([[90, 90, 95, 90, 95, 95]], "no pixel"),
        ({"size": [5, 6], "counts": [30]}, "size"),
        ({"size": [6, 5], "counts": [10, 10]}, "add up to 20"),
        ({"size": [6, 5], "counts": [10**30, 10, 10]}, "add up to 10{28}20"),
        ({"size": [6, 5], "counts": [float("nan"), 10, 20]}, "neither a string nor a list of integers"),
        ({"size": [6, 5], "counts": ["10", "20"]}, "neither a string nor a list of integers"),
        ({"size": [6, 5], "counts": {"size": [6, 5], "counts": [30]}}, "without counts"),
        ({"size": [6, 5], "counts": [40, -10]}, "add up"),
        ({"size": [6, 5], "counts": "0"}, "add up to 0"),
        ({"size": [6, 5], "counts": "\x7f\x7f"}, "damaged"),
        ({"size": [6, 5], "counts": "o" * 20}, "damaged"),
        ({"size": [6, 5], "counts": "o"}, "damaged"),
        ({"size": [6, 5]}, "without counts"),
        ({"size": "65", "counts": [30]}, "size"),
    ],
)
def test_what_would_mislead_or_crash_is_refused_in_words(segmentation: Any, reason: str) -> None:
    with pytest.raises(BadSegmentation, match=reason):
        decode(segmentation, 6, 5)


def test_absurd_image_sizes_are_refused() -> None:
    for size in ((0, 5), (-6, -5), (1 << 30, 1 << 30)):
        with pytest.raises(BadSegmentation, match="pixels"):
            decode([[0, 0, 4, 0, 4, 4]], *size)


@settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "300")))
@given(
    st.text(st.characters(min_codepoint=32, max_codepoint=130), max_size=20)
    | st.lists(st.integers(-5, 40), max_size=8)
    | st.lists(st.lists(st.floats() | st.integers(), max_size=10), max_size=3)
)
@limited()
def test_nothing_but_a_reason_escapes_from_odd_segmentations(value: Any) -> None:
    for segmentation in (value, {"size": [6, 5], "counts": value}, [{"size": [6, 5], "counts": value}]):
        with suppress(BadSegmentation):
            assert decode(segmentation, 6, 5).shape == (6, 5)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three objects of a 5 x 6 image, referred to one at a time, together, not at all, and wrongly."""
    low = np.zeros_like(BOX)
    low[5, 0:2] = True
    low[2, 3] = True  # a pixel of both
    annotations = [
        {"id": 1, "image_id": 1, "segmentation": _rle(BOX)},
        {"id": 2, "image_id": 1, "segmentation": _rle(low, compressed=False)},
        {"id": 3, "image_id": 1, "segmentation": []},
        {"id": 4, "image_id": 1},
    ]
    refs = [
        {
            "ref_id": at,
            "image_id": 1,
            "ann_id": targets,
            "split": "val",
            "sentences": [{"sent": f"n{at}", "sent_id": at}],
        }
        for at, targets in enumerate(([1], [1, 2], [-1], [3], [4]))
    ]
    folder = tmp_path / "refer/grefcoco"
    folder.mkdir(parents=True)
    images = [{"id": 1, "file_name": "a.png", "height": 6, "width": 5}]
    (folder / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    (folder / "grefs(unc).json").write_text(json.dumps(refs))
    return tmp_path


def test_targets_are_united_and_no_target_is_an_empty_mask(tree: Path) -> None:
    dataset = open_dataset(tree, "grefcoco")
    truth, rows = Truth(dataset), list(dataset.expressions())
    one, two, none, empty, without = (truth.mask(row) for row in rows)
    assert one is not None
    assert (one == BOX).all()
    assert two is not None
    assert two.sum() == BOX.sum() + 2
    assert (two & BOX).sum() == BOX.sum()
    assert none is not None
    assert none.shape == BOX.shape
    assert not none.any()
    assert empty is without is None
    assert truth.problems == {
        rows[3].row_id: "annotation 3: the segmentation is empty",
        rows[4].row_id: "annotation 4 has no segmentation",
    }


def test_a_size_that_is_not_the_images_is_a_reason(tree: Path) -> None:
    (tree / "train2014").mkdir()
    Image.new("L", (6, 5)).save(tree / "train2014/a.png")
    dataset = open_dataset(tree, "grefcoco")
    truth, row = Truth(dataset), next(dataset.expressions())
    assert truth.mask(row) is None
    assert "says 5 x 6 pixels, the image file has 6 x 5" in truth.problems[row.row_id]
    Image.new("L", (5, 6)).save(tree / "train2014/a.png")
    assert truth.mask(row) is not None
    assert truth.mask(replace(row, problem="bad")) is None
    assert truth.mask(replace(row, ref_id=99)) is None
    assert truth.mask(replace(row, ref_id=None)) is None


def test_lines_bring_their_masks_in_every_form(tmp_path: Path) -> None:
    Image.new("RGB", (5, 6)).save(tmp_path / "a.png")
    Image.fromarray(BOX).save(tmp_path / "mask1.png")
    Image.fromarray(BOX.astype(np.uint8) * 7).save(tmp_path / "mask8.png")
    Image.fromarray(np.dstack([BOX * 255] * 3 + [np.full(BOX.shape, 255)]).astype(np.uint8)).save(
        tmp_path / "rgba.png"
    )
    square = [1, 1, 4, 1, 4, 4, 1, 4]
    good = [_rle(BOX), _rle(BOX, False), "mask1.png", "mask8.png", "rgba.png", [_rle(BOX)]]
    for outside in (tmp_path.parent / "outside.png", tmp_path / "sub" / "inside.png"):
        outside.parent.mkdir(exist_ok=True)
        Image.fromarray(BOX).save(outside)  # a mask like the others, but for its place
    climbing = ["../outside.png", "sub/../../outside.png", str(tmp_path.parent / "outside.png")]
    good.append("sub/inside.png")
    bad = ["none.png", *climbing, {"size": [6, 5]}, 5, [[1, 2]], None]
    lines = [
        {"sent": f"n{at}", "image": "a.png", "mask": mask}
        for at, mask in enumerate([*good, square, [square], [], *bad])
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    dataset = open_jsonl(path)
    truth, rows = Truth(dataset), list(dataset.expressions())
    masks = [truth.mask(row) for row in rows]
    assert all(mask is not None and (mask == BOX).all() for mask in masks[: len(good)])
    drawn = decode([square], 6, 5)
    assert all(mask is not None and (mask == drawn).all() for mask in masks[len(good) : len(good) + 2])
    assert masks[len(good) + 2] is not None
    assert not masks[len(good) + 2].any()
    assert masks[len(good) + 3 :] == [None] * len(bad)
    assert len(truth.problems) == len(bad)
    assert sum("is not a path below the image root" in why for why in truth.problems.values()) == 3


def test_masks_of_another_size_than_their_image_are_reasons(tmp_path: Path) -> None:
    Image.new("RGB", (5, 6)).save(tmp_path / "a.png")
    large = BOX.repeat(2, axis=0).repeat(2, axis=1)
    Image.fromarray(large).save(tmp_path / "large.png")
    Image.fromarray(BOX.T).save(tmp_path / "turned.png")
    Image.fromarray(np.zeros_like(BOX)).save(tmp_path / "black.png")
    masks = ["large.png", "turned.png", "black.png", _rle(large), [_rle(large, False)], _rle(BOX.T)]
    path = tmp_path / "mine.jsonl"
    path.write_text(
        "\n".join(json.dumps({"sent": f"n{at}", "image": "a.png", "mask": m}) for at, m in enumerate(masks))
    )
    dataset = open_jsonl(path)
    truth, rows = Truth(dataset), list(dataset.expressions())
    assert [truth.mask(row) for row in rows] == [None] * len(masks)
    reasons = [truth.problems[row.row_id] for row in rows]
    assert "large.png: it has 10 x 12 pixels, its image 5 x 6" in reasons[0]
    assert "turned.png: it has 6 x 5" in reasons[1]
    assert "no pixel belongs to an object" in reasons[2]
    assert all("an RLE of size" in reason for reason in reasons[3:])


@pytest.mark.parametrize("size", [{"width": 5}, {"height": 6}, {}, {"height": 0, "width": None}])
def test_a_missing_size_is_that_of_the_image(tree: Path, size: dict[str, Any]) -> None:
    file = tree / "refer/grefcoco/instances.json"
    instances = json.loads(file.read_text())
    instances["images"] = [{"id": 1, "file_name": "a.png", **size}]
    file.write_text(json.dumps(instances))
    dataset = open_dataset(tree, "grefcoco")
    row = next(dataset.expressions())
    truth = Truth(dataset)
    assert truth.mask(row) is None
    assert "does not say the size" in truth.problems[row.row_id]
    (tree / "train2014").mkdir()
    Image.new("L", (5, 6)).save(tree / "train2014/a.png")
    mask = Truth(dataset).mask(row)
    assert mask is not None
    assert (mask == BOX).all()


def test_synthetic_masks_are_the_pixels_that_were_painted(tmp_path: Path) -> None:
    dataset = open_dataset(write(tmp_path, images=12, seed=3), "refcoco")
    truth = Truth(dataset)
    for row in dataset.expressions():
        mask = truth.mask(row)
        assert mask is not None
        pixels = np.asarray(Image.open(dataset.root / str(row.image))).astype(float)
        # One colour inside: what is left is the picture's noise and JPEG's at the edge.
        assert np.median(np.abs(pixels[mask] - np.median(pixels[mask], axis=0))) < 8
    assert truth.problems == {}


def test_real_masks_equal_those_of_the_official_reader(shared: Path) -> None:
    data = shared / "data/coco"
    instances = json.loads((data / "annotations/instances_train2014.json").read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in instances["images"]}
    by_id = {annotation["id"]: annotation for annotation in instances["annotations"]}

    def official(ann_id: int) -> np.ndarray:
        found, size = by_id[ann_id]["segmentation"], sizes[by_id[ann_id]["image_id"]]
        rle = (
            coco.merge(coco.frPyObjects(found, *size))
            if isinstance(found, list)
            else coco.frPyObjects(found, *size)
        )
        return coco.decode(rle).astype(bool)

    for ann_id, annotation in by_id.items():
        assert (decode(annotation["segmentation"], *sizes[annotation["image_id"]]) == official(ann_id)).all()
    refs = {ref["ref_id"]: ref for ref in pickle.loads((data / "refer/refcoco/refs(unc).p").read_bytes())}
    dataset = open_dataset(data, "refcoco")
    truth = Truth(dataset)
    rows: list[Expression] = list(dataset.expressions())
    for row in rows:
        assert (truth.mask(row) == official(refs[row.ref_id]["ann_id"])).all()
    assert truth.problems == {}


@given(st.lists(arrays(bool, (5, 7)), min_size=1, max_size=4), st.booleans())
def test_the_released_target_is_what_exactly_one_part_covers(
    masks: list[np.ndarray], compressed: bool
) -> None:
    if np.logical_or.reduce(masks).any():
        parts = [_rle(mask, compressed) for mask in masks]
        np.testing.assert_array_equal(decode_once(parts, 5, 7), np.sum(masks, axis=0) == 1)


def test_the_released_target_of_polygons_is_that_of_the_official_sum() -> None:
    polygons = [[1, 1, 9, 1, 9, 6, 1, 6], [5, 2, 12.5, 2, 12.5, 9, 5, 9], [0.2, 0.1, 0.9, 0.1, 0.9, 0.8]]
    parts = coco.decode(coco.frPyObjects(polygons, 10, 14)).sum(axis=2)
    assert (parts > 1).any()
    np.testing.assert_array_equal(decode_once(polygons, 10, 14), parts == 1)
    np.testing.assert_array_equal(decode_once(polygons[0], 10, 14), decode(polygons[0], 10, 14))
    assert not decode_once([polygons[0]] * 2, 10, 14).any()
    with pytest.raises(BadSegmentation, match="of 4 numbers"):
        decode_once([polygons[0], [1, 1, 2, 2]], 10, 14)

"""Importing masks made elsewhere: the same masks in, or the reason why not."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pycocotools import mask as coco

from prep.cache.schema import PROPOSALS
from prep.errors import PrepError
from prep.proposals.import_masks import ImportStage
from prep.proposals.select import Selection
from prep.proposals.unit_metadata import unit_metadata_of
from prep.records import ImageRef

HEIGHT, WIDTH = 20, 30
Mask = npt.NDArray[np.bool_]


def random_masks(count: int = 3, shape: tuple[int, int] = (HEIGHT, WIDTH)) -> list[Mask]:
    rng = np.random.default_rng(count)
    return [rng.random(shape) < share for share in np.linspace(0.2, 0.8, count)]


def rle(mask: Mask) -> dict[str, Any]:
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def save(folder: Path, name: str, image_id: int | None = None, value: int = 0) -> ImageRef:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), value, np.uint8)).save(path)
    return ImageRef(name, image_id, str(path))


def rows(
    layout: str, source: Path, unit: list[ImageRef], selection: Selection | None = None
) -> list[dict[str, Any]]:
    stage = ImportStage(layout, source, selection)
    stage.open()
    table = stage.process(stage.load(unit))
    assert table.schema == PROPOSALS
    table.validate(full=True)
    return table.to_pylist()


def decoded(row: dict[str, Any]) -> list[Mask]:
    size = [row["height"], row["width"]]
    return [coco.decode({"size": size, "counts": m["counts"].encode()}).astype(bool) for m in row["masks"]]


def test_coco_results(tmp_path: Path) -> None:
    masks = random_masks()
    entries: list[dict[str, Any]] = [
        {"image_id": 7, "category_id": 1, "segmentation": rle(masks[0]), "score": 0.5},
        {"image_id": 9, "category_id": 1, "segmentation": rle(masks[1]), "score": 0.25},
        {"image_id": 7, "category_id": 3, "segmentation": rle(masks[2])},
    ]
    (tmp_path / "results.json").write_text(json.dumps(entries))
    unit = [save(tmp_path, "a.png", 7), save(tmp_path, "b.png", 8), save(tmp_path, "c.png", None)]
    first, second, third = rows("coco", tmp_path / "results.json", unit)
    np.testing.assert_array_equal(decoded(first), [masks[0], masks[2]])
    assert [m["predicted_iou"] for m in first["masks"]] == [0.5, None]
    assert [m["area"] for m in first["masks"]] == [masks[0].sum(), masks[2].sum()]
    assert first["generator"] == "import:coco"
    assert len(first["image_sha256"]) == 64
    assert (second["status"], second["masks"]) == ("empty", [])
    assert third["status"] == "error"
    assert "no id" in third["error"]


def test_coco_polygons_and_uncompressed_runs(tmp_path: Path) -> None:
    polygon = [[2, 2, 12, 2, 12, 9, 2, 9], [20, 10, 25, 10, 25, 15]]
    runs = [5, 10, HEIGHT * WIDTH - 15]
    entries = [
        {"image_id": 1, "segmentation": polygon},
        {"image_id": 1, "segmentation": {"size": [HEIGHT, WIDTH], "counts": runs}},
    ]
    (tmp_path / "r.json").write_text(json.dumps(entries))
    (row,) = rows("coco", tmp_path / "r.json", [save(tmp_path, "a.png", 1)])
    wanted = coco.decode(coco.merge(coco.frPyObjects(polygon, HEIGHT, WIDTH))).astype(bool)
    flat = np.zeros(HEIGHT * WIDTH, bool)
    flat[5:15] = True
    np.testing.assert_array_equal(decoded(row), [wanted, flat.reshape(WIDTH, HEIGHT).T])


BAD_SEGMENTATIONS: list[Any] = [
    None,
    [],
    [[1, 2, 3]],
    "abc",
    {"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]},
    {"size": [HEIGHT, WIDTH], "counts": [1, 2, 3]},
    {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH + 1, -1]},
    {"size": [HEIGHT, WIDTH], "counts": "\u00e9\u00e9"},
    {"size": [HEIGHT, WIDTH], "counts": "oooo"},
    {"size": [HEIGHT, WIDTH], "counts": None},
    {"size": [HEIGHT, WIDTH], "counts": [2**70]},
]


@pytest.mark.parametrize("segmentation", BAD_SEGMENTATIONS, ids=range(len(BAD_SEGMENTATIONS)))
def test_a_bad_segmentation_is_an_error_row(tmp_path: Path, segmentation: Any) -> None:
    (tmp_path / "r.json").write_text(json.dumps([{"image_id": 1, "segmentation": segmentation}]))
    (row,) = rows("coco", tmp_path / "r.json", [save(tmp_path, "a.png", 1)])
    assert row["status"] == "error"
    assert row["error"]
    assert row["masks"] == []


@pytest.mark.parametrize(
    "text", ["", "[", "{}", "3", '[{"image_id": "x"}]', "[1]", "version https://git-lfs"]
)
def test_a_bad_results_file_is_a_message(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(PrepError, match=r"r\.json"):
        rows("coco", tmp_path / "r.json", [])


def polygon(x: int, y: int, side: int) -> list[list[int]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def results(file: Path, *entries: Any, images: Any = None) -> Path:
    listed = [{"image_id": image, "segmentation": segmentation} for image, segmentation in entries]
    file.write_text(json.dumps(listed if images is None else {"images": images, "annotations": listed}))
    return file


def matched(layout: str, source: Path, unit: list[ImageRef]) -> tuple[str, list[dict[str, Any]]]:
    stage = ImportStage(layout, source)
    said = stage.match(unit)
    stage.open()
    return said, stage.process(stage.load(unit)).to_pylist()


@pytest.mark.parametrize(
    "bad",
    [
        [],
        None,
        [[-164.1, -221.8, 2e8, 3.5e8, 226.0, 236.6]],
        [[float("nan"), 1, 5, 1, 5, 5]],
        [[1e5, 1e5, -1e5, -1e5, 1, 1] * 4],
        [[1, 2, 3, 4]],
        {"size": [HEIGHT * 2, WIDTH], "counts": [HEIGHT * WIDTH * 2]},
        [[90, 90, 95, 90, 95, 95]],
    ],
    ids=range(8),
)
def test_a_bad_mask_costs_itself(tmp_path: Path, bad: Any) -> None:
    file = results(tmp_path / "r.json", (1, polygon(2, 2, 5)), (1, bad), (1, polygon(10, 4, 3)))
    stage = ImportStage("coco", file)
    stage.open()
    table = stage.process(stage.load([save(tmp_path, "a.png", 1)]))
    (row,) = table.to_pylist()
    assert [mask["area"] for mask in row["masks"]] == [25, 9]
    assert row["status"] == "ok"
    (reason,) = unit_metadata_of(table)[1]["masks_left_out"]
    assert reason.startswith("a.png: ")


def test_ids_are_read_as_in_annotation_files(tmp_path: Path) -> None:
    file = results(
        tmp_path / "r.json", ("7", polygon(2, 2, 5)), (7.0, polygon(2, 2, 4)), ("x", []), (None, [])
    )
    said, (row,) = matched("coco", file, [save(tmp_path, "a.png", 7)])
    assert [mask["area"] for mask in row["masks"]] == [25, 16]
    assert said == "2 of 4 entries belong to no image of the run"


def test_a_coco_file_with_images_is_joined_by_file_name(tmp_path: Path) -> None:
    images = [
        {"id": 1, "file_name": "images\\a.png"},
        {"id": "2", "file_name": "x/b.png", "width": WIDTH, "height": HEIGHT},
        {"id": 3, "file_name": "y/b.png"},
        {"id": 4, "file_name": "small.png", "width": WIDTH // 2, "height": HEIGHT // 2},
        {"id": 5, "file_name": "other.png"},
    ]
    entries = [(number, polygon(0, 0, number)) for number in (1, 2, 3, 4, 5, 7)]
    file = results(tmp_path / "r.json", *entries, images=images)
    names = ["a.png", "data/x/b.png", "y/b.png", "z/b.png", "small.png", "none.png"]
    unit = [save(tmp_path, name, number) for number, name in zip((7, 1, 2, 3, 5, 4), names, strict=True)]
    said, found = matched("coco", file, unit)
    assert [[mask["area"] for mask in row["masks"]] for row in found] == [[1], [4], [9], [], [], []]
    assert [row["status"] for row in found] == ["ok", "ok", "ok", "error", "error", "error"]
    assert "not among the images" in found[3]["error"]
    assert f"says {WIDTH // 2} x {HEIGHT // 2} pixels, not {WIDTH} x {HEIGHT}" in found[4]["error"]
    assert said == "2 of 6 entries belong to no image of the run"


def test_masks_of_other_images_end_the_run(tmp_path: Path) -> None:
    unit = [save(tmp_path, "a.png", 7), save(tmp_path, "b.png", None)]
    square = polygon(2, 2, 5)
    for images, number in ((None, 139), ([{"id": 7, "file_name": "c.png"}], 7)):
        file = results(tmp_path / "r.json", (number, square), images=images)
        with pytest.raises(PrepError, match=r"None of the 1 entries of .*belongs to one of the 2 images"):
            ImportStage("coco", file).match(unit)
    (tmp_path / "sa").mkdir()
    (tmp_path / "sa/c.json").write_text("[]")
    with pytest.raises(PrepError, match="None of the 1 files"):
        ImportStage("sa1b", tmp_path / "sa").match(unit)


def test_masks_that_may_be_those_of_two_images_are_those_of_none(tmp_path: Path) -> None:
    (tmp_path / "sa").mkdir()
    for name in ("a.json", "b.json", "c.JSON"):
        (tmp_path / "sa" / name).write_text(json.dumps([{"segmentation": polygon(1, 1, 3)}]))
    unit = [save(tmp_path, name) for name in ("a.png", "a.jpg", "b.v1.png", "b.png", "c.png")]
    said, (png, jpg, dotted, plain, upper) = matched("sa1b", tmp_path / "sa", unit)
    assert "a.png and a.jpg" in png["error"]
    assert png["error"] == jpg["error"]
    assert "no b.v1.json" in dotted["error"]
    assert plain["status"] == upper["status"] == "ok"
    assert said == ""


def test_pipes_and_devices_are_no_masks(tmp_path: Path) -> None:
    (tmp_path / "sa").mkdir()
    unit = [save(tmp_path, "a.png", 1), save(tmp_path, "b.png", 2)]
    for layout, suffix in (("sa1b", ".json"), ("official", ".npy")):
        os.mkfifo(tmp_path / f"sa/a{suffix}")
        (tmp_path / f"sa/b{suffix}").symlink_to("/dev/zero")
        assert ["not a plain file" in row["error"] for row in rows(layout, tmp_path / "sa", unit)] == [
            True,
            True,
        ]


def test_sa1b(tmp_path: Path) -> None:
    masks = random_masks(2)
    annotations = [
        {
            "segmentation": rle(masks[0]),
            "area": 1,
            "bbox": [1.0, 2.0, 3.5, 4.0],
            "predicted_iou": 0.9,
            "stability_score": 0.95,
            "point_coords": [[4.5, 6.0]],
            "crop_box": [0.0, 0.0, 30.0, 20.0],
        },
        {"segmentation": rle(masks[1])},
    ]
    source = tmp_path / "sa"
    source.mkdir()
    (source / "a.json").write_text(json.dumps({"image": {"file_name": "a.jpg"}, "annotations": annotations}))
    (source / "b.json").write_text(json.dumps(annotations[1:]))
    (source / "c.json").write_text('{"annotations": [')
    unit = [save(tmp_path, f"train/{name}.png") for name in "abcd"]
    first, second, torn, missing = rows("sa1b", source, unit)
    np.testing.assert_array_equal(decoded(first), masks)
    stored = first["masks"][0]
    assert stored["bbox"] == list(coco.toBbox(rle(masks[0])))  # counted, not believed
    assert (stored["predicted_iou"], stored["stability_score"]) == (0.9, 0.95)
    assert (stored["point"], stored["crop_box"]) == ([4.5, 6.0], [0.0, 0.0, 30.0, 20.0])
    assert stored["area"] == masks[0].sum()
    plain = first["masks"][1]
    assert (plain["predicted_iou"], plain["point"], plain["crop_box"]) == (None, None, None)
    assert plain["bbox"] == list(coco.toBbox(rle(masks[1])))
    assert second["masks"] == [plain]
    assert "JSON" in torn["error"]
    assert "no d.json" in missing["error"]


def test_a_files_own_folder_goes_before_its_name(tmp_path: Path) -> None:
    masks = random_masks(2)
    for place, mask in zip(("x", "y"), masks, strict=True):
        folder = tmp_path / "sa" / place
        folder.mkdir(parents=True)
        (folder / "1.json").write_text(json.dumps([{"segmentation": rle(mask)}]))
    unit = [save(tmp_path / "img", f"{place}/1.png") for place in ("x", "y", "z")]
    first, second, third = rows("sa1b", tmp_path / "sa", unit)
    np.testing.assert_array_equal(decoded(first) + decoded(second), masks)
    assert "2 files" in third["error"]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "float32", "float64", "int64"])
def test_official_arrays(tmp_path: Path, dtype: str) -> None:
    masks = random_masks()
    folder = tmp_path / "SAM_Mask" / "SAM_out"
    folder.mkdir(parents=True)
    padded = np.zeros((40, HEIGHT, WIDTH), dtype)
    padded[:3] = masks
    np.save(folder / "COCO_train2014_000000000001.npy", padded)
    ref = save(tmp_path, "train2014/COCO_train2014_000000000001.png", 1)
    for source in (tmp_path, folder):
        (row,) = rows("official", source, [ref])
        np.testing.assert_array_equal(decoded(row), masks)


def test_official_masks_of_another_size_are_resized(tmp_path: Path) -> None:
    small = random_masks(2, (10, 10))
    np.save(tmp_path / "a.npy", np.array(small, np.uint8))
    (row,) = rows("official", tmp_path, [save(tmp_path, "a.png")])
    wanted = [m.repeat(2, axis=0).repeat(3, axis=1) for m in small]
    np.testing.assert_array_equal(decoded(row), wanted)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ((HEIGHT, WIDTH, 2), "height, width, masks"),
        ((HEIGHT, WIDTH, HEIGHT), "height, width, masks"),
        ((HEIGHT, WIDTH, WIDTH), "height, width, masks"),
        ((HEIGHT * 2, WIDTH * 2, 5), "height, width, masks"),
        ((3, WIDTH, HEIGHT), "masks, width, height"),
        ((HEIGHT, WIDTH), "not numbers"),
        ((1, HEIGHT, WIDTH, 1), "not numbers"),
        ((20_000, 1, 1), "over the limit"),
    ],
)
def test_official_arrays_with_other_axes_are_refused(tmp_path: Path, shape: Any, reason: str) -> None:
    np.save(tmp_path / "a.npy", np.ones(shape, np.uint8))
    (row,) = rows("official", tmp_path, [save(tmp_path, "a.png")])
    assert reason in row["error"]


def test_official_arrays_as_tall_as_their_count_are_read(tmp_path: Path) -> None:
    masks = np.array(random_masks(HEIGHT))
    np.save(tmp_path / "a.npy", masks)
    (row,) = rows("official", tmp_path, [save(tmp_path, "a.png")])
    np.testing.assert_array_equal(decoded(row), masks)
    np.save(tmp_path / "b.npy", np.where(masks, np.nan, 0))
    assert "no numbers" in rows("official", tmp_path, [save(tmp_path, "b.png")])[0]["error"]


def test_official_arrays_that_are_none(tmp_path: Path) -> None:
    np.save(tmp_path / "object.npy", np.array([{"a": 1}], object), allow_pickle=True)
    np.save(tmp_path / "flat.npy", np.zeros((4, 5)))
    np.save(tmp_path / "zero.npy", np.zeros((40, HEIGHT, WIDTH), np.uint8))
    (tmp_path / "torn.npy").write_bytes((tmp_path / "zero.npy").read_bytes()[:500])
    (tmp_path / "text.npy").write_text("<html>")
    names = ["object", "flat", "zero", "torn", "text"]
    found = rows("official", tmp_path, [save(tmp_path, f"{name}.png") for name in names])
    assert [row["status"] for row in found] == ["error", "error", "empty", "error", "error"]


def test_bad_images_are_rows_too(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps([{"image_id": 1, "segmentation": rle(random_masks(1)[0])}]))
    (tmp_path / "html.png").write_text("<html>")
    unit = [ImageRef(name, 1, str(tmp_path / name)) for name in ("html.png", "none.png")]
    first, second = rows("coco", tmp_path / "r.json", unit)
    assert "HTML" in first["error"]
    assert "not found" in second["error"]


def test_selection_and_keys(tmp_path: Path) -> None:
    masks = random_masks()
    np.save(tmp_path / "a.npy", np.array(masks))
    np.save(tmp_path / "b.npy", np.array(masks))
    np.save(tmp_path / "c.npy", np.array(masks[::-1]))
    unit = [save(tmp_path, f"{name}.png") for name in "abc"]
    first, second, third = rows("official", tmp_path, unit)
    assert first["key"] == second["key"] != third["key"]
    chosen = rows("official", tmp_path, unit, Selection(max_masks=1))
    np.testing.assert_array_equal(decoded(chosen[0]), [masks[2]])
    assert chosen[0]["key"] != first["key"]


def test_layouts_and_sources_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(PrepError, match="sa1b"):
        ImportStage("voc", tmp_path)
    with pytest.raises(PrepError, match="is not a file"):
        ImportStage("coco", tmp_path)
    with pytest.raises(PrepError, match="is not a folder"):
        ImportStage("official", tmp_path / "none")
    for name in ("SAM_Mask/SAM_out", "SOLO_Mask/SOLO_out"):
        (tmp_path / name).mkdir(parents=True)
    stage = ImportStage("official", tmp_path)
    with pytest.raises(PrepError, match="Give one of them"):
        stage.open()


def test_real_coco_results(shared: Path, tmp_path: Path) -> None:
    file = shared / "data" / "formats" / "coco_segm_results_compressed_rle.json"
    entries = json.loads(file.read_text())
    first = entries[0]
    height, width = first["segmentation"]["size"]
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(tmp_path / "a.png")
    (row,) = rows("coco", file, [ImageRef("a.png", first["image_id"], str(tmp_path / "a.png"))])
    of_image = [e for e in entries if e["image_id"] == first["image_id"]]
    assert row["status"] == "ok", row["error"]
    assert [m["counts"] for m in row["masks"]] == [e["segmentation"]["counts"] for e in of_image]
    assert [m["predicted_iou"] for m in row["masks"]] == [e["score"] for e in of_image]


@pytest.mark.parametrize("layout", ["sa1b", "official"])
def test_masks_outside_the_folder_are_not_read(tmp_path: Path, layout: str) -> None:
    (tmp_path / "masks").mkdir()
    ref = save(tmp_path, "a.png", 1)
    entries = [{"segmentation": rle(mask)} for mask in random_masks()]
    (tmp_path / "a.json").write_text(json.dumps(entries))
    np.save(tmp_path / "a.npy", np.stack(random_masks()).astype(np.float32))
    (row,) = rows(layout, tmp_path / "masks", [ImageRef("../a.png", 1, ref.path)])
    assert row["masks"] == []
    assert row["error"]

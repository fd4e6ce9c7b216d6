"""The stage: one row per image, whatever the image, and each distinct content proposed for once."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from PIL import Image
from pycocotools import mask as coco

from prep.cache.schema import PROPOSALS
from prep.errors import PrepError
from prep.masks.grid32 import grid32
from prep.proposals import stage as stage_module
from prep.proposals.rows import Answer, content_key
from prep.proposals.segments.generator import SegmentGenerator
from prep.proposals.select import Selection
from prep.proposals.stage import ProposalStage, Recent
from prep.records import ImageRef, Proposal


class Halves:
    """A generator of known masks: the upper half, then the left one, of any image that is not black."""

    name = "halves"
    weights_sha256 = "0" * 64

    def __init__(self) -> None:
        self.calls: list[int] = []

    def settings(self) -> dict[str, Any]:
        return {"of": "two"}

    def open(self) -> None:
        pass

    def propose(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[list[Proposal]]:
        self.calls.append(len(images))
        if any(image.max() == 255 for image in images):
            raise ValueError("too bright")
        return [self._masks(image) if image.any() else [] for image in images]

    def _masks(self, image: npt.NDArray[np.uint8]) -> list[Proposal]:
        height, width = image.shape[:2]
        upper, left = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
        upper[: height // 2], left[:, : width // 2] = 1, 1
        return [self._proposal(upper, 0.5), self._proposal(left, None)]

    def _proposal(self, mask: npt.NDArray[np.uint8], score: float | None) -> Proposal:
        encoded = coco.encode(np.asfortranarray(mask))
        box = coco.toBbox(encoded)
        point = None if score is None else (1.0, 2.0)
        crop = None if score is None else (0.0, 0.0, 4.0, 4.0)
        xywh = (box[0], box[1], box[2], box[3])
        return Proposal(encoded["counts"].decode(), int(mask.sum()), xywh, score, score, point, crop)


def save(folder: Path, name: str, value: int, shape: tuple[int, int] = (8, 12)) -> ImageRef:
    Image.fromarray(np.full((*shape, 3), value, np.uint8)).save(folder / name)
    return ImageRef(name, len(name), str(folder / name))


def rows_of(stage: ProposalStage, unit: list[ImageRef]) -> list[dict[str, Any]]:
    table = stage.process(stage.load(unit))
    assert table.schema == PROPOSALS
    table.validate(full=True)
    return table.to_pylist()


def opened(generator: Any, selection: Selection | None = None, **options: Any) -> ProposalStage:
    stage = ProposalStage(generator, selection or Selection(), **options)
    stage.open()
    return stage


def test_a_row_holds_what_was_proposed(tmp_path: Path) -> None:
    ref = save(tmp_path, "a.png", 100)
    stage = opened(Halves())
    (row,) = rows_of(stage, [ref])
    masks = row.pop("masks")
    assert [m["area"] for m in masks] == [48, 48]
    assert masks[0]["bbox"] == [0, 0, 12, 4]
    assert (masks[0]["predicted_iou"], masks[0]["point"], masks[0]["crop_box"]) == (0.5, [1, 2], [0, 0, 4, 4])
    assert (masks[1]["predicted_iou"], masks[1]["point"], masks[1]["crop_box"]) == (None, None, None)
    sha256 = row.pop("image_sha256")
    assert len(sha256) == 64
    assert row == {
        "image": "a.png",
        "image_id": 5,
        "height": 8,
        "width": 12,
        "grid32": grid32([m["counts"] for m in masks], 8, 12),
        "generator": "halves",
        "key": content_key(stage.key, sha256),
        "status": "ok",
        "error": None,
    }


def test_bad_images_become_rows_with_reasons(tmp_path: Path) -> None:
    good, dark, bright = (save(tmp_path, f"{v}.png", v) for v in (100, 0, 255))
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    torn = ImageRef("torn.png", None, str(tmp_path / "torn.png"))
    missing = ImageRef("none.png", None, str(tmp_path / "none.png"))
    outside = ImageRef("../100.png", None, good.path)
    rows = rows_of(opened(Halves()), [torn, good, bright, missing, dark, outside])
    assert [r["image"] for r in rows] == ["torn.png", "100.png", "255.png", "none.png", "0.png", "../100.png"]
    assert [r["status"] for r in rows] == ["error", "ok", "error", "error", "empty", "error"]
    assert "cannot decode" in rows[0]["error"]
    assert "too bright" in rows[2]["error"]
    assert "not found" in rows[3]["error"]
    assert "points outside its folder" in rows[5]["error"]
    for row in rows:
        if row["status"] != "ok":
            assert (row["masks"], row["grid32"]) == ([], b"")
        assert (row["error"] is None) == (row["status"] != "error")
    assert (rows[4]["height"], rows[4]["width"]) == (8, 12)


def test_equal_bytes_are_proposed_for_once(tmp_path: Path) -> None:
    first, other = save(tmp_path, "a.png", 50), save(tmp_path, "b.png", 60)
    (tmp_path / "copy.png").write_bytes((tmp_path / "a.png").read_bytes())
    copy = ImageRef("copy.png", 7, str(tmp_path / "copy.png"))
    generator = Halves()
    stage = opened(generator)
    rows = rows_of(stage, [first, other, copy]) + rows_of(stage, [copy])
    assert generator.calls == [2]
    assert rows[0]["masks"] == rows[2]["masks"] == rows[3]["masks"]
    assert rows[0]["image_sha256"] == rows[2]["image_sha256"] != rows[1]["image_sha256"]


def test_a_unit_loaded_while_its_copy_was_in_work_is_not_computed_again(tmp_path: Path) -> None:
    first = save(tmp_path, "a.png", 50)
    generator = Halves()
    stage = opened(generator)
    ahead = [stage.load([first]), stage.load([first])]
    tables = [stage.process(loaded) for loaded in ahead]
    assert generator.calls == [1]
    assert tables[0] == tables[1]


def test_what_a_worker_remembers_is_bounded() -> None:
    mask = {"counts": "x" * 500}
    recent = Recent(10_000)
    for number in range(20):
        recent.put(f"{number}", Answer(1, 1, [mask], b""))
        recent.put(f"{number}", Answer(1, 1, [mask], b""))
    assert [n for n in range(20) if recent.get(f"{n}")] == [17, 18, 19]
    recent.put("huge", Answer(1, 1, [{"counts": "x" * 20_000}], b""))
    assert recent.get("huge") is None


def test_answers_outlive_the_worker(tmp_path: Path) -> None:
    kept: dict[str, Any] = {}

    class Kept:
        def get(self, sha256: str) -> Any:
            return kept.get(sha256)

        def put(self, sha256: str, answer: Any) -> None:
            kept.setdefault(sha256, answer)

    ref = save(tmp_path, "a.png", 50)
    before = rows_of(opened(Halves(), answers=Kept()), [ref])
    generator = Halves()
    assert rows_of(opened(generator, answers=Kept()), [ref]) == before
    assert generator.calls == []


def test_rows_do_not_depend_on_units_or_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = [save(tmp_path, f"{i}.png", 20 + i, (6 + i, 9)) for i in range(7)]
    whole = opened(Halves()).process(opened(Halves()).load(refs))
    monkeypatch.setattr(stage_module, "PIXELS_AT_ONCE", 150)  # two images at a time, decoded as they come
    stage = opened(Halves())
    assert len(stage.load(refs)) > 3
    assert stage.process(stage.load(refs)) == whole
    apart = [stage.process(stage.load([ref])) for ref in refs]
    assert pa.concat_tables(apart).combine_chunks() == whole


def test_selection_is_applied_and_part_of_the_key(tmp_path: Path) -> None:
    ref = save(tmp_path, "a.png", 50)
    stages = [opened(Halves(), s) for s in (Selection(), Selection(max_masks=1), Selection(min_area=49))]
    rows = [rows_of(stage, [ref])[0] for stage in stages]
    assert [len(row["masks"]) for row in rows] == [2, 1, 0]
    assert [row["status"] for row in rows] == ["ok", "ok", "empty"]
    assert len({row["key"] for row in rows}) == 3


def test_a_fault_of_the_environment_is_not_an_images(tmp_path: Path) -> None:
    class Broken(Halves):
        def propose(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[list[Proposal]]:
            raise PrepError("no room on the device", "use a smaller batch")

    stage = opened(Broken())
    with pytest.raises(PrepError):
        stage.process(stage.load([save(tmp_path, "a.png", 50)]))


def test_it_is_picklable_before_it_is_opened(tmp_path: Path) -> None:
    ref = save(tmp_path, "a.png", 50)
    stage = pickle.loads(pickle.dumps(ProposalStage(SegmentGenerator(), Selection(min_area=20))))
    stage.open()
    assert rows_of(stage, [ref])[0]["status"] == "empty"

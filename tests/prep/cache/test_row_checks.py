"""What ``verify`` says of rows that another program made: names that climb, nulls within lists, odd masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pycocotools import mask as coco

from prep.cache.keys import concept_id
from prep.cache.maintain import repair
from prep.cache.row_checks import CHECKS
from prep.cache.schema import STAGES
from prep.cache.shards import ShardMeta, encode
from prep.cache.store import Store, open_store
from prep.cache.verify import verify
from prep.errors import PrepError
from prep.masks.grid32 import grid32

BOX = np.zeros((40, 60), dtype=np.uint8)
BOX[10:20, 30:50] = 1
COUNTS = coco.encode(np.asfortranarray(BOX))["counts"].decode()
MASK = {"counts": COUNTS, "area": 200, "bbox": [30.0, 10.0, 20.0, 10.0], "score": 0.5}
BOX_ONLY = {**MASK, "counts": None, "area": None}  # of a detector without masks
GOOD: dict[str, dict[str, Any]] = {
    "phrases": {
        "row_id": "0" * 31 + "a", "dataset": "mine", "split_by": "", "split": "train", "image": "a/1.jpg",
        "expression": "the cup", "phrases": ["the cup"], "source": "rules", "llm": "rules", "key": "k",
        "violations": [], "repairs": [], "rejected": [], "status": "ok",
    },
    "triplets": {
        "row_id": "0" * 31 + "a", "dataset": "mine", "split_by": "", "split": "train", "image": "a/1.jpg",
        "expression": "the cup on the box", "entity": "the cup",
        "relations": [{"subject": "the cup", "predicate": "on", "object": "the box"}], "source": "llm",
        "llm": "toy", "key": "k", "violations": [], "repairs": [], "rejected": [], "status": "ok",
    },
    "proposals": {
        "image": "a/1.jpg", "height": 40, "width": 60, "masks": [MASK], "grid32": grid32([COUNTS], 40, 60),
        "generator": "sam", "key": "k", "status": "ok",
    },
    "scores": {
        "row_id": "0" * 31 + "a", "split_by": "", "image": "a/1.jpg", "scores": [0.5], "proposals_key": "k",
        "model": "clip", "key": "k",
    },
    "concepts": {
        "concept_id": concept_id("a/1.jpg", "cup"), "image": "a/1.jpg", "phrase": "cup", "height": 40,
        "width": 60, "masks": [MASK], "detector": "sam3", "key": "k", "status": "ok",
    },
}  # fmt: skip
ERROR = {"masks": [], "grid32": b"", "status": "error", "error": "truncated file"}
CLIMBING = (
    "../secret.jpg",
    "a/../../secret.jpg",
    "/etc/passwd",
    "C:/secret.jpg",
    "..\\secret.jpg",
    "a\0b",
    "",
)


def faults(table: str, **change: Any) -> list[tuple[int, str]]:
    rows = [{**GOOD[table], **change}, GOOD[table]]
    return list(CHECKS[table](pa.Table.from_pylist(rows, schema=STAGES[table][0])))


def test_good_rows_have_no_faults() -> None:
    assert {table: faults(table) for table in GOOD} == {table: [] for table in GOOD}
    assert GOOD.keys() == CHECKS.keys()
    assert faults("proposals", **ERROR) == []
    assert faults("phrases", image=None) == []
    assert faults("phrases", phrases=["a"] * 5) == []
    assert faults("phrases", status="error", phrases=[], source=None, error="empty") == []
    assert faults("concepts", masks=[MASK, MASK, {**MASK, "score": 0.25}]) == []
    point = {**MASK, "counts": "01", "area": 1}  # an image of one pixel, which is the object
    for table in ("proposals", "concepts"):
        grid = {"grid32": grid32(["01"], 1, 1)} if table == "proposals" else {}
        assert faults(table, height=1, width=1, masks=[point], **grid) == []


@pytest.mark.parametrize("image", CLIMBING)
@pytest.mark.parametrize("table", GOOD)
def test_an_image_that_leaves_its_folder_is_told(table: str, image: str) -> None:
    change = {"concept_id": concept_id(image, "cup")} if table == "concepts" else {}
    assert faults(table, image=image, **change) == [(0, f"the image {image!r} leaves the image folder")]


def test_the_name_of_an_image_that_was_not_read_is_the_folders_own() -> None:
    """A folder may hold a folder of the name ``C:``; the run has said that it cannot be used."""
    assert faults("proposals", image="C:/1.jpg", **ERROR) == []
    change = {"concept_id": concept_id("../1.jpg", "cup"), "status": "error", "error": "x", "masks": []}
    assert faults("concepts", image="../1.jpg", **change) == []
    assert faults("phrases", image="../1.jpg", status="error", phrases=[], error="empty") != []


@pytest.mark.parametrize(
    "row_id", ["../../etc/x", "A" * 32, "0" * 31, "0" * 33, "", "0" * 32 + "\n", "٣" * 32]
)
@pytest.mark.parametrize("table", ["phrases", "triplets", "scores"])
def test_a_row_id_that_is_not_hex_is_told(table: str, row_id: str) -> None:
    assert faults(table, row_id=row_id) == [(0, f"the row_id {row_id[:80]!r} is not 32 hex digits")]


@pytest.mark.parametrize(
    ("table", "change", "told"),
    [
        ("phrases", {"status": "error"}, "an error row has phrases or no reason"),
        ("phrases", {"status": "error", "phrases": []}, "an error row has phrases or no reason"),
        ("phrases", {"status": "done"}, "unknown status 'done'"),
        ("phrases", {"phrases": []}, "0 phrases"),
        ("phrases", {"phrases": ["a"] * 6}, "6 phrases"),
        ("phrases", {"phrases": ["a", " "]}, "an empty phrase"),
        ("phrases", {"phrases": [None]}, "a row has no value in phrases.item"),
        ("phrases", {"source": "guess"}, "unknown source 'guess'"),
        ("phrases", {"source": None}, "unknown source None"),
        ("triplets", {"relations": [None]}, "a row has no value in relations.item"),
        ("triplets", {"relations": []}, "0 relations of the entity 'the cup'"),
        ("triplets", {"entity": "the box on it"}, "a relation without the entity"),
        ("triplets", {"status": "error"}, "an error row has triplets or no reason"),
        ("triplets", {"source": "guess"}, "unknown source 'guess'"),
        ("scores", {"scores": [0.5, None]}, "a row has no value in scores.item"),
        ("phrases", {"violations": [None]}, "a row has no value in violations.item"),
        ("phrases", {"rejected": [{"source": "llm", "violations": [None]}]}, "a row has no value in"),
        ("scores", {"scores": [float("-inf")]}, "a score is not a finite number"),
        ("proposals", {"masks": [MASK, None]}, "a row has no value in masks.item"),
        ("proposals", {"masks": [{**MASK, "counts": None}]}, "a row has no value in masks.item.counts"),
        ("proposals", {"masks": [{**MASK, "area": None}]}, "a row has no value in masks.item.area"),
        ("proposals", {"masks": [{**MASK, "area": 201}]}, "mask 0: its area is 200, not 201"),
        ("proposals", {"masks": [{**MASK, "bbox": None}]}, "a row has no value in masks.item.bbox"),
        ("proposals", {"masks": [{**MASK, "bbox": [None] * 4}]}, "a row has no value in"),
        ("proposals", {"masks": [{**MASK, "bbox": [0.0] * 3}]}, "mask 0: its box is not four"),
        ("proposals", {"masks": [MASK, MASK], "grid32": bytes(256)}, "mask 0: grid32 is not this mask"),
        ("proposals", {"masks": [{**MASK, "bbox": [0.0, 0.0, float("nan"), 1.0]}]}, "mask 0: its box"),
        ("proposals", {"height": 39}, "mask 0"),
        ("proposals", {"height": -40, "width": -60}, "masks without the image's size"),
        ("proposals", {"width": 0}, "masks without the image's size"),
        ("proposals", {"height": None}, "masks without the image's size"),
        ("proposals", {"width": None}, "masks without the image's size"),
        ("proposals", {"grid32": b""}, "grid32 has 0 bytes for 1 masks"),
        ("proposals", {"masks": []}, "status ok with 0 masks"),
        ("proposals", {**ERROR, "error": None}, "an error row has no reason"),
        ("concepts", {"masks": [None]}, "a row has no value in masks.item"),
        ("concepts", {"masks": [{**MASK, "bbox": None}]}, "a row has no value in masks.item.bbox"),
        ("concepts", {"masks": [{**MASK, "score": None}, MASK]}, "a row has no value in masks.item.score"),
        ("concepts", {"height": -40}, "masks without the image's size"),
        ("concepts", {"height": None, "masks": [BOX_ONLY]}, "masks without the image's size"),
        ("concepts", {"width": None, "masks": [BOX_ONLY]}, "masks without the image's size"),
        ("concepts", {"masks": [MASK, {**MASK, "score": 0.75}]}, "its masks are not in the order of"),
        ("concepts", {"masks": [MASK, {**MASK, "score": float("nan")}]}, "mask 1: its box or score"),
        ("concepts", {"masks": [{**MASK, "bbox": [0.0, 0.0, float("inf"), 1.0]}]}, "mask 0: its box or"),
        ("concepts", {"phrase": "mug"}, "concept_id is not that of its image and phrase"),
        ("concepts", {"masks": [{**MASK, "bbox": [0.0] * 3}]}, "mask 0: its box or score"),
        ("concepts", {"masks": [{**MASK, "area": 201}]}, "mask 0: its area is 200, not 201"),
    ],
)  # fmt: skip
def test_a_row_that_disagrees_with_itself_is_told(table: str, change: dict[str, Any], told: str) -> None:
    ((number, reason),) = faults(table, **change)
    assert number == 0
    assert reason.startswith(told)
    assert not reason.endswith(".")


@pytest.mark.parametrize("table", GOOD)
def test_a_fault_is_told_with_the_number_of_its_row(table: str) -> None:
    """Also behind the rows that are read at once: 64 with masks."""
    change: dict[str, Any] = {"scores": [float("nan")]} if table == "scores" else {"status": "done"}
    rows = [{**GOOD[table], **change} if at in (3, 70) else GOOD[table] for at in range(72)]
    found = CHECKS[table](pa.Table.from_pylist(rows, schema=STAGES[table][0]))
    assert [number for number, _ in found] == [3, 70]


@pytest.mark.parametrize("column", ["masks", "scores"])
def test_a_shard_without_a_single_good_row_is_told_row_by_row(column: str) -> None:
    table = {"masks": "proposals", "scores": "scores"}[column]
    rows = pa.Table.from_pylist([{**GOOD[table], column: [None]}] * 2, schema=STAGES[table][0])
    told = f"a row has no value in {column}.item"
    assert list(CHECKS[table](rows)) == [(0, told), (1, told)]


def plant(store: Store, table: str, rows: list[dict[str, Any]]) -> None:
    """A shard that our writer does not write, listed in the manifest."""
    with store.stage(table).writer({}):
        pass
    manifest = store.stage(table).reader().manifest
    assert manifest is not None
    loose = pa.schema([field.with_nullable(True) for field in STAGES[table][0]])
    data = pa.Table.from_pylist(rows, schema=loose)
    shard, written = encode(data, ShardMeta(table, manifest.generation, {}))
    store.stage(table).files.write(shard.name, written)
    manifest.shards[shard.name] = shard
    manifest.save(store.stage(table).files)


def test_readers_refuse_a_row_without_a_value_and_name_the_repair(tmp_path: Path) -> None:
    bad: dict[str, dict[str, Any]] = {
        "phrases": {"row_id": "b" * 32, "phrases": ["a", None]},
        "proposals": {"image": "b.jpg", "masks": [None]},
        "scores": {"row_id": "b" * 32, "scores": [None]},
        "concepts": {"masks": [None], "image": "b.jpg", "concept_id": concept_id("b.jpg", "cup")},
    }
    store = open_store(tmp_path / "prepared", create=True)
    for table, change in bad.items():
        plant(store, table, [GOOD[table], {**GOOD[table], **change}])
        reader = store.stage(table).reader()
        for read in (reader.read, lambda reader=reader: list(reader.batches())):
            with pytest.raises(PrepError, match=f"/{table}: a row has no value in ") as refused:
                read()
            assert refused.value.remedy.startswith(f"Run `pcnet-prep verify {store.uri} --repair`")
    with pytest.raises(PrepError, match="Cannot read"):
        store.masks("a/1.jpg")
    found = verify(store, CHECKS)
    assert [(one.kind, one.rows) for one in found.problems] == [("wrong", (1,))] * 4
    repair(store, CHECKS, found)
    assert len(store.masks("a/1.jpg")) == 1
    assert [store.stage(table).reader().read().num_rows for table in bad] == [1] * 4


def test_a_repair_removes_the_rows_of_another_program_and_keeps_ours(tmp_path: Path) -> None:
    store = open_store(tmp_path / "prepared", create=True)
    bad = {
        "phrases": {"row_id": "../../../x"},
        "proposals": {"image": "../../x.jpg"},
        "scores": {"row_id": "b" * 32, "image": "/x.jpg"},
        "concepts": {"image": "../x.jpg", "concept_id": concept_id("../x.jpg", "cup")},
    }
    for table, change in bad.items():
        rows = [GOOD[table], {**GOOD[table], **change}]
        with store.stage(table).writer({}) as writer:
            writer.write(pa.Table.from_pylist(rows, schema=STAGES[table][0]))
    found = verify(store, CHECKS)
    assert [(one.stage, one.kind, one.rows) for one in found.problems] == [
        (table, "wrong", (1,)) for table in bad
    ]
    assert not found.ok
    assert [report.lost_rows for report in repair(store, CHECKS, found)] == [1] * 4
    assert verify(store, CHECKS).problems == []
    for table in bad:
        (row,) = store.stage(table).reader().read().to_pylist()
        assert all(row[name] == GOOD[table][name] for name in ("image", "key"))

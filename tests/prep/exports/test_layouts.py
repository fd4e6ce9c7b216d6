"""Every layout is read back by an independent reader, and holds what the store and the dataset hold."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

from prep.cache.store import Store, open_store
from prep.datasets.catalogue import Dataset, open_dataset, open_jsonl
from prep.datasets.refer import RefDataset
from prep.datasets.truth import Truth
from prep.errors import PrepError
from prep.exports.labelstudio import brush_rle
from prep.exports.layouts import LAYOUTS, export
from prep.exports.request import Request
from prep.phrases.run import run_phrases
from prep.phrases.stage import row as row_of
from prep.phrases.tasks import TRIPLETS
from prep.proposals.import_masks import ImportStage
from prep.proposals.job import run_proposals
from prep.records import TripletSet
from prep.stage import Resources
from tests.prep.exports import readers
from tests.prep.exports.worlds import add_phrases


def masks_of(store: Store) -> dict[str, list[Any]]:
    """Image -> the store's masks, decoded by pycocotools."""
    return {
        row["image"]: [
            coco.decode({"size": [row["height"], row["width"]], "counts": mask["counts"]}).astype(bool)
            for mask in row["masks"]
        ]
        for row in store.stage("proposals").reader().read().to_pylist()
    }


def equal(found: dict[str, list[Any]], wanted: dict[str, list[Any]]) -> bool:
    return found.keys() == wanted.keys() and all(
        len(found[image]) == len(wanted[image]) and all(map(np.array_equal, found[image], wanted[image]))
        for image in wanted
    )


def test_coco_loads_in_pycocotools_and_comes_back_equal(
    store: Store, dataset: Dataset, tmp_path: Path
) -> None:
    done = export(Request("coco", store, tmp_path))
    assert done.counts == {"images": 8, "masks": 48}
    loaded = COCO(tmp_path / "instances.json")
    found = {
        image["file_name"]: [loaded.annToMask(one).astype(bool) for one in loaded.imgToAnns[image["id"]]]
        for image in loaded.imgs.values()
    }
    assert equal(found, masks_of(store))
    assert all(one["area"] == coco.area(loaded.annToRLE(one)) for one in loaded.anns.values())
    again = open_store(tmp_path / "again", create=True)
    stage = ImportStage("coco", tmp_path / "instances.json", resources=Resources())
    run_proposals(stage, [dataset], again)
    before, after = (
        {row["image"]: row for row in one.stage("proposals").reader().read().to_pylist()}
        for one in (store, again)
    )
    for image, row in before.items():
        assert after[image]["masks"] == row["masks"]
        assert after[image]["grid32"] == row["grid32"]
        assert after[image]["image_id"] == row["image_id"]


@pytest.mark.parametrize("layout", ["labelstudio", "cvat"])
def test_annotation_tools_read_every_mask(store: Store, tmp_path: Path, layout: str) -> None:
    assert export(Request(layout, store, tmp_path)).counts["images"] == 8
    found = (
        readers.label_studio(tmp_path)
        if layout == "labelstudio"
        else readers.cvat(tmp_path / "annotations.xml")
    )
    assert equal(found, masks_of(store))


def test_refer_is_read_by_our_reader_and_by_refers(store: Store, dataset: RefDataset, tmp_path: Path) -> None:
    done = export(Request("refer", store, tmp_path, dataset))
    assert (done.counts["expressions"], done.left_out) == (len(list(dataset.expressions())), {})
    other = readers.Refer(tmp_path / "refer", "refcoco", "unc")
    truth = Truth(dataset)
    for row in dataset.expressions():
        assert row.ref_id is not None
        mask = truth.mask(row)
        assert np.array_equal(other.mask(row.ref_id), mask)
        assert other.box(row.ref_id) == list(
            map(float, readers.coco.toBbox(readers.coco.encode(np.asfortranarray(mask))))
        )
        assert other.sentences[row.sent_id]["sent"] == row.text
        assert row.ref_id in other.ids(row.split)
    assert set(other.categories.values()) > {"circle"}
    again = open_dataset(tmp_path, "refcoco")
    assert list(again.expressions()) == list(dataset.expressions())


def kitchen(folder: Path) -> Path:
    """Our own lines: masks, polygons, boxes, none, ids and no ids, two datasets in one file."""
    for name in ("a.png", "b.png"):
        Image.new("RGB", (60, 40), "grey").save(folder / name)
    polygon = [[10, 5, 30, 5, 30, 25, 10, 25]]
    lines: list[dict[str, Any]] = [
        {"sent": "the red cup", "image": "a.png", "mask": polygon, "ref_id": 7, "split": "val"},
        {"sent": "cup", "image": "a.png", "mask": polygon, "ref_id": 7, "split": "val"},
        {"sent": "another cup", "image": "a.png", "mask": [[1, 1, 9, 1, 9, 9]], "ref_id": 7, "split": "val"},
        {"sent": "the box", "image": "b.png", "box": [2, 3, 10, 20], "image_id": 5},
        {"sent": "nothing", "image": "b.png", "mask": []},
        {"sent": "no mask", "image": "b.png"},
        {"sent": "outside", "image": "b.png", "box": [50, 3, 20, 20]},
        {"sent": "no image", "mask": polygon},
        {"sent": "a spoon", "image": "b.png", "mask": polygon, "dataset": "../../spoons", "split_by": "a/b"},
    ]
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_refer_from_our_own_lines(store: Store, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    mine = open_jsonl(kitchen(tmp_path / "in"))
    done = export(Request("refer", store, tmp_path / "out", mine))
    assert done.counts == {"references": 3, "expressions": 4}
    assert done.left_out == {
        "expressions whose mask differs from the first of their reference": 1,
        "expressions that refer to nothing in their image": 1,
        "the line has no mask": 1,
        "the box is not [x, y, width, height] inside its image": 1,
        "expressions without an image": 1,
    }
    assert done.notes["references with a box alone: the box is their polygon"] == 1
    read = readers.Refer(tmp_path / "out" / "refer", "mine", "unc")
    assert read.ids("val") == [7]
    assert [one["sent"] for one in read.refs[7]["sentences"]] == ["the red cup", "cup"]
    assert read.mask(7)[5:25, 10:30].all()
    assert read.mask(7).sum() == 400
    (boxed,) = read.ids("train")
    assert read.box(boxed) == [2, 3, 10, 20]
    assert read.mask(boxed).sum() == 200
    assert read.refs[boxed]["image_id"] == 5
    (other,) = (path for path in (tmp_path / "out" / "refer").iterdir() if path.name != "mine")
    (refs,) = other.glob("refs(*).p")
    assert len(readers.Refer(other.parent, other.name, refs.name[5:-3]).refs) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"in", "out"}


def test_reclip_finds_its_images_and_boxes(store: Store, dataset: RefDataset, tmp_path: Path) -> None:
    export(Request("reclip", store, tmp_path, dataset))
    truth, rows = Truth(dataset), {row.sent_id: row for row in dataset.expressions()}
    stored = {row["image"]: row for row in store.stage("proposals").reader().read().to_pylist()}
    seen = 0
    for split in dataset.splits():
        samples = readers.reclip(tmp_path / f"refcoco_{split}.jsonl", tmp_path / "refcoco_dets_dict.json")
        for sample in samples:
            row = rows[sample["sent_id"]]
            assert (dataset.root / "train2014" / sample["image"]).is_file()
            assert f"train2014/{sample['image']}" == row.image
            mask = np.asfortranarray(truth.mask(row))
            assert sample["gold"] == [list(map(float, coco.toBbox(coco.encode(mask))))]
            assert sample["gold"][0] in [ann["bbox"] for ann in sample["anns"]]
            assert sample["boxes"] == [mask["bbox"] for mask in stored[str(row.image)]["masks"]]
            assert sample["raw"] == row.text
            seen += 1
    assert seen == len(rows)


def test_simrec_has_an_entry_for_each_reference_in_train(
    store: Store, dataset: RefDataset, tmp_path: Path
) -> None:
    export(Request("simrec", store, tmp_path, dataset))
    truth, rows = Truth(dataset), list(dataset.expressions())
    by_ref = {row.ref_id: row for row in rows}
    for split in dataset.splits():
        samples = readers.simrec(tmp_path, "refcoco", split)
        texts = [text for sample in samples for text in sample["refs"]]
        assert Counter(texts) == Counter(row.text for row in rows if row.split == split)
        ids = Counter(sample["mask_id"] for sample in samples)
        assert (split != "train") or max(ids.values()) == 1
        for sample in samples:
            row = by_ref[sample["mask_id"]]
            assert row.image == f"train2014/{sample['image']}"
            assert np.array_equal(sample["mask"], truth.mask(row))
            assert len(sample["refs"]) == 1 or split == "train"
            assert 0 <= sample["cat_id"] < 6


def best(store: Store, dataset: RefDataset) -> dict[int, Any]:
    """ref_id -> the proposal with the highest mean score, computed on its own."""
    scores = {row["row_id"]: row["scores"] for row in store.stage("scores").reader().read().to_pylist()}
    masks = masks_of(store)
    totals: dict[int, Any] = {}
    images = {}
    for row in dataset.expressions():
        assert row.ref_id is not None
        totals.setdefault(row.ref_id, []).append(scores[row.row_id])
        images[row.ref_id] = str(row.image)
    return {ref: masks[images[ref]][int(np.mean(rows, axis=0).argmax())] for ref, rows in totals.items()}


def test_pseudo_masks_are_the_best_scored_proposals(
    store: Store, dataset: RefDataset, tmp_path: Path
) -> None:
    export(Request("pseudo-png", store, tmp_path, dataset))
    for ref_id, mask in best(store, dataset).items():
        read = readers.pseudo_mask(tmp_path, "refcoco", "unc", ref_id)
        assert set(np.unique(read)) <= {0, 255}
        assert np.array_equal(read > 0, mask)
    export(Request("simrec", store, tmp_path / "s", dataset, masks="best"))
    for sample in readers.simrec(tmp_path / "s", "refcoco", "train"):
        mask = best(store, dataset)[sample["mask_id"]]
        assert np.array_equal(sample["mask"], mask)
        assert sample["bbox"] == list(map(float, coco.toBbox(coco.encode(np.asfortranarray(mask)))))


def test_pseudo_masks_of_an_evaluation(store: Store, dataset: RefDataset, tmp_path: Path) -> None:
    folder, kept = tmp_path / "pseudo", {}
    folder.mkdir()
    refs: dict[int, list[Any]] = {}
    for row in dataset.expressions(["val"]):
        refs.setdefault(int(str(row.ref_id)), []).append(row)
    random = np.random.default_rng(0)
    for ref_id, rows in refs.items():
        masks = random.random((len(rows), 64, 64)) > 0.5
        for at, mask in enumerate(masks):
            np.save(folder / f"{Path(rows[0].image).stem}_{ref_id}_{at}.npy", mask.astype(np.uint8))
        kept[ref_id] = masks.mean(axis=0) >= 0.5
    done = export(Request("pseudo-png", store, tmp_path / "out", dataset, ("val",), str(folder)))
    assert done.counts == {"references": len(refs)}
    for ref_id, mask in kept.items():
        assert np.array_equal(readers.pseudo_mask(tmp_path / "out", "refcoco", "unc", ref_id) > 0, mask)


def test_triplets_have_an_entry_for_each_expression(
    store: Store, dataset: RefDataset, tmp_path: Path
) -> None:
    export(Request("triplets", store, tmp_path, dataset))
    for split in dataset.splits():
        found = readers.triplets(tmp_path / f"refcoco_{split}_triplets.jsonl")
        rows = list(dataset.expressions([split]))
        assert len(found) == len(rows)
        for row in rows:
            entry = found[f"{Path(str(row.image)).name}_{row.sent_id}"]
            assert entry["relations"]
            assert all(len(one) == 3 and one[0] == entry["entity"] for one in entry["relations"])


def test_stored_triplets_go_before_those_of_the_phrases(dataset: RefDataset, tmp_path: Path) -> None:
    """One expression has stored triplets with other words, one an error, all others have phrases alone."""
    store = open_store(tmp_path / "store", create=True)
    items = list(dataset.expressions())
    add_phrases(store, dataset)
    before = export(Request("triplets", store, tmp_path / "before", dataset)).counts
    fixed = {"llm": "m", "prompt_version": "p", "key": "k"}
    chosen = TripletSet("it", (("the box", "beside", "it"),), "llm")
    rows = [
        row_of(items[0], TRIPLETS, chosen, **fixed),
        row_of(items[1], TRIPLETS, None, **fixed, error="no text"),
    ]
    with store.stage("triplets").writer({"llm": "m"}) as writer:
        writer.write(pa.Table.from_pylist(rows, schema=TRIPLETS.schema))
    done = export(Request("triplets", store, tmp_path / "out", dataset))
    assert done.counts["expressions with stored triplets"] == 1
    assert done.counts["expressions"] == before["expressions"] == len(items)
    for item in items:
        name = f"refcoco_{item.split}_triplets.jsonl"
        entry = readers.triplets(tmp_path / "out" / name)[f"{Path(str(item.image)).name}_{item.sent_id}"]
        if item is items[0]:
            assert entry == {"entity": "it", "relations": [["the box", "beside", "it"]]}
        else:
            by_phrases = readers.triplets(tmp_path / "before" / name)
            assert entry == by_phrases[f"{Path(str(item.image)).name}_{item.sent_id}"]


def test_a_store_of_triplets_alone_is_exported_and_one_of_neither_names_the_command(
    dataset: RefDataset, tmp_path: Path
) -> None:
    store = open_store(tmp_path / "store", create=True)
    with pytest.raises(PrepError, match="has no phrases yet"):
        export(Request("triplets", store, tmp_path / "none", dataset))
    run_phrases(None, [dataset], store, task=TRIPLETS)
    done = export(Request("triplets", store, tmp_path / "out", dataset))
    assert done.counts["expressions with stored triplets"] == done.counts["expressions"]


def test_every_layout_is_tested_here() -> None:
    tested = {
        "coco",
        "labelstudio",
        "cvat",
        "refer",
        "reclip",
        "simrec",
        "pseudo-png",
        "triplets",
        "croissant",
    }
    assert set(LAYOUTS) == tested


def test_pixels_of_half_of_the_masks_belong_to_a_reference(
    store: Store, dataset: RefDataset, tmp_path: Path
) -> None:
    row = next(row for row in dataset.expressions(["train"]))
    stem = Path(str(row.image)).stem
    for at in range(2):
        mask = np.zeros((64, 64), np.uint8)
        mask[: 10 + 10 * at] = 1
        np.save(tmp_path / f"{stem}_{row.ref_id}_{at}.npy", mask)
    export(Request("pseudo-png", store, tmp_path / "out", dataset, ("train",), str(tmp_path)))
    read = readers.pseudo_mask(tmp_path / "out", "refcoco", "unc", int(str(row.ref_id)))
    assert (read > 0).sum() == 20 * 64
    with Image.open(next((tmp_path / "out").rglob("*.png"))) as image:
        assert image.mode == "L"


def test_a_split_alone_is_written_with_the_ids_of_the_whole(
    store: Store, dataset: RefDataset, tmp_path: Path
) -> None:
    export(Request("refer", store, tmp_path / "all", dataset))
    export(Request("refer", store, tmp_path / "val", dataset, ("val",)))
    whole = readers.Refer(tmp_path / "all" / "refer", "refcoco", "unc")
    part = readers.Refer(tmp_path / "val" / "refer", "refcoco", "unc")
    assert part.refs == {ref: whole.refs[ref] for ref in whole.ids("val")}


def test_ids_that_two_things_share_are_given_again(store: Store, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 10)).save(tmp_path / name)
    square = [[1, 1, 8, 1, 8, 8, 1, 8]]
    lines = [
        {"sent": "one", "image": "a.png", "image_id": 4, "ref_id": 1, "sent_id": 3, "mask": square},
        {"sent": "two", "image": "b.png", "image_id": 4, "sent_id": 3, "mask": square},
        {"sent": "three", "image": "b.png", "ref_id": 1, "mask": square},
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = export(Request("refer", store, tmp_path / "out", open_jsonl(path)))
    read = readers.Refer(tmp_path / "out" / "refer", "mine", "unc")
    assert {image["file_name"]: number for number, image in read.images.items()} == {"a.png": 4, "b.png": 5}
    assert {ref: one["image_id"] for ref, one in read.refs.items()} == {1: 4, 2: 5}
    assert sorted(read.sentences) == [3, 4]
    assert done.left_out == {"expressions whose ref_id is that of another image": 1}


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 64, 65, 16383, 16384, 16385, 32768, 40000])
def test_brush_runs_of_every_length(length: int) -> None:
    flat = np.zeros(50000, bool)
    flat[7 : 7 + length] = True
    mask = flat.reshape(250, 200)
    assert np.array_equal(readers.brush(brush_rle(mask), 250, 200)[:, :, 3] > 0, mask)


@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_brush_runs_of_any_mask(mask: Any) -> None:
    pixels = readers.brush(brush_rle(mask), *mask.shape)
    assert np.array_equal(pixels, np.repeat(mask[:, :, None], 4, axis=2) * 255)

"""The released protocol against a plain recomputation with the released code's steps, one by one."""

from __future__ import annotations

import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco
from torch.nn import functional as F

from pcnet.commands.evaluate import _report_lines
from pcnet.data.collate import pad_phrases
from pcnet.data.images import MEAN, STD
from pcnet.evaluation.evaluate import EvalSettings, evaluate_checkpoint
from pcnet.model.checkpoint import load_model
from prep.cache.store import open_store
from prep.datasets.catalogue import open_dataset


@pytest.fixture(scope="module")
def polygons(prepared, tmp_path_factory):
    """The prepared data with each object as two polygons that overlap, and boxes with fractions."""
    data = tmp_path_factory.mktemp("polygons") / "coco"
    shutil.copytree(prepared.data, data)
    path = data / "refer" / "refcoco" / "instances.json"
    told = json.loads(path.read_text())
    for number, annotation in enumerate(told["annotations"]):
        x, y, w, h = annotation["bbox"]
        left = [x, y, x + 0.7 * w, y, x + 0.7 * w, y + h, x, y + h]
        right = [x + 0.4 * w, y, x + w, y, x + w, y + h, x + 0.4 * w, y + h]
        # The same polygon twice: every pixel is lost, and the object is still a target.
        annotation["segmentation"] = [left, left] if number % 5 == 0 else [left, right]
        annotation["bbox"] = [x + 0.6, y + 0.4, w - 0.3, h - 0.3]
    path.write_text(json.dumps(told))
    return data


def recompute(checkpoint, data, store):
    """(IoU, intersection, union, point, hit) of the first sentence of each val ref, by ``sent_id``."""
    folder = data / "refer" / "refcoco"
    refs = [r for r in pickle.loads((folder / "refs(unc).p").read_bytes()) if r["split"] == "val"]
    told = json.loads((folder / "instances.json").read_text())
    annotations = {a["id"]: a for a in told["annotations"]}
    files = {i["id"]: i["file_name"] for i in told["images"]}
    rows = open_store(store).stage("phrases").reader().read().to_pylist()
    phrases = {r["sent_id"]: r["phrases"] for r in rows}
    model = load_model(checkpoint)
    found = {}
    for ref in refs:
        annotation, sentence = annotations[ref["ann_id"]], ref["sentences"][0]
        with Image.open(data / "train2014" / files[ref["image_id"]]) as image:
            small = np.asarray(image.convert("RGB").resize((48, 48), Image.Resampling.BILINEAR))
            width, height = image.size
        pixels = torch.from_numpy((small / 255 - np.array(MEAN)) / np.array(STD)).float().permute(2, 0, 1)
        ids = (
            model.tokenizer([sentence["sent"]]),
            model.tokenizer(pad_phrases(phrases[sentence["sent_id"]], 3))[None],
        )
        with torch.no_grad():
            response = model(pixels[None], *ids)  # evaluation: after ReLU, at the size of the input
        wide = F.interpolate(response, (height, width), mode="bilinear", align_corners=True)[0, 0]
        wide = wide / (wide.max() + 1e-5)
        counted = coco.decode(coco.frPyObjects(annotation["segmentation"], height, width)).sum(axis=2)
        truth, mask = counted == 1, (wide > 1e-9).numpy()
        row, column = divmod(int(wide.argmax()), width)
        x, y, w, h = np.array(annotation["bbox"], dtype=int)
        shared, union = (mask & truth).sum(), (mask | truth).sum()
        hit = x <= column <= x + w and y <= row <= y + h
        found[sentence["sent_id"]] = (shared / union, shared, union, bool(truth[row, column]), bool(hit))
    return found


def run(checkpoint, data, store, protocol):
    settings = EvalSettings(protocol=protocol, batch_size=1)
    dataset = open_dataset(data, "refcoco")
    return evaluate_checkpoint(checkpoint, dataset, store=store, split="val", settings=settings)


def test_the_released_figures_are_those_of_the_released_steps(checkpoint, polygons, prepared):
    report = run(checkpoint, polygons, prepared.store, "released")
    expected = recompute(checkpoint, polygons, prepared.store)
    assert {row["sent_id"] for row in report.rows} == set(expected)
    for row in report.rows:
        iou, shared, union, point, hit = expected[row["sent_id"]]
        assert (row["point"], row["hit_box"]) == (point, hit)
        assert (row["intersection"], row["union"]) == (shared, union)
        assert row["iou"] == pytest.approx(iou)
    assert any(row["union"] and not row["intersection"] for row in report.rows)
    assert report.metrics.n == len(expected)
    assert report.no_target["n"] == 0
    assert report.metrics.hit == pytest.approx(100 * np.mean([hit for *_, hit in expected.values()]))


def test_the_protocol_is_named_and_the_standard_one_is_the_default(checkpoint, polygons, prepared):
    dataset = open_dataset(polygons, "refcoco")
    usual = evaluate_checkpoint(checkpoint, dataset, store=prepared.store, split="val")
    released = run(checkpoint, polygons, prepared.store, "released")
    assert (usual.protocol, usual.sentences, usual.as_dict()["protocol"]) == ("standard", "all", "standard")
    assert (released.protocol, released.sentences) == ("released", "first")
    assert next(_report_lines(usual)).startswith("protocol standard: every expression")
    assert next(_report_lines(released)).startswith("protocol released: the first expression")
    assert released.metrics.miou != pytest.approx(usual.metrics.miou)


def test_an_annotation_without_a_box_is_counted_with_its_name(checkpoint, polygons, prepared, tmp_path):
    data = tmp_path / "coco"
    shutil.copytree(polygons, data)
    path = data / "refer" / "refcoco" / "instances.json"
    told = json.loads(path.read_text())
    for annotation in told["annotations"]:
        annotation["bbox"] = annotation["bbox"] if annotation["id"] % 4 else [1, 2, "x", 4]
    path.write_text(json.dumps(told))
    report = run(checkpoint, data, prepared.store, "released")
    assert report.skipped
    assert all(reason.endswith("has no bbox of four numbers") for reason in report.skipped)
    assert not run(checkpoint, data, prepared.store, "standard").skipped

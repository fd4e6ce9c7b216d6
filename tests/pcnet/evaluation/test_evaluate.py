"""Evaluation: its figures against a plain recomputation from the annotation file and the model's maps."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco
from torch.nn import functional as F

from pcnet.data.collate import pad_phrases
from pcnet.data.images import MEAN, STD
from pcnet.evaluation.evaluate import EvalSettings, evaluate_checkpoint, validator
from pcnet.model.checkpoint import load_model
from prep.cache.schema import PHRASES, PROPOSALS
from prep.cache.store import open_store
from prep.datasets.catalogue import open_dataset, open_jsonl
from prep.errors import PrepError


def run(checkpoint, prepared, **settings):
    return evaluate_checkpoint(
        checkpoint, open_dataset(prepared.data, "refcoco"), store=prepared.store, split="val", **settings
    )


def recompute(checkpoint, prepared, threshold):
    """(IoU, intersection, union, point) of every val sentence by ``sent_id``, without the project's
    readers.
    """
    folder = prepared.data / "refer" / "refcoco"
    refs = [r for r in pickle.loads((folder / "refs(unc).p").read_bytes()) if r["split"] == "val"]
    told = json.loads((folder / "instances.json").read_text())
    truths = {a["id"]: coco.decode(a["segmentation"]).astype(bool) for a in told["annotations"]}
    files = {i["id"]: i["file_name"] for i in told["images"]}
    rows = open_store(prepared.store).stage("phrases").reader().read().to_pylist()
    phrases = {r["sent_id"]: r["phrases"] for r in rows}
    model = load_model(checkpoint)
    found = {}
    for ref in refs:
        with Image.open(prepared.data / "train2014" / files[ref["image_id"]]) as image:
            small = np.asarray(image.convert("RGB").resize((48, 48), Image.Resampling.BILINEAR))
        pixels = torch.from_numpy((small / 255 - np.array(MEAN)) / np.array(STD)).float().permute(2, 0, 1)
        for sentence in ref["sentences"]:
            cues = pad_phrases(phrases[sentence["sent_id"]], 3)
            ids = model.tokenizer([sentence["sent"]]), model.tokenizer(cues)[None]
            with torch.no_grad():
                raw = model.responses(pixels[None], *ids)[-1]
            for side in (48, 64):
                raw = F.interpolate(raw, size=(side, side), mode="bilinear", align_corners=False)
            response, truth = raw[0, 0].numpy().astype(np.float64), truths[ref["ann_id"]]
            top = response.max()
            mask = (response / top > threshold) if top > 0 else np.zeros_like(truth)
            shared, union = (mask & truth).sum(), (mask | truth).sum()
            hit = truth[np.unravel_index(response.argmax(), response.shape)]
            found[sentence["sent_id"]] = (shared / union, shared, union, bool(hit))
    return found


@pytest.mark.parametrize("threshold", [1e-9, 0.5])
def test_the_figures_are_those_of_a_plain_recomputation(checkpoint, prepared, threshold):
    report = run(checkpoint, prepared, settings=EvalSettings(threshold=threshold, batch_size=5))
    expected = recompute(checkpoint, prepared, threshold)
    assert {row["sent_id"] for row in report.rows} == set(expected)
    for row in report.rows:
        iou, _, _, hit = expected[row["sent_id"]]
        assert row["iou"] == pytest.approx(iou, abs=0.01)  # a pixel at the threshold may fall on either side
        assert row["point"] == hit
    ious, shareds, unions, hits = zip(*expected.values(), strict=True)
    assert report.metrics.n == len(expected)
    assert report.metrics.miou == pytest.approx(100 * np.mean(ious), abs=0.1)
    assert report.metrics.oiou == pytest.approx(100 * sum(shareds) / sum(unions), abs=0.1)
    assert report.metrics.pointm == pytest.approx(100 * np.mean(hits))


def test_batch_size_and_threads_change_nothing(checkpoint, prepared):
    one = run(checkpoint, prepared, settings=EvalSettings(batch_size=1, threads=0), refine=True)
    other = run(checkpoint, prepared, settings=EvalSettings(batch_size=7, threads=2), refine=True)
    assert one.metrics.pointm == other.metrics.pointm
    assert one.metrics.miou == pytest.approx(other.metrics.miou, abs=0.05)
    assert [row["row_id"] for row in one.rows] == [row["row_id"] for row in other.rows]


def test_refinement_is_bounded_by_the_best_proposal(checkpoint, prepared):
    report = run(checkpoint, prepared, refine=True)
    assert report.metrics.oracle_miou == pytest.approx(100.0)  # the store's proposals are the exact masks
    assert 0 < report.metrics.proposal_miou <= report.metrics.oracle_miou
    for row in report.rows:
        # Objects do not overlap: the proposal under a peak inside the mask is the mask.
        assert (row["proposal_iou"] == 1.0) >= row["point"]
    assert run(checkpoint, prepared).metrics.proposal_miou is None


def test_kinds_of_expression_are_counted_apart(checkpoint, prepared):
    report = run(checkpoint, prepared)
    told = json.loads((prepared.data / "refer" / "refcoco" / "types.json").read_text())
    kinds = [told[str(row["sent_id"])] for row in report.rows]
    for kind in {k["type"] for k in kinds}:
        assert report.groups[kind].n == sum(k["type"] == kind for k in kinds)
    assert sum(report.groups[k].n for k in ("attribute", "position", "relation")) == report.metrics.n


def test_the_first_sentence_of_each_ref_is_the_released_protocol(checkpoint, prepared):
    every, first = run(checkpoint, prepared), run(checkpoint, prepared, sentences="first")
    refs = {row["ref_id"] for row in every.rows}
    assert sorted(row["ref_id"] for row in first.rows) == sorted(refs)
    assert first.metrics.n == len(refs) < every.metrics.n
    lowest = {ref: min(r["sent_id"] for r in every.rows if r["ref_id"] == ref) for ref in refs}
    assert {row["sent_id"] for row in first.rows} == set(lowest.values())


@pytest.mark.parametrize("sentences", ["all", "first"])
def test_a_limit_keeps_the_first_and_counts_the_others(checkpoint, prepared, sentences):
    whole = run(checkpoint, prepared, sentences=sentences)
    some = run(checkpoint, prepared, sentences=sentences, limit=2)
    wanted = list(open_dataset(prepared.data, "refcoco").expressions(["val"]))
    firsts = [one for n, one in enumerate(wanted) if one.ref_id not in {o.ref_id for o in wanted[:n]}]
    order = [one.row_id for one in (wanted if sentences == "all" else firsts)]
    assert {row["row_id"] for row in some.rows} == set(order[:2])
    assert some.skipped == {"beyond --limit": len(order) - 2}
    before = {row["row_id"]: row for row in whole.rows}
    assert all(row["iou"] == pytest.approx(before[row["row_id"]]["iou"], abs=1e-3) for row in some.rows)


def test_files_are_written_as_a_segmentor_reads_them(checkpoint, prepared, tmp_path):
    folders = {"save_cam": tmp_path / "cam", "save_pseudo": tmp_path / "pseudo"}
    report = run(checkpoint, prepared, settings=EvalSettings(**folders), refine=True, out=tmp_path / "out")
    names = {f"{r['image'].split('/')[-1][:-4]}_{r['ref_id']}" for r in report.rows}
    for folder in folders.values():
        assert {path.stem.rsplit("_", 1)[0] for path in folder.iterdir()} == names
        assert len(list(folder.iterdir())) == len(report.rows)
    cam = np.load(next((tmp_path / "cam").iterdir()))
    assert (cam.dtype, cam.shape, cam.min() >= 0, cam.max()) == (np.float32, (64, 64), True, 1.0)
    masks = [np.load(path) for path in (tmp_path / "pseudo").iterdir()]
    assert all(m.dtype == np.uint8 and m.shape == (64, 64) and set(np.unique(m)) <= {0, 1} for m in masks)
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert written["miou"] == report.metrics.miou
    table = pq.read_table(tmp_path / "out" / "samples.parquet").to_pylist()
    assert np.mean([row["point"] for row in table]) * 100 == pytest.approx(report.metrics.pointm)


def test_expressions_without_a_target_are_counted_apart(checkpoint, prepared, tmp_path):
    image = next((prepared.data / "train2014").iterdir()).name
    lines = [
        {"sent": "red circle", "image": image, "mask": [[10, 10, 40, 10, 40, 40]], "ref_id": 1},
        {"sent": "the dragon", "image": image, "mask": [], "ref_id": 2},
        {"sent": "blue one", "image": image, "ref_id": 3},
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, lines)))
    dataset = open_jsonl(tmp_path / "own.jsonl", prepared.data / "train2014")
    store = open_store(tmp_path / "store", create=True)
    with store.stage("phrases").writer({}) as writer:
        rows = [
            {
                **{n: getattr(e, n) for n in ("row_id", "dataset", "split_by", "split", "ref_id", "sent_id")},
                **{"image_id": None, "image": e.image, "expression": e.text, "phrases": [e.text]},
                **{"llm": "rules", "key": "k", "violations": [], "rejected": [], "status": "ok"},
            }
            for e in dataset.expressions()
        ]
        writer.write(pa.Table.from_pylist(rows, schema=PHRASES))
    with store.stage("proposals").writer({}) as writer:
        writer.write(PROPOSALS.empty_table())
    report = evaluate_checkpoint(checkpoint, dataset, store=store.uri, split=None)
    assert report.metrics.n == 1
    assert report.no_target["n"] == 1
    assert sum(report.skipped.values()) == 1
    assert [row["no_target"] for row in report.rows].count(True) == 1


def test_validation_gives_the_same_figures_and_leaves_the_model_training(checkpoint, prepared):
    dataset = open_dataset(prepared.data, "refcoco")
    validate = validator(dataset, store=prepared.store, split="val", size=48)
    model = load_model(checkpoint).train()
    assert validate(model).miou == pytest.approx(run(checkpoint, prepared).metrics.miou)
    assert model.training


def test_a_split_without_phrases_names_the_command(checkpoint, prepared, tmp_path):
    store = open_store(tmp_path / "store", create=True)
    rows = open_store(prepared.store).stage("phrases").reader().read()
    with store.stage("phrases").writer({}) as writer:
        writer.write(rows.slice(0, rows.num_rows // 2))
    with pytest.raises(PrepError, match="pcnet-prep phrases"):
        evaluate_checkpoint(checkpoint, open_dataset(prepared.data, "refcoco"), store=store.uri, split="val")


def test_prms_takes_for_each_ref_the_map_that_agrees_with_all_its_texts(checkpoint, prepared):
    report = run(checkpoint, prepared, settings=EvalSettings(prms=True, batch_size=7))
    model = load_model(checkpoint)
    scored: dict[int, list[tuple[dict, np.ndarray, np.ndarray]]] = {}
    for row in report.rows:
        with Image.open(prepared.data / row["image"]) as image:
            small = np.asarray(image.resize((48, 48), Image.Resampling.BILINEAR))
        pixels = torch.from_numpy((small / 255 - np.array(MEAN)) / np.array(STD)).float().permute(2, 0, 1)
        ids = model.tokenizer([row["expression"]])
        words = row["expression"].split()
        cues = [words[0], row["expression"]] if len(words) > 1 else [row["expression"]]
        with torch.no_grad():
            raw = model.responses(pixels[None], ids, model.tokenizer(pad_phrases(cues, 3))[None])[-1][0, 0]
            grid = model.c4_vis_project(model.backbone.encode_image(pixels[None]))[0]
            asked = model.global_lan_project(model.backbone.encode_text(ids))[0]
        weight = raw.clamp(min=0)
        seen = sum(weight[y, x] * grid[:, y, x] for y, x in np.ndindex(*weight.shape))
        unit = [np.asarray(v / v.norm()) for v in (seen, asked)]
        scored.setdefault(row["ref_id"], []).append((row, *unit))
    ious = []
    for rows in scored.values():
        agreements = [sum(float(seen @ asked) for _, _, asked in rows) for _, seen, _ in rows]
        ious.append(rows[int(np.argmax(agreements))][0]["iou"])
    assert report.prms.n == len(scored)
    assert report.prms.miou == pytest.approx(100 * np.mean(ious), abs=0.5)
    assert run(checkpoint, prepared).prms is None

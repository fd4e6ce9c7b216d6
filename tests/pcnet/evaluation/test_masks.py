"""The kinds of mask in one evaluation: each in the table, and SAM's equal to its official predictor's."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from pcnet.commands.evaluate import _report_lines
from pcnet.commands.masks import kinds_of
from pcnet.evaluation.dataset import EvalSet, Item
from pcnet.evaluation.evaluate import EvalSettings, evaluate_checkpoint
from pcnet.evaluation.masks import StoredMasks
from pcnet.evaluation.predict import predict
from pcnet.model.checkpoint import load_model
from prep.datasets.catalogue import open_dataset
from prep.datasets.truth import Truth
from prep.errors import PrepError
from prep.masks import rle
from prep.proposals.prompt import PointPrompter, inner_point


@pytest.fixture(scope="module")
def sam():
    """A seeded random SAM for images of 64 pixels."""
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=64, patch_size=16, embed_dim=16, depth=1, num_heads=2, out_chans=32,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
    )  # fmt: skip
    prompts = PromptEncoder(32, (4, 4), (64, 64), 16)
    transformer = TwoWayTransformer(depth=1, embedding_dim=32, mlp_dim=32, num_heads=2)
    decoder = MaskDecoder(
        transformer_dim=32, transformer=transformer, iou_head_depth=2, iou_head_hidden_dim=16
    )
    return Sam(encoder, prompts, decoder).eval()


def official(sam, image, point):
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    masks, scores, _ = predictor.predict(np.array([point[::-1]]), np.array([1]))
    return masks[np.argmax(scores)]


def ratio(a, b):
    return (a & b).sum() / (a | b).sum()


def test_every_kind_is_in_one_table_and_sam_is_the_official_one(checkpoint, prepared, sam):
    dataset = open_dataset(prepared.data, "refcoco")
    report = evaluate_checkpoint(
        checkpoint,
        dataset,
        store=prepared.store,
        split="val",
        settings=EvalSettings(masks=("map", "proposal", "sam")),
        prompter=PointPrompter(SamPredictor(sam)),
        oracle=True,
    )
    assert list(report.masks) == ["map", "proposal", "oracle", "sam", "oracle_sam"]
    truth = Truth(dataset)
    targets = {e.row_id: truth.mask(e) for e in dataset.expressions(["val"])}
    for row in report.rows[::5]:
        image = np.asarray(Image.open(prepared.data / row["image"]).convert("RGB"))
        target = targets[row["row_id"]]
        peak = official(sam, image, (row["peak_y"], row["peak_x"]))
        assert row["sam_iou"] == pytest.approx(ratio(peak, target))
        inner = inner_point(target)
        assert target[inner]
        assert row["oracle_sam_iou"] == pytest.approx(ratio(official(sam, image, inner), target))
    for kind, column in (("map", "iou"), ("sam", "sam_iou"), ("proposal", "proposal_iou")):
        ious = np.array([row[column] for row in report.rows])
        assert report.masks[kind].miou == pytest.approx(100 * ious.mean())
        assert report.masks[kind].p70 == pytest.approx(100 * (ious >= 0.7).mean())
    assert report.masks["map"].oiou == pytest.approx(report.metrics.oiou)
    assert report.as_dict()["masks"]["sam"]["n"] == report.metrics.n
    lines = list(_report_lines(report))
    start = next(at for at, line in enumerate(lines) if line.startswith("mask "))
    assert [line[:15].strip() for line in lines[start + 1 : start + 6]] == [
        "map", "proposal", "best proposal", "sam", "SAM at target",
    ]  # fmt: skip


def test_the_last_kind_is_the_mask_that_is_saved(checkpoint, prepared, sam, tmp_path):
    report = evaluate_checkpoint(
        checkpoint,
        open_dataset(prepared.data, "refcoco"),
        store=prepared.store,
        split="val",
        settings=EvalSettings(masks=("proposal", "sam"), save_pseudo=tmp_path),
        prompter=PointPrompter(SamPredictor(sam)),
    )
    areas = sorted(int(np.load(path).sum()) for path in tmp_path.iterdir())
    prompter = PointPrompter(SamPredictor(sam))
    expected = [
        prompter.mask(
            row["image"],
            lambda row=row: np.asarray(Image.open(prepared.data / row["image"]).convert("RGB")),
            row["peak_y"],
            row["peak_x"],
        ).sum()
        for row in report.rows
    ]
    assert areas == sorted(map(int, expected))


def test_a_prediction_takes_sam_at_its_peak(checkpoint, prepared, sam):
    image = next((prepared.data / "train2014").iterdir())
    model = load_model(checkpoint)
    found = predict(
        model, image, "red circle", ["red circle"], size=48, prompter=PointPrompter(SamPredictor(sam))
    )
    pixels = np.asarray(Image.open(image).convert("RGB"))
    np.testing.assert_array_equal(found.mask, official(sam, pixels, found.peak))


def test_kinds_are_named_once_and_unknown_ones_refused():
    assert kinds_of([]) == ("map",)
    assert kinds_of([], refine=True) == ("map", "proposal")
    assert kinds_of(["sam", "map,sam"], refine=True) == ("sam", "map", "proposal")
    with pytest.raises(PrepError, match="'box'"):
        kinds_of(["map,box"])


def test_stored_masks_of_another_size_than_the_image_are_left_out():
    """The image was replaced by another one: what was drawn on the old one says nothing about it."""
    shapes = [(4, 6), (6, 4), (24, 1), (4, 6)]
    coded = [{"size": list(shape), "counts": rle.counts_of(np.ones(shape, bool))} for shape in shapes]
    item = Item("r", 1, 1, 0, "a.png", "the cup", ("the cup",), None, (4, 6))
    masks = StoredMasks(EvalSet(Path(), [item], proposals={"a.png": coded, "b.png": coded[1:2]}))
    found = masks(item)
    assert found is not None
    assert found.shape == (2, 4, 6)
    assert found.all()
    none = masks(replace(item, image="b.png"))
    assert none is not None
    assert none.shape == (0, 4, 6)
    assert StoredMasks(EvalSet(Path(), [item]))(item) is None

"""The fast encoder's algebra against the model's own, and that what it changes is counted and said."""

from __future__ import annotations

import logging
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from segment_anything.build_sam import _build_sam
from segment_anything.modeling import Sam
from torch._dynamo.utils import counters

from prep.errors import PrepError
from prep.masks import rle
from prep.proposals.sam.compiled import Compiled
from prep.proposals.sam.encoder import ExactEncoder, prepared
from prep.proposals.sam.fast_encoder import FastEncoder, _block
from prep.proposals.sam.fidelity import Differences, refuse_wrong_masks
from prep.proposals.sam.generator import SamGenerator
from prep.proposals.sam.settings import SamSettings
from prep.records import Proposal

SETTINGS = SamSettings(
    model="vit_b", fidelity="fast", points_per_side=4, pred_iou_thresh=-100.0, stability_score_thresh=0.0,
    stability_score_offset=0.02, box_nms_thresh=1.0,
)  # fmt: skip


def test_attention_with_marked_keys_is_the_model_s_attention(ragged: Sam) -> None:
    images = [torch.randint(0, 256, (3, height, 128), dtype=torch.uint8) for height in (40, 90, 128)]
    with torch.inference_mode():
        exact = torch.cat(ExactEncoder(ragged, 2)(images))
        fast = FastEncoder(ragged, 2)
        rough = torch.cat(fast(images))
        fast._encoder = ragged.image_encoder  # the same algebra in float32
        same = fast._encode(torch.stack([prepared(ragged, image) for image in images]))
    torch.testing.assert_close(same, exact, atol=2e-5, rtol=1e-5)
    assert 0 < (rough - exact).abs().mean() < 0.005 * exact.abs().mean()


@pytest.mark.slow
def test_blocks_with_the_same_window_share_what_is_compiled() -> None:
    model = _build_sam(
        encoder_embed_dim=32, encoder_depth=4, encoder_num_heads=2, encoder_global_attn_indexes=[1, 3]
    ).eval()
    torch._dynamo.reset()
    counters.clear()
    image = torch.randint(0, 256, (3, 700, 1024), dtype=torch.uint8)
    with torch.inference_mode():
        fast = FastEncoder(model, 1)
        expected = fast([image])[0]
        fast._block = Compiled(_block, "The encoder")
        torch.testing.assert_close(fast([image])[0], expected, atol=0.02, rtol=0.02)
    assert counters["stats"]["unique_graphs"] == 2, "one for windows, one for the whole image"


def test_an_embedding_does_not_depend_on_the_batch(ragged: Sam) -> None:
    images = [torch.randint(0, 256, (3, 90, 128), dtype=torch.uint8) for _ in range(3)]
    with torch.inference_mode():
        fast = FastEncoder(ragged, 2)
        assert torch.equal(torch.cat(fast(images)), torch.cat([fast([image])[0] for image in images]))


def test_fast_is_compared_with_exact_and_says_so(
    ragged: Sam, photo: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    generator = SamGenerator(SETTINGS, load=lambda _: ragged)
    with caplog.at_level(logging.WARNING):
        generator.open()
        found = generator.propose([photo, photo[::-1].copy()])
    assert found[0]
    said = [record.getMessage() for record in caplog.records]
    assert any("close to the reference's, not equal" in line for line in said)
    assert sum("compared with exact" in line for line in said[1:]) == 1, "one image in a hundred, the first"
    compared = generator.report()["compared_with_exact"]
    assert compared["images"] == 1
    assert 0 <= compared["identical"] <= compared["iou_above_0.99"] <= 1


def proposal(mask: np.ndarray, point: float, score: float = 0.9) -> Proposal:
    runs = rle.encode(mask)
    return Proposal(rle.compress(runs), rle.area(runs), (0, 0, 1, 1), score, 0.95, (point, point))


def test_differences_are_counted() -> None:
    square, shifted = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    square[5:25, 5:25] = shifted[9:29, 5:25] = True
    nearly = square.copy()
    nearly[5, 5] = False
    seen = Differences()
    exact = [proposal(square, 1), proposal(square, 2), proposal(square, 3, 0.905), proposal(square, 4, 0.93)]
    other = [proposal(square, 1), proposal(nearly, 2), proposal(shifted, 3)]
    seen.add(exact, other, (40, 40), SamSettings(pred_iou_thresh=0.9, stability_score_thresh=0.9))
    summary = seen.summary()
    assert (summary["identical"], summary["iou_above_0.99"]) == (0.25, 0.5)
    assert summary["images_with_another_count"] == 1
    assert seen.margins == pytest.approx([0.005, 0.03])
    assert "25.0% of 4 masks identical, 50.0% with IoU above 0.99" in str(seen)


@pytest.mark.parametrize(("count", "far", "is_wrong"), [(4, 2, False), (4, 3, True), (3, 3, False)])
def test_most_masks_have_to_be_the_exact_ones(count: int, far: int, is_wrong: bool) -> None:
    square, elsewhere = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    square[5:25, 5:25] = elsewhere[20:40, 20:40] = True
    exact = [proposal(square, n) for n in range(count)]
    fast = [proposal(elsewhere if n < far else square, n) for n in range(1, count)]  # the first is missing
    with pytest.raises(PrepError, match=f"{far} are missing") if is_wrong else nullcontext():
        refuse_wrong_masks(count, Differences().add(exact, fast, (40, 40), SamSettings()))


def test_no_masks_to_compare() -> None:
    seen = Differences()
    seen.add([], [], (4, 4), SamSettings())
    assert seen.summary()["identical"] is None
    assert "without any masks" in str(seen)

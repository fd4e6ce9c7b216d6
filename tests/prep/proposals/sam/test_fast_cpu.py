"""The fast networks of a CPU against the model's own, and what a processor without bfloat16 gets."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from segment_anything.modeling import Sam

from prep.errors import PrepError
from prep.proposals.sam import fast_cpu
from prep.proposals.sam.decoder import Decoder
from prep.proposals.sam.encoder import ExactEncoder, prepared
from prep.proposals.sam.fast_cpu import CpuEncoder, has_bfloat16
from prep.proposals.sam.fast_encoder import encode
from prep.proposals.sam.fidelity import ExactnessStats, lines
from prep.proposals.sam.generator import SamGenerator
from prep.proposals.sam.settings import SamSettings

RAGGED = SamSettings(
    model="vit_b", fidelity="fast", device="cpu", points_per_side=4, pred_iou_thresh=-100.0,
    stability_score_thresh=0.0, stability_score_offset=0.02, box_nms_thresh=1.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def images() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randint(0, 256, (3, height, 128), dtype=torch.uint8) for height in (40, 90, 128)]


def in_float32(model: Sam, images: list[torch.Tensor]) -> torch.Tensor:
    """What the operations of the fast encoder give with the model's own weights."""
    pixels = torch.stack([prepared(model, image) for image in images])
    return encode(model.image_encoder, pixels, fast_cpu._block)


# 64 scores: one query at a time; 640: blocks of ten queries, the last one smaller; 2**20: all at once.
@pytest.mark.parametrize("block", [64, 640, 2**20])
def test_attention_in_blocks_is_the_model_s(
    block: int, ragged: Sam, images: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_cpu, "BLOCK", block)
    with torch.inference_mode():
        exact = torch.cat(ExactEncoder(ragged, 1)(images))
        same = in_float32(ragged, images)
    torch.testing.assert_close(same, exact, atol=2e-5, rtol=1e-5)


def test_without_relative_positions(ragged: Sam, images: list[torch.Tensor]) -> None:
    layers = [block.attn for block in ragged.image_encoder.blocks]
    try:
        for layer in layers:
            layer.use_rel_pos = False
        with torch.inference_mode():
            exact = ExactEncoder(ragged, 1)(images[:1])[0]
            same = in_float32(ragged, images[:1])
    finally:
        for layer in layers:
            layer.use_rel_pos = True
    torch.testing.assert_close(same, exact, atol=2e-5, rtol=1e-5)


def test_bfloat16_products_stay_close_and_leave_the_model_as_it_was(
    ragged: Sam, images: list[torch.Tensor]
) -> None:
    with torch.inference_mode():
        exact = torch.cat(ExactEncoder(ragged, 1)(images))
        rough = torch.cat(CpuEncoder(ragged)(images))
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().mean() < 0.01 * exact.abs().mean()
    assert {weight.dtype for weight in ragged.parameters()} == {torch.float32}


def test_the_decoder_in_bfloat16_stays_close(ragged: Sam) -> None:
    torch.manual_seed(2)
    features = torch.randn((1, ragged.prompt_encoder.embed_dim, 8, 8))
    points = torch.rand((6, 2), dtype=torch.float64) * 128
    with torch.inference_mode():
        exact = Decoder(ragged, 4, 1, trust=True)
        rough = Decoder(ragged, 4, 1, trust=True, low=True)
        expected = exact(features, exact.prompts(points), -1)
        found = rough(features, rough.prompts(points), -1)
    assert found.logits.dtype == found.iou.dtype == torch.float32
    assert torch.equal(found.index, expected.index)
    assert 0 < (found.logits - expected.logits).abs().mean() < 0.02 * expected.logits.abs().mean()
    # In bfloat16 throughout, 0.01: whole steps of the predicted IoUs, by which masks are ranked.
    assert 0 < (found.iou - expected.iou).abs().max() < 0.004 * expected.iou.abs().mean()
    assert {weight.dtype for weight in ragged.parameters()} == {torch.float32}


def generated(model: Sam, photo: np.ndarray, settings: SamSettings) -> tuple[SamGenerator, list]:
    generator = SamGenerator(settings, load=lambda _: model)
    generator.open()
    return generator, generator.propose([photo])[0]


@pytest.mark.parametrize("able", [False, True])
def test_the_networks_follow_the_processor_and_the_manifest_says_so(
    able: bool,
    ragged: Sam,
    photo: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able}, raising=False)
    assert has_bfloat16() is able
    with caplog.at_level(logging.WARNING):
        generator, found = generated(ragged, photo, RAGGED)
    stats = ExactnessStats()
    stats.add(json.loads(json.dumps(generator.pop_stats())))
    assert isinstance(generator._encode, CpuEncoder if able else ExactEncoder)
    said = "matrix products in bfloat16" if able else "torch reports no instructions for bfloat16"
    assert any(said in record.getMessage() for record in caplog.records)
    assert any(said in line for line in lines(stats.figures()))
    assert found
    seen = stats.differences.summary()
    assert seen["masks"] == len(found)
    assert seen["iou_above_0.99"] >= (0.95 if able else 1.0)


@pytest.mark.parametrize("wrong", [lambda x: -100 * x, lambda x: torch.full_like(x, torch.nan)])
def test_a_processor_whose_bfloat16_is_wrong_ends_the_run(
    wrong: Callable[[torch.Tensor], torch.Tensor],
    ragged: Sam,
    photo: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    product = torch.bmm

    def broken(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        right = product(a, b)
        return wrong(right) if right.dtype == torch.bfloat16 else right

    monkeypatch.setattr(torch, "bmm", broken)
    with pytest.raises(PrepError, match=r"fast are wrong on this machine: of the \d+ exact masks") as raised:
        generated(ragged, photo, RAGGED)
    assert raised.value.remedy == "Use --fidelity exact."


def test_exact_says_nothing_of_fast_networks(ragged: Sam, photo: np.ndarray) -> None:
    exact = SamGenerator(replace(RAGGED, fidelity="exact"), load=lambda _: ragged)
    exact.open()
    assert exact._notes() == set()
    assert isinstance(exact._encode, ExactEncoder)


def test_a_torch_that_cannot_tell_is_taken_to_have_no_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert has_bfloat16() is False

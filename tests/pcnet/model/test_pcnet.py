"""The whole network: what it returns, what it trains, and the released code's numbers."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from pcnet.config import ClipSizes, ModelConfig
from pcnet.data.batch import Outputs, upsample
from pcnet.model.pcnet import PCNet
from pcnet.model.stages import COMPREHENSIONS
from pcnet.recipes import RECIPES, model_config, recipe
from pcnet.training.calibration import Calibration
from pcnet.training.objective import step_losses
from prep.errors import PrepError

KINDS = [("none", 1), ("paper", 3), ("plus", 2), ("released", 1), ("released", 4)]
RELEASED_SIZES = ClipSizes(1024, 224, (1, 1, 1, 1), 4, 77, 512, 64, 2)


@pytest.mark.parametrize(("kind", "stages"), KINDS)
@pytest.mark.parametrize("encoder", ["clip", "tiny"])
def test_evaluation_gives_a_map_at_image_size(
    small_model: Any, random_batch: Any, kind: str, stages: int, encoder: str
) -> None:
    model, batch = small_model(kind, stages, encoder).eval(), random_batch()
    with torch.no_grad():
        got = model(batch.images, batch.expression_ids, batch.phrase_ids)
        responses = model.responses(batch.images, batch.expression_ids, batch.phrase_ids)
    assert got.shape == (3, 1, 64, 64)
    assert len(responses) == stages
    torch.testing.assert_close(got, upsample(responses[-1], (64, 64)).relu())
    assert bool((got > 0).any())


@pytest.mark.parametrize(("kind", "stages"), KINDS)
def test_an_image_is_judged_alone(small_model: Any, random_batch: Any, kind: str, stages: int) -> None:
    model, batch = small_model(kind, stages).eval(), random_batch()
    with torch.no_grad():
        together = model(batch.images, batch.expression_ids, batch.phrase_ids)
        alone = [
            model(batch.images[i : i + 1], batch.expression_ids[i : i + 1], batch.phrase_ids[i : i + 1])
            for i in range(3)
        ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("partners", [False, True])
@pytest.mark.parametrize(("kind", "stages"), KINDS)
def test_training_scores_every_image_against_every_text(
    small_model: Any, random_batch: Any, kind: str, stages: int, partners: bool
) -> None:
    model, batch = small_model(kind, stages), random_batch()
    outputs = model(batch.images, **batch.texts(partners))
    assert isinstance(outputs, Outputs)
    alone = COMPREHENSIONS[kind].independent  # other images' partners are not scored
    texts = (4 if alone else 6) if partners else 3
    assert [tuple(one.shape) for one in outputs.logits] == [(3, texts, 2, 2)] * stages
    assert outputs.expressions == 3
    for i in range(3):
        torch.testing.assert_close(outputs.maps(0)[i, 0], outputs.logits[0][i, i])
        if partners:
            column = 3 if alone else 3 + i
            torch.testing.assert_close(outputs.partner_maps(0)[i, 0], outputs.logits[0][i, column])
    if not partners:
        with pytest.raises(ValueError, match="no partner"):
            outputs.partner_maps(0)


@pytest.mark.parametrize(("kind", "stages"), KINDS)
def test_every_parameter_of_a_group_gets_a_gradient(
    small_model: Any, random_batch: Any, kind: str, stages: int
) -> None:
    model, batch = small_model(kind, stages, "tiny"), random_batch()
    outputs = model(batch.images, **batch.texts(kind == "released"))
    sum(one.square().sum() for one in outputs.logits).backward()
    backbone, new = model.parameter_groups()
    grouped = {id(p) for p in (*backbone, *new)}
    assert len(grouped) == len(backbone) + len(new)
    for name, parameter in model.named_parameters():
        if id(parameter) in grouped:
            assert parameter.grad is not None, name
    assert all(p.requires_grad for p in (*backbone, *new))
    assert (id(model.logit_scale) in grouped) == (kind != "released")


@pytest.mark.parametrize("name", ["paper", "released", "plus"])
def test_a_step_in_bfloat16_is_close_to_one_in_float32(
    small_model: Any, random_batch: Any, name: str
) -> None:
    chosen = recipe(name, {"iad": 1.0, "cbs": 0.0})
    model, batch, totals = small_model(name, 3, "tiny"), random_batch(), []
    for half in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            outputs = model(batch.images, **batch.texts(True, chosen.needs_opposites))
            totals.append(step_losses(chosen, outputs, batch)["total"])
        assert all(one.dtype == torch.float32 for one in outputs.logits)
        totals[-1].backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    assert float(totals[1]) == pytest.approx(float(totals[0]), rel=0.05)


@pytest.mark.parametrize(("partners", "opposites"), [(True, True), (True, False), (False, True)])
def test_every_text_has_its_column(
    small_model: Any, random_batch: Any, partners: bool, opposites: bool
) -> None:
    """An image answers its own, its partner's and its turned text as it answers each alone."""
    model, batch = small_model("none", 1, "tiny"), random_batch()
    outputs = model(batch.images, **batch.texts(partners, opposites))
    alone = model(batch.images, batch.expression_ids, batch.phrase_ids)
    assert outputs.expressions == 3
    torch.testing.assert_close(outputs.logits[0][:, :3], alone.logits[0], rtol=1e-4, atol=1e-4)
    for there, ids, maps in (
        (partners, batch.partner_expression_ids, outputs.partner_maps),
        (opposites, batch.opposite_expression_ids, outputs.opposite_maps),
    ):
        if there:
            wanted = model(batch.images, ids, batch.phrase_ids).maps(0)
            torch.testing.assert_close(maps(0), wanted, rtol=1e-4, atol=1e-4)
        else:
            with pytest.raises(ValueError, match="outputs have no"):
                maps(0)


def test_too_few_phrases_are_refused(small_model: Any, random_batch: Any) -> None:
    model, batch = small_model("paper", 3).eval(), random_batch()
    with pytest.raises(ValueError, match="3 stages read 3 phrases, got 2"):
        model(batch.images, batch.expression_ids, batch.phrase_ids[:, :2])


def test_stages_out_of_range_are_refused() -> None:
    with pytest.raises(PrepError, match="1 to 4"):
        ModelConfig("tiny", "paper", 5)
    with pytest.raises(PrepError, match="one stage"):
        ModelConfig("tiny", "none", 2)


@pytest.mark.slow
def test_no_part_of_plus_depends_on_the_tiny_encoder(random_batch: Any) -> None:
    """A step of it, every loss on, through RN50 at the paper's 320 pixels."""
    torch.manual_seed(0)
    chosen = recipe("plus", {"iad": 1.0, "ras": 1.0})
    assert chosen.weights.opp
    assert chosen.weights.ins
    model, batch = PCNet(model_config(chosen, "RN50"), chosen), random_batch(size=2, side=320)
    outputs = model(batch.images, **batch.texts(chosen.needs_partners, chosen.needs_opposites))
    # Both expressions, and the image's own partner and swapped text.
    assert outputs.logits[0].shape == (2, 4, 10, 10)
    values = step_losses(chosen, outputs, batch)
    values["total"].backward()
    assert all(bool(value.isfinite()) for value in values.values())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_evaluation_matches_the_released_code(released: Any, deviation: Any) -> None:
    state, given = released.under("state/"), released.under("input/")
    for stages in (1, 2, 3, 4):
        model = PCNet(ModelConfig("clip", "released", stages, 32, 0.1, clip=RELEASED_SIZES)).eval()
        model.load_state_dict(state)
        with torch.no_grad():
            got = model(given["img"], given["word_ids"], given["eval_llm_word_ids"])
            raw = model.responses(given["img"], given["word_ids"], given["eval_llm_word_ids"])[-1]
        assert deviation(got, released[f"eval/K{stages}/response"]) <= 1e-5
        assert deviation(upsample(raw, (160, 160)).sigmoid(), released[f"eval/K{stages}/sigmoid"]) <= 1e-5


@pytest.mark.parametrize("stages", [1, 3])
def test_training_matches_the_released_code(released: Any, deviation: Any, stages: int) -> None:
    here = f"train/K{stages}/"
    model = PCNet(ModelConfig("clip", "released", stages, 32, 0.1, clip=RELEASED_SIZES))
    model.load_state_dict(released.under("state/"))
    batch, pair = released.batch(), int(released[here + "pair"])
    # The pair is a function of the step: take a step that draws the one that the released run drew.
    step = next(s for s in range(99) if pair < 0 or random.Random(s).randrange(stages - 1) == pair)
    chosen = RECIPES["released"].override({"cls": 5, "cbs": 2, "ras": 1, "anchor": 1, "iad": 1})
    values = step_losses(
        chosen, model(batch.images, **batch.texts(True)), batch, step=step, calibration=_calibration(released)
    )
    names = {"cls": "cls", "cbs": "cbs", "ras": "shrink", "anchor": "anchor", "iad": "diversify"}
    for ours, theirs in names.items():
        assert deviation(values[ours], released[here + theirs]) <= 1e-5, ours
    assert "fg" not in values  # the released run has it switched off, and reports 0
    assert released[here + "fg"] == 0
    values["total"].backward()
    parameters = dict(model.named_parameters())
    for name, gradient in released.under(here + "grad/").items():
        assert deviation(parameters[name].grad, gradient) <= 1e-5, name


def _calibration(released: Any) -> Calibration:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    clip = CLIP(
        48,
        CLIPVisionCfg(layers=1, width=64, patch_size=32, image_size=224),
        CLIPTextCfg(77, 512, width=64, heads=1, layers=1),
        quick_gelu=True,
    )
    clip.load_state_dict(released.under("vit_state/"))
    return Calibration(clip.eval().requires_grad_(False))

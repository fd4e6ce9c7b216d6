"""The recipes by name: what each weighs, what it needs, and that single weights can be set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from pcnet import losses
from pcnet.config import LossWeights, ModelConfig, Recipe
from pcnet.maps import inside_union, normalised, on_grid
from pcnet.recipes import RECIPES, model_config, recipe
from pcnet.training.calibration import Calibration
from pcnet.training.objective import step_losses
from prep.errors import PrepError


class FakeClip(nn.Module):
    """Stands in for the calibrating CLIP where its answers do not matter: colour means, one token each."""

    def __init__(self) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(64, 8)
        self.positional_embedding = nn.Parameter(torch.zeros(16, 8))
        self.transformer = _Same()
        self.ln_final = nn.Identity()
        self.text_projection = nn.Parameter(torch.eye(8, 3))

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((-2, -1))


class _Same(nn.Module):
    def forward(self, x: torch.Tensor, attn_mask: torch.Tensor) -> torch.Tensor:
        return x


def outputs_of(small_model: Any, random_batch: Any, chosen: Recipe) -> Any:
    batch = random_batch()
    model = small_model(chosen.comprehension, chosen.stages, "tiny")
    return model(batch.images, **batch.texts(chosen.needs_partners, chosen.needs_opposites)), batch


@pytest.mark.parametrize(
    ("name", "parts"),
    [("paper", {"cls", "ras", "iad"}), ("released", {"cls", "cbs"}), ("plus", {"cls", "opp", "ins"})],
)
def test_each_recipe_weighs_its_losses(
    small_model: Any, random_batch: Any, name: str, parts: set[str]
) -> None:
    chosen = RECIPES[name]
    outputs, batch = outputs_of(small_model, random_batch, chosen)
    values = step_losses(chosen, outputs, batch, calibration=Calibration(FakeClip()))
    assert values.keys() == parts | {"total"}
    total = sum(getattr(chosen.weights, part) * float(values[part]) for part in parts)
    assert float(values["total"]) == pytest.approx(total, rel=1e-5)
    values["total"].backward()


def test_the_paper_weighs_three_losses_once() -> None:
    assert RECIPES["paper"].weights == LossWeights(cls=1, ras=1, iad=1, anchor=0, fg=0, cbs=0, opp=0, ins=0)


def test_the_released_defaults_train_neither_new_loss() -> None:
    weights = RECIPES["released"].weights
    assert (weights.cls, weights.cbs) == (5, 2)
    assert weights.ras == weights.iad == weights.anchor == 0


def test_any_weight_can_be_set(small_model: Any, random_batch: Any) -> None:
    every = {
        "cls": 0.5,
        "ras": 2.0,
        "iad": 3.0,
        "anchor": 0.25,
        "fg": 0.1,
        "cbs": 0.2,
        "opp": 0.3,
        "ins": 0.4,
    }
    for name in RECIPES:
        chosen = recipe(name, every)
        outputs, batch = outputs_of(small_model, random_batch, chosen)
        values = step_losses(chosen, outputs, batch, calibration=Calibration(FakeClip()))
        assert values.keys() == every.keys() | {"total"}
        total = sum(every[part] * float(values[part]) for part in every)
        assert float(values["total"]) == pytest.approx(total, rel=1e-5)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(PrepError, match="recipe 'best'"):
        recipe("best")
    with pytest.raises(PrepError, match="weight 'rsa'"):
        recipe("paper", {"rsa": 1.0})
    with pytest.raises(PrepError, match="recipe setting 'stage'"):
        recipe("paper", stage=2)
    with pytest.raises(PrepError, match="Unknown iad 'kl'"):
        recipe("paper", iad="kl")


def test_stage_losses_are_means_over_the_stages(small_model: Any, random_batch: Any) -> None:
    chosen = recipe("plus", {"iad": 1.0})
    outputs, batch = outputs_of(small_model, random_batch, chosen)
    values = step_losses(chosen, outputs, batch)
    inside = inside_union(batch.grid, (16, 16), chosen.edge)
    each = [losses.classification(one[:, :3], torch.arange(3), inside) for one in outputs.logits]
    assert float(values["cls"]) == pytest.approx(float(torch.stack(each).mean()), rel=1e-6)
    soft = [
        losses.iad_soft(
            outputs.maps(k), outputs.partner_maps(k), batch.grid, batch.same_image, temperature=10.0
        )
        for k in range(3)
    ]
    assert float(values["iad"]) == pytest.approx(float(torch.stack(soft).mean()), rel=1e-6)


def test_segmented_background_is_no_place_for_a_peak(small_model: Any, random_batch: Any) -> None:
    """As if the generator had left the background out: a peak in it costs the same."""
    chosen = recipe("plus")
    outputs, batch = outputs_of(small_model, random_batch, chosen)
    grid = torch.zeros(3, 2, 32, 32)
    grid[:, 0, 8:14, 8:14] = 1
    grid[:, 1] = 1 - grid[:, 0]
    with_background = step_losses(chosen, outputs, replace(batch, grid=grid))
    without = step_losses(chosen, outputs, replace(batch, grid=grid[:, :1]))
    assert with_background["ins"] == without["ins"] > 0


def test_one_stage_has_no_ras(small_model: Any, random_batch: Any) -> None:
    for chosen in (recipe("paper", stages=1), recipe("paper", comprehension="none", stages=1)):
        outputs, batch = outputs_of(small_model, random_batch, chosen)
        assert step_losses(chosen, outputs, batch)["ras"] == 0


def test_the_released_pair_is_a_function_of_the_step(small_model: Any, random_batch: Any) -> None:
    chosen = recipe("released", {"ras": 1.0, "cbs": 0.0})
    outputs, batch = outputs_of(small_model, random_batch, chosen)
    drawn = [float(step_losses(chosen, outputs, batch, step=step)["ras"]) for step in range(20)]
    assert drawn == [float(step_losses(chosen, outputs, batch, step=step)["ras"]) for step in range(20)]
    assert len(set(drawn)) == 2


def test_what_is_missing_is_named(small_model: Any, random_batch: Any) -> None:
    chosen = recipe("released", {"ras": 1.0, "iad": 1.0})
    outputs, batch = outputs_of(small_model, random_batch, chosen)
    clip = Calibration(FakeClip())
    with pytest.raises(PrepError, match="no scores"):
        step_losses(chosen, outputs, replace(batch, clip_scores=None), calibration=clip)
    with pytest.raises(PrepError, match="no partners"):
        step_losses(chosen, outputs, replace(batch, same_image=None), calibration=clip)
    turned = recipe("plus", {"opp": 1.0})
    with pytest.raises(PrepError, match="no swapped texts"):
        step_losses(turned, outputs, replace(batch, has_opposite=None))
    with pytest.raises(PrepError, match="no swapped texts"):
        step_losses(turned, outputs, batch)
    with pytest.raises(PrepError, match="texts of other targets"):
        step_losses(chosen, outputs, replace(batch, negative_ids=None), calibration=clip)
    with pytest.raises(PrepError, match="ViT-B/32"):
        step_losses(chosen, outputs, batch)


def test_the_tiny_encoder_cannot_ask_clip() -> None:
    with pytest.raises(PrepError, match="not CLIP's tokens"):
        model_config(RECIPES["released"], "tiny", vocabulary=9)
    assert model_config(RECIPES["released"], "RN101").hidden == 1024


def test_needs() -> None:
    assert RECIPES["paper"].needs_partners
    assert not RECIPES["plus"].needs_partners
    assert recipe("plus", {"iad": 0.1}).needs_partners
    assert RECIPES["plus"].needs_opposites
    assert not recipe("plus", {"opp": 0.0}).needs_opposites
    assert not RECIPES["paper"].needs_opposites
    # Even without IaD the released text attention has the partners' cues among its keys.
    assert RECIPES["released"].needs_partners
    assert RECIPES["released"].needs_clip
    assert not RECIPES["released"].needs_clip_scores
    assert recipe("released", {"anchor": 1.0}).needs_clip_scores
    assert not recipe("released", {"cbs": 0.0}).needs_clip


def test_settings_survive_a_checkpoint() -> None:
    for name in RECIPES:
        chosen = recipe(name, {"ras": 0.3, "cbs": 0.0}, stages=2)
        assert Recipe.from_dict(chosen.as_dict()) == chosen
        config = model_config(chosen, "tiny", vocabulary=9)
        assert ModelConfig.from_dict(config.as_dict()) == config
    for kind, stored in ((Recipe, chosen), (ModelConfig, config)):  # as version 0.1.0 stored them
        assert kind.from_dict({**stored.as_dict(), "relative": False}) == stored
        with pytest.raises(PrepError, match=r"The setting relative .* was removed"):
            kind.from_dict({**stored.as_dict(), "relative": True})
    with pytest.raises(PrepError, match="setting novelty"):
        Recipe.from_dict({**RECIPES["plus"].as_dict(), "novelty": 1})


def test_maps_by_hand() -> None:
    response = torch.tensor([[[[4.0, -1.0], [2.0, 0.0]]], [[[-1.0, -2.0], [-3.0, 0.0]]]])
    assert normalised(response)[0].flatten().tolist() == [1.0, 0.0, 0.5, 0.0]
    assert not normalised(response)[1].any()
    assert on_grid(response, torch.zeros(2, 5, 8, 8)).shape == (2, 1, 8, 8)
    grid = torch.zeros(2, 3, 4, 4)
    grid[0, 1, 0, 3] = 1
    assert inside_union(grid, (2, 2))[0, 0].tolist() == [[False, True], [False, False]]
    assert inside_union(grid, (2, 2))[1].all()

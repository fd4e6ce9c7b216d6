"""Defines the named recipes (``paper``, ``released``, ``plus``) and computes the losses of a step
under one.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from pcnet import losses
from pcnet.config import LossWeights, ModelConfig, Recipe
from pcnet.data.batch import Batch, Outputs, upsample
from pcnet.maps import inside_union
from pcnet.training.calibration import Calibration
from prep.errors import PrepError

RECIPES = {
    # The paper's equations, every loss with weight 1. The paper has no factor for the residuals; 0.1 is from
    # the released code.
    "paper": Recipe(),
    # The released code's operations and default weights, with which RaS (w2), IaD (div_loc) and the anchor
    # loss (w3) are not trained. Its foreground calibration has weight 1 but is multiplied by 0 unless
    # enabled: --weight fg=1 enables it. Its default of one stage would not read any phrase; three is the
    # paper's number.
    "released": Recipe(
        name="released",
        comprehension="released",
        ras="released",
        iad="released",
        released_tokens=True,
        weights=LossWeights(cls=5.0, ras=0.0, iad=0.0, anchor=0.0, fg=0.0, cbs=2.0),
    ),
    # Ours: cumulative cues, progressive gate, maximum and peak inside the union of the proposals that are not
    # background (those along the image border), and swapped directions. RaS and IaD are not used, nor is the
    # cue's attention to the image (gain 0), with which training from scratch was slower.
    "plus": Recipe(
        name="plus",
        comprehension="plus",
        gain=0.0,
        ras="previous",
        iad="soft",
        pooling="union",
        edge=0.05,
        weights=LossWeights(ras=0.0, iad=0.0, opp=0.1, ins=0.1),
    ),
}


class Pairs(NamedTuple):
    """Mean number of samples per process with a partner in their image, and with swapped directions, when
    several processes share a step; None for the numbers of this batch.
    """

    same_image: float | None = None
    opposite: float | None = None


ALONE = Pairs()


def recipe(name: str, weights: dict[str, float] | None = None, **changes: object) -> Recipe:
    """The named recipe with some weights and settings replaced; unknown names raise PrepError."""
    if name not in RECIPES:
        raise PrepError(f"Unknown recipe {name!r}.", f"Choose one of: {', '.join(RECIPES)}.")
    return RECIPES[name].override(weights, **changes)


def model_config(recipe: Recipe, encoder: str, vocabulary: int = 0) -> ModelConfig:
    """The network that ``recipe`` trains with ``encoder``; CLIP's features are projected to 1024 channels."""
    if encoder == "tiny" and recipe.needs_clip:
        raise PrepError(
            f"The recipe {recipe.name} uses CLIP, and the tiny encoder's word ids are not CLIP's tokens.",
            "Set --weight cbs=0 --weight fg=0, or use a CLIP encoder.",
        )
    return ModelConfig(
        encoder=encoder,
        comprehension=recipe.comprehension,
        stages=recipe.stages,
        hidden=64 if encoder == "tiny" else 1024,
        gain=recipe.gain,
        vocabulary=vocabulary,
    )


def step_losses(
    recipe: Recipe,
    outputs: Outputs,
    batch: Batch,
    *,
    step: int = 0,
    calibration: Calibration | None = None,
    pairs: Pairs = ALONE,
) -> dict[str, Tensor]:
    """The losses with a weight in ``recipe``, each averaged over its stages, and their weighted sum as
    ``total``.

    ``step`` seeds the stage pair of the released RaS, so that a resumed run draws the same one;
    ``calibration`` is required if ``recipe.needs_clip``; ``pairs`` is the divisor of a step of several
    processes.
    """
    weights = recipe.weights
    parts: dict[str, Tensor] = {}
    if weights.cls:
        parts["cls"] = _classification(recipe, outputs, batch)
    if (weights.ras and recipe.ras == "released") or weights.anchor:
        parts |= _released_overlaps(recipe, outputs, batch, step)
    if weights.ras and recipe.ras != "released":
        maps = [outputs.maps(stage) for stage in range(len(outputs.logits))]
        parts["ras"] = losses.ras(maps, batch.grid, "own" if recipe.ras == "paper" else "previous")
    if weights.iad:
        parts["iad"] = _iad(recipe, outputs, batch, pairs.same_image)
    if weights.ins:
        parts["ins"] = _peaks_inside(recipe, outputs, batch)
    if weights.opp:
        parts["opp"] = _opposites(recipe, outputs, batch, pairs.opposite)
    if recipe.needs_clip:
        parts |= _calibrations(recipe, outputs, batch, calibration)
    terms = [getattr(weights, name) * value for name, value in parts.items() if getattr(weights, name)]
    parts["total"] = torch.stack(terms).sum()
    return parts


def _classification(recipe: Recipe, outputs: Outputs, batch: Batch) -> Tensor:
    """TRIS' loss at every stage, against the batch's expressions (partners and swapped texts are not
    classes).
    """
    logits = outputs.logits
    texts = outputs.expressions
    inside = _inside(recipe, outputs, batch)
    return torch.stack([losses.classification(one[:, :texts], outputs.own, inside) for one in logits]).mean()


def _inside(recipe: Recipe, outputs: Outputs, batch: Batch) -> Tensor | None:
    """(B,1,h,w) bool: where a peak may lie; None for everywhere."""
    if recipe.pooling == "all":
        return None
    height, width = outputs.logits[0].shape[2:]
    return inside_union(batch.grid, (height, width), recipe.edge)


def _released_overlaps(recipe: Recipe, outputs: Outputs, batch: Batch, step: int) -> dict[str, Tensor]:
    if batch.clip_scores is None:
        raise PrepError(
            f"The recipe {recipe.name} ranks proposals by CLIP, and the batch has no scores.",
            "Run pcnet-prep score first, or set --weight ras=0 --weight anchor=0.",
        )
    overlaps = [
        losses.released_overlap(_image_maps(outputs, stage).relu(), batch.grid, batch.clip_scores)
        for stage in range(len(outputs.logits))
    ]
    left, right = zip(*overlaps, strict=True)
    parts = {"anchor": losses.anchor(left)} if recipe.weights.anchor else {}
    if recipe.weights.ras and recipe.ras == "released":
        pair = Random(step).randrange(max(1, len(right) - 1))
        parts["ras"] = losses.released_ras(right, pair)
    return parts


def _iad(recipe: Recipe, outputs: Outputs, batch: Batch, pairs: float | None) -> Tensor:
    if batch.same_image is None or outputs.partner is None:
        raise PrepError(
            f"The recipe {recipe.name} compares expressions of one image, and the batch has no partners.",
            "Set --weight iad=0, or draw partners.",
        )
    stages = []
    for stage in range(len(outputs.logits)):
        if recipe.iad == "released":
            own, other = _image_maps(outputs, stage).relu(), _image_maps(outputs, stage, partner=True).relu()
            stages.append(losses.released_iad(own, other, batch.grid, batch.same_image, pairs=pairs))
            continue
        own, other = outputs.maps(stage), outputs.partner_maps(stage)
        if recipe.iad == "soft":
            value = losses.iad_soft(
                own, other, batch.grid, batch.same_image, temperature=recipe.temperature, pairs=pairs
            )
        else:
            value = losses.iad(own, other, batch.grid, batch.same_image, pairs=pairs)
        stages.append(value)
    return torch.stack(stages).mean()


def _peaks_inside(recipe: Recipe, outputs: Outputs, batch: Batch) -> Tensor:
    height, width = outputs.logits[0].shape[2:]
    objects = inside_union(batch.grid, (height, width), recipe.edge)
    # Background that the generator segmented counts as inside here, so this loss ignores it.
    anything = inside_union(batch.grid, (height, width))
    stages = [losses.inside(outputs.maps(stage), objects, anything) for stage in range(len(outputs.logits))]
    return torch.stack(stages).mean()


def _opposites(recipe: Recipe, outputs: Outputs, batch: Batch, pairs: float | None) -> Tensor:
    if batch.has_opposite is None or outputs.opposite is None:
        raise PrepError(
            f"The recipe {recipe.name} swaps directions, and the batch has no swapped texts.",
            "Set --weight opp=0.",
        )
    inside, mask = _inside(recipe, outputs, batch), batch.has_opposite
    stages = [
        losses.direction_contrast(
            outputs.maps(stage), outputs.opposite_maps(stage), mask, inside, pairs=pairs
        )
        for stage in range(len(outputs.logits))
    ]
    return torch.stack(stages).mean()


def _calibrations(
    recipe: Recipe, outputs: Outputs, batch: Batch, calibration: Calibration | None
) -> dict[str, Tensor]:
    if calibration is None:
        raise PrepError(
            f"The recipe {recipe.name} scores its maps with CLIP ViT-B/32, which is not loaded.",
            "Use a CLIP encoder with its weights, or set --weight cbs=0 --weight fg=0.",
        )
    parts: dict[str, list[Tensor]] = {"fg": [], "cbs": []}
    last = len(outputs.logits) - 1
    for stage in range(last + 1):
        seen = calibration.look(batch.images, _image_maps(outputs, stage))
        if recipe.weights.fg:
            text = batch.expression_ids if stage == last else batch.phrase_ids[:, stage]
            parts["fg"].append(losses.calibration_foreground(calibration.agreement(seen, text.unsqueeze(1))))
        if recipe.weights.cbs:
            if batch.negative_ids is None:
                raise PrepError(
                    f"The recipe {recipe.name} needs texts of other targets, and the batch has none.",
                    "Draw at least one negative per sample, or set --weight cbs=0.",
                )
            parts["cbs"].append(losses.calibration_negatives(calibration.agreement(seen, batch.negative_ids)))
    return {name: torch.stack(values).mean() for name, values in parts.items() if values}


def _image_maps(outputs: Outputs, stage: int, partner: bool = False) -> Tensor:
    """(B,1,H,W) raw responses at image size, as the released losses use them."""
    maps = outputs.partner_maps(stage) if partner else outputs.maps(stage)
    return upsample(maps, outputs.image_size)

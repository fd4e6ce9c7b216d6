"""Computes the losses of one training step under a recipe."""

from __future__ import annotations

import math
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from pcnet import losses
from pcnet.config import Recipe
from pcnet.data.batch import Batch, Outputs, upsample
from pcnet.maps import inside_union, without_background
from pcnet.training.calibration import Calibration
from pcnet.training.distributed import Ranks
from prep.errors import PrepError


class Pairs(NamedTuple):
    """Mean number of samples per process with a partner in their image, and with swapped directions, when
    several processes share a step; None for the numbers of this batch.
    """

    same_image: float | None = None
    opposite: float | None = None


ALONE = Pairs()


def pairs_of(batch: Batch, ranks: Ranks) -> Pairs:
    """The divisors of the losses over a subset of a step's samples, equal in every process."""
    if ranks.size == 1:
        return ALONE
    masks = {"same_image": batch.same_image, "opposite": batch.has_opposite}
    own = {name: float(mask.sum()) for name, mask in masks.items() if mask is not None}
    return Pairs(**ranks.mean(own))


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
    size = outputs.logits[0].shape[2], outputs.logits[0].shape[3]
    # Used by up to three losses, so it is computed once: (B,1,h,w) bool, the objects' positions.
    objects = inside_union(batch.grid, size, recipe.edge) if weights.ins or recipe.pooling != "all" else None
    inside = None if recipe.pooling == "all" else objects
    parts: dict[str, Tensor] = {}
    if weights.cls:
        parts["cls"] = _classification(outputs, inside)
    if (weights.ras and recipe.ras == "released") or weights.anchor:
        parts |= _released_overlaps(recipe, outputs, batch, step)
    if weights.ras and recipe.ras != "released":
        maps = [outputs.maps(stage) for stage in range(len(outputs.logits))]
        parts["ras"] = losses.ras(maps, batch.grid, "own" if recipe.ras == "paper" else "previous")
    if weights.iad:
        parts["iad"] = _iad(recipe, outputs, batch, pairs.same_image)
    if weights.ins and objects is not None:
        parts["ins"] = _peaks_inside(outputs, objects, inside_union(without_background(batch.grid), size))
    if weights.opp:
        parts["opp"] = _direction_contrast(recipe, outputs, batch, inside, pairs.opposite)
    if recipe.needs_clip:
        parts |= _calibrations(recipe, outputs, batch, calibration)
    terms = [getattr(weights, name) * value for name, value in parts.items() if getattr(weights, name)]
    parts["total"] = torch.stack(terms).sum()
    return parts


def _classification(outputs: Outputs, inside: Tensor | None) -> Tensor:
    """TRIS' loss at every stage, against the batch's expressions (partners and swapped texts are not
    classes). ``inside`` is where a maximum may lie; None for everywhere.
    """
    logits = outputs.logits
    texts = outputs.expressions
    return torch.stack([losses.classification(one[:, :texts], outputs.own, inside) for one in logits]).mean()


def _released_overlaps(recipe: Recipe, outputs: Outputs, batch: Batch, step: int) -> dict[str, Tensor]:
    if batch.clip_scores is None:
        raise PrepError(
            f"The recipe {recipe.name} ranks proposals by CLIP, and the batch has no scores.",
            "Run `pcnet-prep score` first, or set --weight ras=0 --weight anchor=0.",
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


def _peaks_inside(outputs: Outputs, objects: Tensor, proposals: Tensor) -> Tensor:
    """``proposals`` is where any proposal is that is not background: what is neither an object's nor another
    proposal's is outside. A peak in segmented background would otherwise cost nothing (docs/learning.md).
    """
    stages = [losses.inside(outputs.maps(stage), objects, proposals) for stage in range(len(outputs.logits))]
    return torch.stack(stages).mean()


def _direction_contrast(
    recipe: Recipe, outputs: Outputs, batch: Batch, inside: Tensor | None, pairs: float | None
) -> Tensor:
    if batch.has_opposite is None or outputs.opposite is None:
        raise PrepError(
            f"The recipe {recipe.name} swaps directions, and the batch has no swapped texts.",
            "Set --weight opp=0.",
        )
    mask = batch.has_opposite
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


def not_a_number(step: int, losses: dict[str, float], row_ids: tuple[str, ...]) -> PrepError:
    """The error of a step (from 0) with a loss that is not finite."""
    bad = ", ".join(f"{name} = {value}" for name, value in losses.items() if not math.isfinite(value))
    return PrepError(
        f"Step {step + 1}: the loss is not finite ({bad}); rows of the batch: {', '.join(row_ids)}.",
        "Lower --lr, or check these rows; the last checkpoint is from before this step.",
    )

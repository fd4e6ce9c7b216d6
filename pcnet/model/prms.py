"""Chooses one response map per object among those of its expressions (PRMS), without ground truth."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pcnet.maps import normalised
from pcnet.model.pcnet import PCNet


def features(model: PCNet, images: Tensor, expression_ids: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Image features under each map, and text features: unit vectors (B, C) and (B, C).

    ``images`` (B, 3, H, W) normalised, ``expression_ids`` (B, L), ``maps`` (B, 1, h, w) raw responses. The
    first is the mean of the visual features weighted by the normalised map. The released code scores the
    masked image with a second network (CLIP ViT-B/32); this uses the model's own encoders, so that no other
    weights are needed.
    """
    asked = F.normalize(model.textual(expression_ids).float(), dim=-1)
    return under_maps(model.visual(images), maps), asked


def under_maps(visual: Tensor, maps: Tensor) -> Tensor:
    """(B, C, h, w) visual features and (B, 1, h', w') raw responses -> unit vectors (B, C): the mean of the
    features weighted by the normalised map at their resolution.
    """
    if maps.shape[-2:] != visual.shape[-2:]:  # a student's maps are finer than its features
        maps = F.adaptive_avg_pool2d(maps, (visual.shape[-2], visual.shape[-1]))
    weights = normalised(maps)
    seen = (visual * weights).sum((-2, -1)) / weights.sum((-2, -1)).clamp(min=1e-6)
    return F.normalize(seen.float(), dim=-1)


def choose(
    objects: Sequence[Hashable], seen: NDArray[np.floating], asked: NDArray[np.floating]
) -> dict[Hashable, int]:
    """For each object the index of its chosen map: the one most similar to all the object's expressions.

    ``objects`` (N) is each row's object, ``seen`` and ``asked`` (N, C) are :func:`features`. The score of map
    i is the sum over the object's expressions j of the cosine of seen_i and asked_j; the first of equal maps
    wins.
    """
    rows: dict[Hashable, list[int]] = {}
    for row, name in enumerate(objects):
        rows.setdefault(name, []).append(row)
    return {name: own[int(np.argmax(seen[own] @ asked[own].sum(axis=0)))] for name, own in rows.items()}


def as_arrays(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Batches of :func:`features` as two arrays (N, C)."""
    seen, asked = (torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True))
    return seen, asked

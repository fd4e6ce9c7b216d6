"""Defines the input and output tensors of a training step, with their shapes.

Legend: B images in the step, L tokens per text, P phrases per expression, M proposals per image (zero
padded), T texts that every image is scored against, K stages, h x w the grid of the response map.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass
class Batch:
    """The samples of one training step; a field that the recipe does not use may be ``None``.

    ``images`` (B,3,H,W) float32, normalised; ``expression_ids`` (B,L) and ``phrase_ids`` (B,P,L) int64;
    ``partner_*`` the same for another expression of the same image where ``same_image`` (B,) is true
    (elsewhere any other text); ``grid`` (B,M,32,32) float32 0/1 proposals, with all-zero rows as padding;
    ``opposite_*`` the expression and its phrases with their directions swapped, if they have any
    (``has_opposite`` (B,)); ``negative_ids`` (B,n,L) texts that do not describe the image's target;
    ``clip_scores`` (B,M) the similarity of each proposal to the expression; ``target`` (B,2,h,w) float32 the
    share of each cell that a student's masks of expression and partner shall cover, and ``weight`` (B,2) that
    of each in its loss; ``row_ids`` names the samples for messages.
    """

    images: Tensor
    expression_ids: Tensor
    phrase_ids: Tensor
    grid: Tensor
    partner_expression_ids: Tensor | None = None
    partner_phrase_ids: Tensor | None = None
    same_image: Tensor | None = None
    opposite_expression_ids: Tensor | None = None
    opposite_phrase_ids: Tensor | None = None
    has_opposite: Tensor | None = None
    negative_ids: Tensor | None = None
    clip_scores: Tensor | None = None
    target: Tensor | None = None
    weight: Tensor | None = None
    row_ids: tuple[str, ...] = ()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with every tensor on ``device``."""
        moved: dict[str, Any] = {
            field.name: value.to(device, non_blocking=non_blocking)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)

    def texts(self, partners: bool, opposites: bool = False) -> dict[str, Tensor | None]:
        """The model's text arguments; partners and swapped texts are included only if a loss needs them."""
        return {
            "expression_ids": self.expression_ids,
            "phrase_ids": self.phrase_ids,
            "partner_expression_ids": self.partner_expression_ids if partners else None,
            "partner_phrase_ids": self.partner_phrase_ids if partners else None,
            "opposite_expression_ids": self.opposite_expression_ids if opposites else None,
            "opposite_phrase_ids": self.opposite_phrase_ids if opposites else None,
        }


@dataclass
class Outputs:
    """Raw responses of a training step: ``logits[n]`` (B,T,h,w) is image i against text t at stage n.

    ``own`` (B,) is the column of each image's own expression, ``partner`` (B,) that of its partner expression
    and ``opposite`` (B,) that of its own with the directions swapped (``None`` if there is none). The first
    ``expressions`` columns are the images' own expressions. ``image_size`` is the (H,W) that maps are
    upsampled to.
    """

    logits: tuple[Tensor, ...]
    own: Tensor
    expressions: int
    image_size: tuple[int, int]
    partner: Tensor | None = None
    opposite: Tensor | None = None

    def maps(self, stage: int) -> Tensor:
        """(B,1,h,w) raw response of each image to its own expression."""
        return _columns(self.logits[stage], self.own)

    def partner_maps(self, stage: int) -> Tensor:
        """(B,1,h,w) raw response of each image to its partner expression."""
        if self.partner is None:
            raise ValueError("These outputs have no partner expressions.")
        return _columns(self.logits[stage], self.partner)

    def opposite_maps(self, stage: int) -> Tensor:
        """(B,1,h,w) raw response of each image to its own expression with the directions swapped."""
        if self.opposite is None:
            raise ValueError("These outputs have no expressions with swapped directions.")
        return _columns(self.logits[stage], self.opposite)


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear resize of (B,C,h,w) maps to ``size`` (H,W), pixel centres aligned (not corners)."""
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def _columns(logits: Tensor, column: Tensor) -> Tensor:
    index = column.view(-1, 1, 1, 1).expand(-1, 1, *logits.shape[2:])
    return logits.gather(1, index)

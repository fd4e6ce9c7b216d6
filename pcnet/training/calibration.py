"""Scores images masked by response maps against texts with a frozen CLIP ViT-B/32."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from pcnet.model.clip_text import TextTower, clip_text

SIZE = 224  # input size of ViT-B/32 in pixels


class ClipModel(TextTower, Protocol):
    """A CLIP of open_clip."""

    def encode_image(self, image: Tensor) -> Tensor:
        """(B,3,224,224) -> (B,D)."""


class Calibration:
    """Cosines between texts and images masked by a response map; ``clip`` is frozen."""

    def __init__(self, clip: ClipModel) -> None:
        self.clip = clip

    def look(self, images: Tensor, maps: Tensor) -> Tensor:
        """(B,3,H,W) images times sigmoid of (B,1,H,W) raw responses -> (B,D) unit features.

        Both are resized to 224 with the corners aligned before they are multiplied, as in the released code.
        """
        seen = [
            one
            if one.shape[-1] == SIZE
            else F.interpolate(one, (SIZE, SIZE), mode="bilinear", align_corners=True)
            for one in (images, maps.sigmoid())
        ]
        return F.normalize(self.clip.encode_image(seen[0] * seen[1]), dim=-1)

    def agreement(self, features: Tensor, ids: Tensor) -> Tensor:
        """(B,D) unit features and (B,n,L) token ids -> (B,n) cosines. The texts have no gradient."""
        with torch.no_grad():
            texts = F.normalize(clip_text(self.clip, ids.flatten(0, 1)), dim=-1)
        return torch.einsum("bd,bnd->bn", features, texts.view(*ids.shape[:2], -1))

"""Encodes token ids with a CLIP's text transformer, at any length up to its context."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from prep.errors import PrepError


class TextTower(Protocol):
    """The text part of open_clip's ``CLIP``."""

    positional_embedding: Tensor
    text_projection: Tensor

    def token_embedding(self, ids: Tensor) -> Tensor:
        """(M,L) ids -> (M,L,C)."""

    def transformer(self, x: Tensor, *, attn_mask: Tensor) -> Tensor:
        """(M,L,C) to the same shape."""

    def ln_final(self, x: Tensor) -> Tensor:
        """The norm after the last block."""


def clip_text(clip: TextTower, ids: Tensor) -> Tensor:
    """(M,L) ids -> (M,D) text features of a CLIP, read at each row's largest id; L at most its context."""
    length = ids.shape[1]
    if length > clip.positional_embedding.shape[0]:
        raise PrepError(
            f"Texts of {length} tokens exceed CLIP's context of {clip.positional_embedding.shape[0]}.",
            "Tokenise them to a shorter length.",
        )
    x = clip.token_embedding(ids) + clip.positional_embedding[:length]
    causal = torch.full((length, length), float("-inf"), device=ids.device).triu_(1)
    x = clip.ln_final(clip.transformer(x, attn_mask=causal))
    ends = x[torch.arange(len(ids), device=ids.device), ids.argmax(dim=-1)]
    features: Tensor = ends @ clip.text_projection
    return features

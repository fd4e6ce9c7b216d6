"""Defines the inputs of the stages: image and text features, and the texts that an image is scored against.

Legend: as in :mod:`pcnet.model.stages`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scope:
    """The texts that an image is scored against: the batch's (training) or its own only (evaluation).

    ``gather`` turns (B, ...) of this process into (G, ...) of all, in rank order; with one process it is the
    identity. ``rank`` is the rank of this process.
    """

    pairwise: bool
    gather: Callable[[Tensor], Tensor] = lambda local: local
    rank: int = 0

    def rows(self, texts: Tensor) -> Tensor:
        """(R,B,C) -> (T,C) in training, (B,C) in evaluation."""
        if not self.pairwise:
            return texts[0]
        return torch.cat([self.gather(one) for one in texts])

    def tokens(self, texts: Tensor) -> Tensor:
        """(R,B,C) -> (B,T,C): the texts that each image is scored against."""
        return self.spread(self.rows(texts), texts.shape[1])

    def own_tokens(self, texts: Tensor) -> Tensor:
        """(R,B,C) -> (B,G+R-1,C): the first text of every image, then each image's own other texts."""
        first = self.tokens(texts[:1])
        return first if len(texts) == 1 else torch.cat([first, texts[1:].transpose(0, 1)], 1)

    def spread(self, rows: Tensor, images: int) -> Tensor:
        """The output of :meth:`rows` -> (B,T,C)."""
        return rows.expand(images, *rows.shape) if self.pairwise else rows.unsqueeze(1)


@dataclass(frozen=True)
class Inputs:
    """The inputs of the stages, all projected to C, and ``scale``, the factor of their scores.

    ``independent`` is for stages whose texts do not read each other.
    """

    scale: Tensor
    visual: Tensor  # (B,C,h,w)
    text: Tensor  # (R,B,C) whole expressions
    cues: Tensor  # (R,B,P,C) phrases
    scope: Scope
    independent: bool = False

    @property
    def expressions(self) -> Tensor:
        """(B,T,C) unit vectors: the whole expressions that each image is scored against."""
        return unit(self._tokens(self.text))

    def phrase(self, number: int) -> Tensor:
        """(B,T,C) unit vectors: phrase ``number`` of each of them."""
        return unit(self._tokens(self.cues[:, :, number]))

    def _tokens(self, texts: Tensor) -> Tensor:
        return self.scope.own_tokens(texts) if self.independent else self.scope.tokens(texts)

    def score(self, places: Tensor, queries: Tensor) -> Tensor:
        """scale * V Q^T of (B,N,C) positions and (B,T,C) queries, as (B,T,h,w) float32.

        Never in half precision: for scores around 14 its resolution is 1/16, and peaks would tie.
        """
        with torch.autocast(places.device.type, enabled=False):
            scores = self.scale.float() * queries.float() @ places.float().transpose(1, 2)
        return scores.reshape(*scores.shape[:2], *self.visual.shape[2:])


def unit(x: Tensor) -> Tensor:
    """(..., C) -> the same vectors with length 1, float32."""
    x = x.float()
    length: Tensor = x.norm(dim=-1, keepdim=True)
    return x / length

"""Declares the parts of a generator at a grid of points that its model defines: encoder and decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias, TypeVar

import torch

from prep.proposals.sam.decoder import Decoded
from prep.proposals.sam.settings import GridSettings


class Placed(Protocol):
    """A model that is on one device."""

    @property
    def device(self) -> torch.device:
        """The device of its weights."""


Settings = TypeVar("Settings", bound=GridSettings)
Model = TypeVar("Model", bound=Placed)
Embedded = TypeVar("Embedded")  # an image's embedding, with whatever the decoder needs besides
Embedded_contra = TypeVar("Embedded_contra", contravariant=True)
Encoder: TypeAlias = Callable[[Sequence[torch.Tensor]], list[Embedded]]


class PointDecoder(Protocol[Embedded_contra]):
    """Decodes batches of points on one image."""

    @property
    def without_sharing(self) -> str:
        """Why some batches are decoded by the reference's pass; empty if none are."""

    def prompts(self, points: torch.Tensor) -> torch.Tensor:
        """Points (n, 2) in pixels of the model's input as :meth:`__call__` takes them."""

    def __call__(self, features: Embedded_contra, prompts: torch.Tensor, threshold: float) -> Decoded:
        """The candidates with a predicted IoU above ``threshold`` (all, if <= 0)."""

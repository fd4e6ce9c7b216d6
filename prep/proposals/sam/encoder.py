"""Computes SAM's image embeddings, bit-identical to the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn import functional as F

from prep.proposals.sam.crops import resized
from prep.proposals.sam.model import SamModel


def shrink(image: npt.NDArray[np.uint8], side: int) -> torch.Tensor:
    """An H x W x 3 image resized so that its longer side is ``side`` pixels, as (3, h, w) uint8.

    Uses Pillow's antialiased bilinear filter, as the reference's torchvision call does.
    """
    height, width = resized((image.shape[0], image.shape[1]), side)
    small = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()


class ExactEncoder:
    """The model's own image encoder in float32.

    The reference encodes one image at a time. Batches of ``size`` are used only if they give the same bits:
    the first full batch is encoded both ways (float32 kernels are selected by shape, not by values).
    """

    def __init__(self, model: SamModel, size: int) -> None:
        self._model = model
        # On a CPU a batch takes as long as its images one by one, but more memory.
        self._size = size if model.device.type != "cpu" else 1
        self._same_bits: bool | None = None

    def __call__(self, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The embedding (1, C, h, w) of each image (3, h, w), uint8, as :func:`shrink` returns them."""
        out: list[torch.Tensor] = []
        for start in range(0, len(images), self._size):
            group = torch.stack(
                [prepared(self._model, image) for image in images[start : start + self._size]]
            )
            if len(group) == 1 or len(group) < self._size or self._same_bits is False:
                out += one_by_one(self._model.image_encoder, group)
            elif self._same_bits:
                out += list(self._model.image_encoder(group).split(1))
            else:
                alone = one_by_one(self._model.image_encoder, group)
                self._same_bits = torch.equal(self._model.image_encoder(group), torch.cat(alone))
                out += alone
        return out


def prepared(model: SamModel, image: torch.Tensor) -> torch.Tensor:
    """An image (3, h, w) on the model's device, normalised and padded to a square: ``Sam.preprocess``."""
    pixels = image.to(model.device, non_blocking=True)
    pixels = (pixels - model.pixel_mean) / model.pixel_std
    side = model.image_encoder.img_size
    return F.pad(pixels, (0, side - pixels.shape[-1], 0, side - pixels.shape[-2]))


def one_by_one(encoder: Callable[[torch.Tensor], torch.Tensor], group: torch.Tensor) -> list[torch.Tensor]:
    """Each image's embedding from a batch of one, as in the reference."""
    return [encoder(image[None]) for image in group]

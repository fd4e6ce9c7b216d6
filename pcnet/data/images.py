"""Reads images for the network: decodes, resizes, normalises and caches them up to a memory limit."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prep.errors import PrepError
from prep.images import UnreadableImage, read_rgb
from prep.inputs import below

if TYPE_CHECKING:
    import torch
    from PIL import Image

# ImageNet's RGB statistics for values in [0, 1]: the released code uses these with CLIP, not CLIP's own.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

DEFAULT_BUDGET = 2 << 30


def open_rgb(path: Path) -> Image.Image:
    """The stored pixels of an image file as RGB (:func:`prep.images.decode`).

    :raises PrepError: if the file is missing or cannot be decoded; the message names it.
    """
    try:
        return read_rgb(path)
    except UnreadableImage as error:
        remedy = "Replace the file, or remove it from the dataset."
        if not path.exists():
            remedy = "Check the path; --data is the folder that the image paths of a store are relative to."
        raise PrepError(f"{path}: {str(error).rstrip('.')}.", remedy) from error


def read_image(path: Path, size: int) -> NDArray[np.uint8]:
    """An image file as uint8 (3, size, size): :func:`open_rgb`, then :func:`resized`."""
    return resized(open_rgb(path), size)


def resized(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """An RGB image as uint8 (3, size, size), resized bilinearly; the aspect ratio is not preserved."""
    from PIL import Image

    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))


class Pixels:
    """The images of a sample table by index; decoded images are cached up to ``budget`` bytes.

    Safe to call from several threads. Every call for one image returns equal values, cached or not.
    """

    def __init__(self, root: Path, images: Sequence[str], size: int, budget: int = DEFAULT_BUDGET) -> None:
        self.root, self.images, self.size = root, images, size
        self._room = budget
        self._kept: dict[int, NDArray[np.uint8]] = {}
        self._lock = threading.Lock()

    def __getitem__(self, image: int) -> NDArray[np.uint8]:
        kept = self._kept.get(image)
        if kept is not None:
            return kept
        name = self.images[image]
        if below(name) is None:
            raise PrepError(
                f"The store has an image {name!r}, which is outside {self.root}.", "Generate the store again."
            )
        pixels = read_image(self.root / name, self.size)
        with self._lock:
            if self._room >= pixels.nbytes and image not in self._kept:
                self._kept[image] = pixels
                self._room -= pixels.nbytes
        return pixels

    @property
    def fits(self) -> bool:
        """Whether all images together fit in the budget."""
        return len(self.images) * 3 * self.size**2 <= self._room + sum(k.nbytes for k in self._kept.values())

    def stack(self, images: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Several images as uint8 (B, 3, size, size)."""
        return np.stack([self[int(image)] for image in images])


def normalise_pixels(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 (B, 3, H, W) in [0, 255] to float32 ``(x / 255 - MEAN) / STD``, on the device of ``pixels``."""
    import torch

    scale = torch.tensor([1.0 / (255.0 * s) for s in STD], device=pixels.device).view(1, 3, 1, 1)
    shift = torch.tensor([-m / s for m, s in zip(MEAN, STD, strict=True)], device=pixels.device).view(
        1, 3, 1, 1
    )
    return torch.addcmul(shift, pixels.float(), scale)

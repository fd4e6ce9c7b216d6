"""Gives the images of a store as a map-style dataset of PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

from prep.loaders.samples import Samples

if TYPE_CHECKING:
    from prep.cache.store import Store


class TorchImages:
    """A dataset for ``torch.utils.data.DataLoader``: one item per image of the store.

    An item is a dict: ``image`` uint8 (3, H, W) RGB as stored, ``masks`` bool (N, H, W), ``boxes`` float32
    (N, 4) x, y, width, height in pixels, ``expressions`` (a list of dicts, see
    :data:`prep.loaders.samples.EXPRESSION`) and ``image_path``. ``transform`` gets the item and returns what
    is given instead. Sizes differ from image to image: the loader needs a ``collate_fn``, such as ``list``.

    Raises :class:`PrepError` for an image that cannot be read or is not the one that the masks were made of.
    """

    def __init__(
        self,
        store: Store,
        image_root: str | Path,
        splits: Collection[str] | None = None,
        transform: Callable[[dict[str, object]], object] | None = None,
    ) -> None:
        self.samples = Samples(store, image_root, splits)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> object:
        import numpy as np
        import torch

        sample = self.samples[index]
        masks = sample.masks
        item = {
            "image": torch.from_numpy(sample.pixels()).permute(2, 0, 1).contiguous(),
            "masks": torch.from_numpy(np.asarray(masks)),
            "boxes": torch.from_numpy(masks.boxes.astype(np.float32)),
            "expressions": sample.expressions,
            "image_path": sample.image,
        }
        return item if self.transform is None else self.transform(item)

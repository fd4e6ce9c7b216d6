"""Reads the stored masks that a student trains on, and gives the share of each cell that they cover."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pcnet.data.table import SampleTable
from prep.cache.store import Store
from prep.errors import PrepError
from prep.masks import rle

DEFAULT_BUDGET = 256 << 20
Coded = tuple[str, int, int]  # run lengths, height and width in pixels


class TargetMasks:
    """The mask of each sample's ``proposal`` (S,), an index among those of its image (-1: an empty mask).

    Masks keep their own size in the store; here they are reduced to ``side`` x ``side`` cells by the mean
    over each cell's area, so that no outline is moved by half a pixel, as sampling would. Up to ``budget``
    bytes of them are cached. Safe to call from several threads.
    """

    def __init__(
        self,
        store: Store,
        table: SampleTable,
        proposal: NDArray[np.int64],
        side: int,
        budget: int = DEFAULT_BUDGET,
    ) -> None:
        self._keys = list(zip(table.image.tolist(), proposal.tolist(), strict=True))
        self._coded = _read(store, table, {key for key in self._keys if key[1] >= 0})
        self._side, self._room = side, budget
        self._kept: dict[tuple[int, int], NDArray[np.uint8]] = {}

    def stack(self, samples: NDArray[np.int64]) -> NDArray[np.float32]:
        """(N,) samples -> (N, side, side) float32: the covered share of each cell, in [0, 1]."""
        cells = np.stack([self._cells(self._keys[int(sample)]) for sample in samples])
        return cells.astype(np.float32) / np.float32(255)

    def _cells(self, key: tuple[int, int]) -> NDArray[np.uint8]:
        kept = self._kept.get(key)
        if kept is None:
            coded = self._coded.get(key)
            kept = np.zeros((self._side, self._side), dtype=np.uint8)
            if coded is not None:
                kept = covered(rle.decode_counts(*coded), self._side)
            if self._room >= kept.nbytes:  # a race of two threads costs a few bytes of the budget
                self._kept[key] = kept
                self._room -= kept.nbytes
        return kept


def covered(mask: NDArray[np.bool_], side: int) -> NDArray[np.uint8]:
    """A bool (H, W) mask -> uint8 (side, side): 255 times the share of each cell that the mask covers."""
    from PIL import Image

    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(picture.resize((side, side), Image.Resampling.BOX))


def _read(store: Store, table: SampleTable, wanted: set[tuple[int, int]]) -> dict[tuple[int, int], Coded]:
    """The run lengths of the wanted (image, proposal) pairs."""
    number = {key: place for place, key in enumerate(table.images)}
    by_image: dict[int, list[int]] = {}
    for image, proposal in wanted:
        by_image.setdefault(image, []).append(proposal)
    found: dict[tuple[int, int], Coded] = {}
    for batch in store.stage("proposals").reader().batches(["image", "height", "width", "masks"]):
        for place, key in enumerate(batch.column(0).to_pylist()):
            image = number.get(key, -1)
            for proposal in by_image.get(image, ()):
                masks = batch.column(3)[place]
                if proposal >= len(masks):
                    raise PrepError(
                        f"The row of {key} in {store.uri} has {len(masks)} masks and a grid of more.",
                        "Generate the masks of this image again with pcnet-prep sam.",
                    )
                height, width = batch.column(1)[place].as_py(), batch.column(2)[place].as_py()
                found[image, proposal] = masks[proposal]["counts"].as_py(), height, width
    return found

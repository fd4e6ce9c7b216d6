"""Selects the expressions of each batch, as a pure function of the seed and the epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IndexArray = NDArray[np.int64]

# Separate random streams, so that drawing more from one does not change the others.
_ORDER, _COMPANY, _SENTENCE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Draw:
    """One global batch, as indices into the samples.

    ``anchors`` (B,) are the expressions to ground. ``partners`` (B,) are expressions of the same image with
    another target where ``same_image`` (B,) is true, else expressions of another image, which losses over
    pairs must ignore. ``negatives`` (B, N) are expressions that do not refer to the anchor's target: those of
    other targets in the same image first, then of other images.
    """

    anchors: IndexArray
    partners: IndexArray
    same_image: NDArray[np.bool_]
    negatives: IndexArray

    def part(self, rank: int, ranks: int) -> Draw:
        """The contiguous share of process ``rank`` of ``ranks``; concatenated in order, the shares are the
        batch.
        """
        size = len(self.anchors) // ranks
        cut = slice(rank * size, (rank + 1) * size)
        return Draw(self.anchors[cut], self.partners[cut], self.same_image[cut], self.negatives[cut])


class Sampler:
    """Batches over samples described by two integer arrays.

    ``image`` (S,) is the index of the sample's image. ``target`` (S,) is the index of its target, or -1 if
    the data does not give one; such a sample has no partner and no negative in its own image, as both might
    refer to the same object. The images of one batch are distinct as far as the data allows, because the
    other expressions of a batch serve as negatives and must come from other images.

    An epoch consists of every sample, and its last, incomplete batch is dropped, unless it is the only one.
    With ``refs`` it consists of one sample per target, drawn anew in each epoch (one without a target counts
    as its own), as in the released code: its last batch is filled up with the first samples of the epoch.
    """

    def __init__(
        self,
        image: IndexArray,
        target: IndexArray,
        batch_size: int,
        seed: int,
        negatives: int = 0,
        refs: bool = False,
    ) -> None:
        self.image, self.target, self.refs = image, target, refs
        self.seed, self.negatives = seed, negatives
        own = np.where(target >= 0, target, np.arange(len(target)) + target.max(initial=-1) + 1)
        _, ref = np.unique(own, return_inverse=True)
        self._sentences = np.argsort(ref, kind="stable")  # grouped by reference
        self._counts = np.bincount(ref)
        self.batch_size = min(batch_size, self._per_epoch)
        by_image = np.argsort(image, kind="stable")
        bounds = np.searchsorted(image[by_image], np.arange(image.max(initial=-1) + 2))
        self._members = by_image
        self._bounds = bounds

    @property
    def _per_epoch(self) -> int:
        """The number of different samples in an epoch."""
        return len(self._counts) if self.refs else len(self.image)

    @property
    def batches_per_epoch(self) -> int:
        """The number of batches in an epoch."""
        if not self.batch_size:
            return 0
        return -(-self._per_epoch // self.batch_size) if self.refs else self._per_epoch // self.batch_size

    def order(self, epoch: int) -> list[IndexArray]:
        """The anchors of every batch of ``epoch``; images are distinct within a batch.

        A sample whose image is already in the batch stays at the head of the queue for the next batch. If
        fewer images are left than the batch size, the batch is filled in queue order.
        """
        shuffled = np.random.default_rng([self.seed, epoch, _ORDER]).permutation(self._per_epoch)
        if self.refs:
            chance = np.random.default_rng([self.seed, epoch, _SENTENCE]).random(len(self._counts))
            place = np.cumsum(self._counts) - self._counts + (chance * self._counts).astype(np.int64)
            shuffled = self._sentences[place][np.resize(shuffled, self.batches_per_epoch * self.batch_size)]
        batches: list[IndexArray] = []
        waiting: list[int] = []
        position = 0
        for _ in range(self.batches_per_epoch):
            batch: list[int] = []
            seen: set[int] = set()
            still: list[int] = []
            for sample in waiting:
                self._place(sample, batch, seen, still)
            while len(batch) < self.batch_size and position < len(shuffled):
                self._place(int(shuffled[position]), batch, seen, still)
                position += 1
            missing = self.batch_size - len(batch)
            batches.append(np.array(batch + still[:missing], dtype=np.int64))
            waiting = still[missing:]
        return batches

    def _place(self, sample: int, batch: list[int], seen: set[int], still: list[int]) -> None:
        """Add a sample to the batch, or to the samples left for the next one."""
        image = int(self.image[sample])
        if len(batch) < self.batch_size and image not in seen:
            batch.append(sample)
            seen.add(image)
        else:
            still.append(sample)

    def draw(self, epoch: int, batch: int, anchors: IndexArray) -> Draw:
        """The partners and negatives of one batch, from a random stream of its own, so that any batch can be
        drawn alone.
        """
        stream = np.random.default_rng([self.seed, epoch, _COMPANY, batch])
        partners = np.empty(len(anchors), dtype=np.int64)
        same = np.zeros(len(anchors), dtype=bool)
        negatives = np.empty((len(anchors), self.negatives), dtype=np.int64)
        for i, anchor in enumerate(anchors):
            others = stream.permutation(self._other_targets(int(anchor)))
            same[i] = len(others) > 0
            partners[i] = others[0] if same[i] else self._elsewhere(int(anchor), stream)
            near = others[: self.negatives]
            far = [self._elsewhere(int(anchor), stream) for _ in range(self.negatives - len(near))]
            negatives[i] = np.array([*near, *far], dtype=np.int64)
        return Draw(np.asarray(anchors, dtype=np.int64), partners, same, negatives)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Draw]:
        """The batches of ``epoch``, starting at index ``start``."""
        for number, anchors in enumerate(self.order(epoch)):
            if number >= start:
                yield self.draw(epoch, number, anchors)

    def _other_targets(self, sample: int) -> IndexArray:
        """Samples of the same image that are known to have another target."""
        image, target = self.image[sample], self.target[sample]
        members = self._members[self._bounds[image] : self._bounds[image + 1]]
        if target < 0:
            return members[:0]
        known = (self.target[members] != target) & (self.target[members] >= 0)
        return np.asarray(members[known])

    def _elsewhere(self, sample: int, stream: np.random.Generator) -> int:
        """A sample of another image; the sample itself if there is only one image."""
        image = self.image[sample]
        low, high = int(self._bounds[image]), int(self._bounds[image + 1])
        others = len(self._members) - (high - low)
        if others == 0:
            return sample
        place = int(stream.integers(others))
        return int(self._members[place if place < low else place + high - low])

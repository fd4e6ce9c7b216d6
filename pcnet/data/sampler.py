"""Which expressions make up each batch: a pure function of the seed and the epoch, whoever asks and
wherever.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IndexArray = NDArray[np.int64]

# Streams of random numbers, so that drawing more of one kind leaves the others as they were.
_ORDER, _COMPANY = 0, 1


@dataclass(frozen=True, slots=True)
class Draw:
    """One global batch, as indices into the samples.

    ``anchors`` (B,) are the expressions to ground. ``partners`` (B,) is for each an expression of the same
    image that speaks of another target, where ``same_image`` (B,) is true; else one of another image, to be
    left out of what compares the two. ``negatives`` (B, N) are expressions that do not speak of the anchor's
    target: those of other targets in the same image first, then of other images.
    """

    anchors: IndexArray
    partners: IndexArray
    same_image: NDArray[np.bool_]
    negatives: IndexArray

    def part(self, rank: int, ranks: int) -> Draw:
        """The contiguous share of one of ``ranks`` processes; the shares together are the batch, in order."""
        size = len(self.anchors) // ranks
        cut = slice(rank * size, (rank + 1) * size)
        return Draw(self.anchors[cut], self.partners[cut], self.same_image[cut], self.negatives[cut])


class Sampler:
    """Batches over samples described by two integer arrays.

    ``image`` (S,) numbers the sample's image. ``target`` (S,) numbers what it speaks of; -1 where the data
    does not say, and such a sample has no partner and no negative in its own image, as both might speak of
    the same thing. The images of one batch are distinct as far as the data allows: the other expressions of a
    batch serve as negatives, which must come from other images. The last, short batch of an epoch is dropped,
    unless it would be the only one.
    """

    def __init__(
        self, image: IndexArray, target: IndexArray, batch_size: int, seed: int, negatives: int = 0
    ) -> None:
        self.image, self.target = image, target
        self.batch_size = min(batch_size, len(image))
        self.seed, self.negatives = seed, negatives
        by_image = np.argsort(image, kind="stable")
        bounds = np.searchsorted(image[by_image], np.arange(image.max(initial=-1) + 2))
        self._members = by_image
        self._bounds = bounds

    @property
    def batches_per_epoch(self) -> int:
        """How many batches an epoch has."""
        return len(self.image) // self.batch_size if self.batch_size else 0

    def order(self, epoch: int) -> list[IndexArray]:
        """The anchors of every batch of ``epoch``: each sample at most once, images distinct within a batch.

        A sample whose image is already in the batch waits at the head of the queue for the next one. Where
        fewer images than places are left, places are filled in queue order.
        """
        shuffled = np.random.default_rng([self.seed, epoch, _ORDER]).permutation(len(self.image))
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
        """Put a sample into the batch, or among those that still wait."""
        image = int(self.image[sample])
        if len(batch) < self.batch_size and image not in seen:
            batch.append(sample)
            seen.add(image)
        else:
            still.append(sample)

    def draw(self, epoch: int, batch: int, anchors: IndexArray) -> Draw:
        """The company of one batch's anchors, from a stream of its own (so that any batch can be made
        alone).
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
        """The batches of ``epoch`` from number ``start`` on."""
        for number, anchors in enumerate(self.order(epoch)):
            if number >= start:
                yield self.draw(epoch, number, anchors)

    def _other_targets(self, sample: int) -> IndexArray:
        """Samples of the same image that are known to speak of another target."""
        image, target = self.image[sample], self.target[sample]
        members = self._members[self._bounds[image] : self._bounds[image + 1]]
        if target < 0:
            return members[:0]
        known = (self.target[members] != target) & (self.target[members] >= 0)
        return np.asarray(members[known])

    def _elsewhere(self, sample: int, stream: np.random.Generator) -> int:
        """A sample of another image; the sample itself where there is only one image."""
        image = self.image[sample]
        low, high = int(self._bounds[image]), int(self._bounds[image + 1])
        others = len(self._members) - (high - low)
        if others == 0:
            return sample
        place = int(stream.integers(others))
        return int(self._members[place if place < low else place + high - low])

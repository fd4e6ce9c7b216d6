"""Counts duplicate identities in a stream of millions with 64-bit hashes in sorted arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class Ordinals:
    """Reports how often each identity occurred before.

    It keeps eight bytes per distinct identity, and a dictionary entry only for one that occurs twice. The
    probability that two different ones share a hash is about n**2 / 2**65 (3e-6 for ten million); the only
    effect would be that one of them gets the ordinal 1.
    """

    def __init__(self) -> None:
        self._levels: list[npt.NDArray[np.uint64]] = []
        self._repeats: dict[int, int] = {}

    def assign(self, hashes: Sequence[int]) -> list[int]:
        """For each 64-bit hash, in order: 0 at its first occurrence, then 1, 2, ..."""
        if not hashes:
            return []
        batch = np.array(hashes, dtype=np.uint64)
        fresh, counts = np.unique(batch, return_counts=True)
        known = self._contains(fresh)
        simple = np.ones(len(batch), dtype=bool)
        doubtful = fresh[known | (counts > 1)]
        if len(doubtful):
            simple = ~np.isin(batch, doubtful)
        ordinals = [0] * len(batch)
        for at in np.flatnonzero(~simple).tolist():
            value = hashes[at]
            seen = self._repeats.get(value)
            if seen is None:
                seen = 1 if known[np.searchsorted(fresh, batch[at])] else 0
            ordinals[at] = seen
            self._repeats[value] = seen + 1
        self._add(fresh[~known])
        return ordinals

    def _contains(self, values: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        found = np.zeros(len(values), dtype=bool)
        for level in self._levels:
            at = np.minimum(np.searchsorted(level, values), len(level) - 1)
            found |= level[at] == values
        return found

    def _add(self, values: npt.NDArray[np.uint64]) -> None:
        # Levels grow geometrically, so that n identities lie in about log2(n / batch) sorted arrays.
        if len(values):
            self._levels.append(values)
        while len(self._levels) > 1 and len(self._levels[-1]) * 2 > len(self._levels[-2]):
            last = self._levels.pop()
            self._levels[-1] = np.sort(np.concatenate([self._levels[-1], last]))

"""Implements a set of row keys as 64-bit hashes, so that 10^7 keys fit in 80 MB."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def hash_keys(keys: Iterable[str]) -> np.ndarray:
    """The first 64 bits of BLAKE2b of each key, uint64 of shape (number of keys,).

    Two different keys share a hash with probability 2^-64; for any collision among 10^6 keys it is below 3 in
    10^8.
    """
    digests = [blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest() for key in keys]
    return np.frombuffer(b"".join(digests), dtype="<u8")


class KeySet:
    """A set of keys. Sorted runs of hashes are merged as they grow, so that adding and lookup stay cheap."""

    def __init__(self, hashes: np.ndarray | None = None) -> None:
        self._runs: list[np.ndarray] = []
        if hashes is not None:
            self.add_hashes(hashes)

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def __contains__(self, key: str) -> bool:
        return bool(self.contains([key])[0])

    def add(self, keys: Iterable[str]) -> None:
        """Add keys; those already in the set change nothing."""
        self.add_hashes(hash_keys(keys))

    def add_hashes(self, hashes: np.ndarray) -> None:
        """Add keys by their :func:`hash_keys`."""
        new = np.unique(hashes)
        new = new[~self.contains_hashes(new)]
        if not len(new):
            return
        self._runs.append(new)
        while len(self._runs) > 1 and len(self._runs[-2]) < 4 * len(self._runs[-1]):
            last = self._runs.pop()
            merged = np.concatenate([self._runs.pop(), last])
            merged.sort(kind="stable")
            self._runs.append(merged)

    def contains(self, keys: Sequence[str]) -> np.ndarray:
        """For each key whether it is in the set, bool of shape (number of keys,)."""
        return self.contains_hashes(hash_keys(keys))

    def contains_hashes(self, hashes: np.ndarray) -> np.ndarray:
        """The same for :func:`hash_keys` already computed."""
        found = np.zeros(len(hashes), dtype=bool)
        for run in self._runs:
            at = np.minimum(np.searchsorted(run, hashes), len(run) - 1)
            found |= run[at] == hashes
        return found

    def __iter__(self) -> Iterator[int]:
        raise TypeError("A KeySet stores hashes only, so its keys cannot be listed.")


def failures(rows: pa.Table) -> np.ndarray:
    """For each row whether it has an error, bool of shape (rows,); False in a table without ``status``."""
    if "status" not in rows.column_names:
        return np.zeros(rows.num_rows, dtype=bool)
    wrong: np.ndarray = pc.equal(rows["status"], "error").fill_null(False).to_numpy()
    return wrong


def column_hashes(column: pa.ChunkedArray) -> np.ndarray:
    """:func:`hash_keys` of a string column, chunk by chunk; ``pa.ArrowInvalid`` for a row without a key."""
    if column.null_count or not pa.types.is_string(column.type):
        raise pa.ArrowInvalid("there are rows without a key")
    parts = [hash_keys(chunk.to_pylist()) for chunk in column.chunks]
    return np.concatenate(parts) if parts else np.empty(0, dtype="<u8")

"""Stores and looks up the responses of an engine by content key, shared across runs and stores."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from prep.cache.files import Files, explained, open_files
from prep.cache.keyset import column_hashes, hash_keys
from prep.cache.shards import ShardMeta, encode, is_shard, read_shard
from prep.errors import PrepError
from prep.files import lock_file

COMMIT_FILE = ".commit.lock"
KEY = "key"
# Maximum number of retries when shards are merged during a lookup.
MERGES_MET = 3


class AnswerCache:
    """Responses of one engine under one set of settings, in ``<uri>/<stage>/<fingerprint>/part-*.parquet``.

    ``schema`` has a string column ``key`` (the content key). The first committed response of a key wins:
    later ones are dropped, here and in every process that shares the folder. Memory use is 16 bytes per
    response (the hash of its key and its position) and a bounded number of decoded shards. Rows whose
    ``status`` column, if the schema has one, is ``"error"`` are not cached. Only the location is pickled, so
    that workers can open it to read.
    """

    def __init__(
        self,
        uri: str | Path,
        stage: str,
        fingerprint: str,
        schema: pa.Schema,
        *,
        commit_seconds: float = 2.0,
        memory_bytes: int = 128 << 20,
    ) -> None:
        self.uri, self.stage, self.fingerprint, self.schema = os.fspath(uri), stage, fingerprint, schema
        self.files: Files = open_files(uri).folder(f"{stage}/{fingerprint}")
        self._commit_seconds = commit_seconds
        self._memory_bytes = memory_bytes
        self._shards: list[str] = []
        self._known: set[str] = set()
        self._index = _Index()
        self._decoded: OrderedDict[int, pa.Table] = OrderedDict()
        self._decoded_bytes = 0
        self._buffer: list[pa.Table] = []
        self._buffered: dict[str, tuple[int, int]] = {}
        self._last_commit = time.monotonic()
        self.refresh()

    def __reduce__(self) -> tuple[object, ...]:
        return AnswerCache, (self.uri, self.stage, self.fingerprint, self.schema)

    def __len__(self) -> int:
        """The number of responses, including buffered ones."""
        return len(self._index) + len(self._buffered)

    def __enter__(self) -> AnswerCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def refresh(self) -> None:
        """Index the shards that other processes have committed since. A damaged shard is skipped."""
        for name in sorted(set(self.files.sizes()) - self._known):
            if not is_shard(name):
                continue
            self._known.add(name)
            columns = [KEY, "status"] if "status" in self.schema.names else [KEY]
            try:
                table = read_shard(self.files, name, columns)
            except (PrepError, pa.ArrowException):
                continue
            hashes = column_hashes(table.column(KEY))
            rows = np.arange(len(hashes), dtype=np.uint32)
            if "status" in columns:
                good = pc.fill_null(pc.not_equal(table.column("status"), "error"), True)
                keep = good.to_numpy(zero_copy_only=False).astype(bool)
                hashes, rows = hashes[keep], rows[keep]
            self._index.add(hashes, rows, len(self._shards))
            self._shards.append(name)

    def get(self, key: str) -> dict[str, Any] | None:
        """The response of a key as a row, or ``None``. For more than a few keys use :meth:`get_many`."""
        return self.get_many([key]).get(key)

    def contains(self, keys: Sequence[str]) -> np.ndarray:
        """For each key whether it has a response, bool of shape (number of keys,). Reads no shard."""
        found: np.ndarray = self._index.find(hash_keys(keys))[0] >= 0
        found |= np.fromiter((key in self._buffered for key in keys), bool, len(keys))
        return found

    def get_many(self, keys: Sequence[str]) -> dict[str, dict[str, object]]:
        """The existing responses, as rows by key. Each required shard is read once."""
        for _ in range(MERGES_MET):
            try:
                return self._get_many(keys)
            except PrepError:
                if all(map(self.files.exists, self._shards)):
                    raise
                self._forget()  # another process has merged shards
        return self._get_many(keys)

    def _get_many(self, keys: Sequence[str]) -> dict[str, dict[str, object]]:
        answers: dict[str, dict[str, Any]] = {}
        shards, rows = self._index.find(hash_keys(keys))
        wanted: dict[int, list[tuple[str, int]]] = {}
        for key, shard, row in zip(keys, shards.tolist(), rows.tolist(), strict=True):
            if key in self._buffered:
                table, position = self._buffered[key]
                answers[key] = self._buffer[table].slice(position, 1).to_pylist()[0]
            elif shard >= 0:
                wanted.setdefault(shard, []).append((key, row))
        for shard, places in wanted.items():
            found = self._table(shard).take(pa.array([row for _, row in places])).to_pylist()
            for (key, _), answer in zip(places, found, strict=True):
                if (
                    answer[KEY] == key
                ):  # otherwise two keys share a hash, and this is the other key's response
                    answers[key] = answer
        return answers

    def put(self, table: pa.Table) -> None:
        """Add responses; those whose key already has one, and rows with ``status="error"``, are dropped.

        They are committed every ``commit_seconds`` and by :meth:`flush`, and readable here at once.
        """
        table = table.select(self.schema.names).cast(self.schema)
        keys = table.column(KEY).to_pylist()
        fresh = ~self.contains(keys)
        if "status" in self.schema.names:
            fresh &= np.array(
                [status != "error" for status in table.column("status").to_pylist()], dtype=bool
            )
        chosen: dict[str, int] = {}
        for row in np.flatnonzero(fresh).tolist():
            chosen.setdefault(keys[row], row)
        if chosen:
            part = table.take(pa.array(list(chosen.values())))
            for position, key in enumerate(chosen):
                self._buffered[key] = (len(self._buffer), position)
            self._buffer.append(part)
        if time.monotonic() - self._last_commit >= self._commit_seconds:
            self.flush()

    def flush(self) -> None:
        """Commit the buffer, except keys that another process has committed meanwhile."""
        self._last_commit = time.monotonic()
        if not self._buffer:
            return
        self.files.make()
        with _one_committer(self.files):
            self.refresh()
            table = pa.concat_tables(self._buffer)
            shards, _ = self._index.find(column_hashes(table.column(KEY)))
            table = table.filter(pa.array(shards < 0))
            if table.num_rows:
                meta = ShardMeta(self.stage, "answers", {"fingerprint": self.fingerprint})
                shard, data = encode(table, meta)
                self.files.write(shard.name, data)
            self._buffer, self._buffered = [], {}
            self.refresh()

    def merge(self, target_bytes: int) -> None:
        """Replace many small shards by few of about ``target_bytes``, with each response once.

        The new shard is written before the old ones are removed. After a kill in between, responses are
        stored twice, which is harmless and is fixed by the next merge. Shards that also belong to a store
        (hard links) are kept.
        """
        with _one_committer(self.files):
            self._forget()
            sizes = self.files.sizes()
            groups: list[list[int]] = [[]]
            filled = 0
            for number, name in enumerate(self._shards):
                if sizes.get(name, target_bytes) >= target_bytes // 2 or self.files.is_shared(name):
                    continue
                if groups[-1] and filled + sizes[name] > target_bytes:
                    groups.append([])
                    filled = 0
                groups[-1].append(number)
                filled += sizes[name]
            for group in groups:
                if len(group) > 1:
                    self._merge(group)
            self._forget()

    def _merge(self, group: Sequence[int]) -> None:
        """Write one shard with the responses of these that are indexed there, then remove these."""
        kept = []
        for number in group:
            table = read_shard(self.files, self._shards[number], self.schema.names)
            shards, rows = self._index.find(column_hashes(table.column(KEY)))
            kept.append(table.filter(pa.array((shards == number) & (rows == np.arange(table.num_rows)))))
        meta = ShardMeta(self.stage, "answers", {"fingerprint": self.fingerprint})
        shard, data = encode(pa.concat_tables(kept), meta)
        self.files.write(shard.name, data)
        for number in group:
            if self._shards[number] != shard.name:
                self.files.delete(self._shards[number])

    def _forget(self) -> None:
        """Index the folder again: known shards may have been merged into others."""
        self._shards, self._known, self._index = [], set(), _Index()
        self._decoded.clear()
        self._decoded_bytes = 0
        self.refresh()

    def _table(self, shard: int) -> pa.Table:
        """A decoded shard, from memory if it was used recently."""
        if shard in self._decoded:
            self._decoded.move_to_end(shard)
            return self._decoded[shard]
        table = read_shard(self.files, self._shards[shard], self.schema.names)
        self._decoded[shard] = table
        self._decoded_bytes += table.nbytes
        while self._decoded_bytes > self._memory_bytes and len(self._decoded) > 1:
            self._decoded_bytes -= self._decoded.popitem(last=False)[1].nbytes
        return table


class _Index:
    """Maps key hash to (shard number, row), in arrays sorted by hash; the first entry of a key wins."""

    def __init__(self) -> None:
        self._runs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def __len__(self) -> int:
        return sum(len(hashes) for hashes, _, _ in self._runs)

    def add(self, hashes: np.ndarray, rows: np.ndarray, shard: int) -> None:
        known = self.find(hashes)[0] >= 0
        hashes, rows = hashes[~known], rows[~known]
        hashes, first = np.unique(hashes, return_index=True)
        if len(hashes):
            self._runs.append((hashes, np.full(len(hashes), shard, dtype=np.int32), rows[first]))
        while len(self._runs) > 1 and len(self._runs[-2][0]) < 4 * len(self._runs[-1][0]):
            last, before = self._runs.pop(), self._runs.pop()
            joined = [np.concatenate(pair) for pair in zip(before, last, strict=True)]
            order = np.argsort(joined[0], kind="stable")
            self._runs.append((joined[0][order], joined[1][order], joined[2][order]))

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The shard number (-1 if missing) and row of each hash."""
        shards = np.full(len(hashes), -1, dtype=np.int32)
        rows = np.zeros(len(hashes), dtype=np.uint32)
        for known, where, row in self._runs:
            at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
            hit = known[at] == hashes
            shards[hit], rows[hit] = where[at[hit]], row[at[hit]]
        return shards, rows


@contextlib.contextmanager
def _one_committer(files: Files) -> Iterator[None]:
    """Prevent concurrent commits to the same local folder. On an object store the lowest name wins."""
    if files.local is None:
        yield
        return
    with explained("lock", files.where(COMMIT_FILE)):
        descriptor = lock_file(files.local / COMMIT_FILE)
    try:
        with contextlib.suppress(OSError):  # a file system without locks is treated like an object store
            fcntl.lockf(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

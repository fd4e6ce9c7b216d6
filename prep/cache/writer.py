"""Writes a table: buffers the rows of units and commits them in shards, each row exactly once."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import pyarrow as pa

from prep.cache.exchange import aside_of
from prep.cache.files import Files
from prep.cache.keys import fingerprint
from prep.cache.keyset import KeySet, column_hashes, failures
from prep.cache.lock import WriterLock
from prep.cache.manifest import Manifest, fold, load_manifest, package_versions, utc_now, write_ledger
from prep.cache.reopen import check_sizes, checked_manifest, settle
from prep.cache.shards import Shard, ShardMeta, describe, encode, is_shard, keys_of_shard
from prep.cache.state import forget, ledger_name, ledger_sequences, put_shard, state_of
from prep.errors import PrepError
from prep.files import TEMPORARY

if TYPE_CHECKING:
    from prep.cache.manifest_fields import FinishedEntry, RunEntry
    from prep.cache.store import StageStore

COMMIT_ROWS = 200_000
COMMIT_BYTES = 64 << 20
FOLD_EVERY = 100


class StageWriter:
    """Appends rows to a table; created by ``StageStore.writer`` and used as a context manager.

    A row is committed once its shard has its final name. Rows passed to :meth:`write` are buffered and
    committed if ``commit_seconds`` will have passed by the time of the next unit, as far apart as the last
    two, or the buffer is large, and on leaving the context, also after an exception: finished units are never
    lost, and a killed process loses the work of at most ``commit_seconds`` beside the unit in progress. With
    ``replace``, the table keeps its rows until the first new ones are committed: a run that fails before
    loses nothing.
    """

    def __init__(
        self,
        stage: StageStore,
        settings: Mapping[str, object],
        *,
        replace: bool,
        cache: Files | None,
        share: bool,
        inputs: Mapping[str, str] | None,
        commit_seconds: float,
    ) -> None:
        self.stage = stage
        self.files = stage.files
        self.state = state_of(stage.files)
        self.settings = dict(settings)
        self.commits = 0
        self._replace = replace
        self._cache = cache
        self._share = share
        self._inputs = dict(inputs or {})
        self._commit_seconds = commit_seconds
        self.lock = WriterLock(stage.files)
        self._manifest: Manifest | None = None
        self._replaced: Manifest | None = None  # committed until the first new rows are
        self._keys: KeySet | None = None
        self._failed: KeySet | None = None
        self._buffer: list[pa.Table] = []
        self._buffered_rows = self._buffered_bytes = 0
        self._last_commit = self._last_write = time.monotonic()
        self.sequence = 0

    def __enter__(self) -> StageWriter:
        # A link that leads nowhere is a table on a disk that is not there now.
        anew = self.files.local is not None and not os.path.lexists(self.files.local)
        self.files.make()
        self.state.make()
        self.lock.acquire()
        try:
            if anew:
                forget(self.files)
            self._open()
        except BaseException:
            self.lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.flush()
            if self._manifest is not None:
                self.save()
        except PrepError:
            if error is None:
                raise
        finally:
            self.lock.release()

    @property
    def manifest(self) -> Manifest:
        """The committed state; only the writer changes it."""
        if self._manifest is None:
            raise RuntimeError("A StageWriter must be used as a context manager.")
        return self._manifest

    @manifest.setter
    def manifest(self, changed: Manifest) -> None:
        self._manifest = changed

    @property
    def uri(self) -> str:
        """The location of the shards, for the summary."""
        return self.files.uri

    @property
    def cache_address(self) -> str | None:
        """The cache in which retired shards stay readable."""
        return None if self._cache is None else self._cache.address

    @property
    def done(self) -> KeySet:
        """The keys of all rows committed or written so far. Read from the shards on first use."""
        if self._keys is None:
            self._keys = self.stage.reader().keys()
        return self._keys

    @property
    def failed(self) -> KeySet:
        """The keys among ``done`` whose row has an error. Read from the shards on first use."""
        if self._failed is None:
            self._failed = self.stage.reader().keys(failed=True)
        return self._failed

    @property
    def replaces(self) -> bool:
        """Whether the rows that this run replaces are still committed."""
        return self._replaced is not None

    def forget_keys(self) -> None:
        """Read the keys again on next use: rows have been removed."""
        self._keys = self._failed = None

    def finished(self, selection: Mapping[str, object]) -> tuple[int, int] | None:
        """The rows, and those with an error, of a selection that an earlier run has committed."""
        return self.manifest.finished_rows(selection)

    def finish(self, selection: Mapping[str, object], rows: int, failed: int = 0) -> None:
        """Record that every row of the selection is committed, so that a re-run can skip it.

        ``failed`` of them have an error.
        """
        self.flush()
        entry: FinishedEntry = {"selection": dict(selection), "rows": rows, "failed": failed, "at": utc_now()}
        self.manifest.finished[fingerprint(selection)] = entry
        self.save()

    def save(self) -> None:
        """Commit the manifest with the ledger merged into it, but not while replaced rows are committed."""
        if self._replaced is None:
            fold(self.files, self.manifest)

    def record_run(self, run: RunEntry) -> None:
        """Store the statistics of a run (JSON values: arguments, rows, seconds, rate) in the manifest."""
        self.manifest.runs.append({"at": utc_now(), **run})

    def write(self, table: pa.Table) -> None:
        """Add the rows of one unit, in the table's schema. Either all of them are committed or none.

        Raises ``ValueError`` for a row whose key already exists, or occurs twice in ``table``.
        """
        table = table.select(self.stage.schema.names).cast(self.stage.schema)
        if not table.num_rows:
            return
        hashes = column_hashes(table.column(self.stage.key_column))
        failed = self.failed, failures(table)  # read before rows of this run are committed
        seen = self.done.contains_hashes(hashes)
        known = len(self.done)
        if not seen.any():
            self.done.add_hashes(hashes)
        if seen.any() or len(self.done) - known != len(hashes):
            key = table.column(self.stage.key_column)[int(seen.argmax())].as_py()
            raise ValueError(f"{self.stage.name}: a row with {self.stage.key_column}={key!r} already exists")
        failed[0].add_hashes(hashes[failed[1]])
        self._buffer.append(table)
        self._buffered_rows += table.num_rows
        self._buffered_bytes += table.nbytes
        full = self._buffered_rows >= COMMIT_ROWS or self._buffered_bytes >= COMMIT_BYTES
        last_write, self._last_write = self._last_write, time.monotonic()
        next_write = self._last_write + (self._last_write - last_write)
        if full or next_write - self._last_commit >= self._commit_seconds:
            self.flush()

    def flush(self) -> None:
        """Commit the buffer: after this returns, the rows survive a crash of the process."""
        if self._buffer:
            table = pa.concat_tables(self._buffer)
            self.lock.check()
            shard, data = encode(table, self.meta())
            put_shard(self.files, shard.name, data)
            self._buffer, self._buffered_rows, self._buffered_bytes = [], 0, 0
            if self._replaced is not None:
                self._switch(self._replaced, shard)
            else:
                self.list_shards([shard])
            if self._share and self._cache is not None:
                self._keep([shard.name], self.manifest.fingerprint)
        self._last_commit = time.monotonic()

    def list_shards(self, shards: list[Shard], removed: Sequence[str] = ()) -> None:
        """Add shards to the ledger; from time to time, fold it into the manifest."""
        self.sequence += 1
        write_ledger(self.files, self.manifest.generation, self.sequence, shards, removed)
        for shard in shards:
            self.manifest.shards[shard.name] = shard
        for name in removed:
            self.manifest.shards.pop(name, None)
            self.files.delete(name)
        self.manifest.folded = self.sequence
        self.commits += 1
        if self.commits % FOLD_EVERY == 0:
            fold(self.files, self.manifest)

    def _switch(self, replaced: Manifest, first: Shard) -> None:
        """Commit the first new shard in place of all rows of ``replaced``, which stay in the cache."""
        self._keep(list(replaced.shards), replaced.fingerprint)
        self._replaced = None
        self.manifest.shards[first.name] = first
        self.manifest.save(self.files)
        self.commits += 1
        self._recover(self.files.sizes())

    def meta(self) -> ShardMeta:
        """The metadata of a new shard."""
        return ShardMeta(self.stage.name, self.manifest.generation, self.settings)

    def _open(self) -> None:
        """Read the committed state, check it against this run, and recover from a killed run."""
        found, names = load_manifest(self.files), self.files.sizes()
        stored = checked_manifest(found, self.files, names, self.settings, self._replace)
        settle(self.files, found, names)
        if stored is None or (self._replace and not stored.shards):
            stored = Manifest(self.stage.name, self.settings)
        elif self._replace:
            self._replaced = stored
            stored = Manifest(self.stage.name, self.settings, folded=stored.folded)
            self._keys, self._failed = KeySet(), KeySet()
        self._manifest = stored
        self.sequence = max([stored.folded, *ledger_sequences(self.state.sizes())])
        stored.folded = self.sequence
        stored.versions = package_versions()
        stored.inputs = {**stored.inputs, **self._inputs}
        if self._replaced is None:
            stored.save(self.files)
            self._recover(names)

    def _keep(self, names: list[str], settings_fingerprint: str) -> None:
        """Keep shards readable in the response cache, under the settings they were made with."""
        if self._cache is None:
            return
        folder = self._cache.folder(f"{self.stage.name}/{settings_fingerprint}")
        folder.make()
        for name in names:
            self.files.link(name, folder)

    def _recover(self, names: Mapping[str, int]) -> None:
        """Adopt complete shards of this table that a killed run did not list; remove its other files."""
        manifest = self.manifest
        if self.files.local is not None:
            shutil.rmtree(aside_of(self.files.local), ignore_errors=True)
        check_sizes(self.files, manifest, names)
        kept = self.state.sizes()  # of the ledger, what the manifest on disk has: not what is adopted below
        merged = [ledger_name(number) for number in ledger_sequences(kept) if number <= manifest.folded]
        for name in [*merged, *(name for name in kept if name.endswith(TEMPORARY))]:
            self.state.delete(name)
        for name in names:
            unlisted = is_shard(name) and name not in manifest.shards
            if name.endswith(TEMPORARY) or (unlisted and not self._adopt(name)):
                self.files.delete(name)

    def _adopt(self, name: str) -> bool:
        """List a shard that its writer renamed but did not list; False if it belongs to another table."""
        described = describe(self.files, name)
        if described is None:
            return False
        shard, meta = described
        if meta.stage != self.stage.name or meta.generation != self.manifest.generation:
            return False
        hashes = keys_of_shard(self.files, name, self.stage.schema, self.stage.key_column)
        if hashes is None or self.done.contains_hashes(hashes).any():
            return False
        self.list_shards([shard])
        self.done.add_hashes(hashes)
        self._failed = None  # its errors are read on next use
        return True

"""Opens a store: one folder of committed Parquet shards per table, with many readers and one writer."""

from __future__ import annotations

import json
import posixpath
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from prep.cache.files import Files, explained, open_files
from prep.cache.keyset import KeySet, column_hashes
from prep.cache.manifest import Manifest, load_manifest
from prep.cache.schema import STAGES
from prep.cache.shards import check_footer, check_values
from prep.cache.state import MANIFEST, OLD, located
from prep.errors import MissingInputError, PrepError
from prep.inputs import read_plain

if TYPE_CHECKING:
    import pyarrow.dataset as ds

    from prep.cache.mask_rows import MaskRows
    from prep.cache.writer import StageWriter
    from prep.masks.objects import Masks

CACHE_FOLDER = "cache"
ASIDE_FOLDER = "aside"
# A manifest of 10^7 rows in 10^4 shards has 2 MB.
MAX_MANIFEST = 1 << 28


def open_store(uri: str | Path, *, create: bool = False) -> Store:
    """The store at a local path or filesystem URI (``s3://bucket/prefix``, ``gs://...``).

    Raises :class:`PrepError` if there is none, unless ``create`` is set (a writer's first run).
    """
    files = open_files(uri)
    if create:
        files.make()
    elif not any(files.exists(stage) for stage in STAGES):
        raise MissingInputError(
            f"There is no store at {files.uri}.",
            "Set --store to an existing one; `pcnet-prep phrases` and `pcnet-prep sam` create one.",
        )
    return Store(files)


class Store:
    """A folder of tables. Cheap to construct: files are read only when needed."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self._mask_rows: MaskRows | None = None

    @property
    def uri(self) -> str:
        """The location of the store, for messages and commands."""
        return self.files.uri

    @property
    def cache_uri(self) -> str:
        """The location of the response cache if ``--cache`` is not set, to open it."""
        return self.files.folder(CACHE_FOLDER).address

    def stages(self) -> list[str]:
        """The tables that exist in this store."""
        return [stage for stage in STAGES if located(self.files.folder(stage))]

    def tables(self) -> list[StageStore]:
        """Every table, and after each the rows set aside from it; they need not exist."""
        stages = [self.stage(name) for name in STAGES]
        return [table for stage in stages for table in (stage, stage.aside)]

    def stage(self, name: str) -> StageStore:
        """One table of the store, one of ``prep.cache.schema.STAGES``."""
        if name not in STAGES:
            raise ValueError(f"Unknown table {name!r}: choose one of {', '.join(STAGES)}.")
        return StageStore(self.files.folder(name), name, self.files.folder(f"{ASIDE_FOLDER}/{name}"))

    def masks(self, image: str) -> Masks:
        """The proposals of an image, whose path is as in the column ``image``; decoded on demand.

        Raises :class:`PrepError` if the image has no row, or one with an error. The first call reads the
        names of all images; a call reads 128 images at most, so images in the order of the table are cheap.
        """
        from prep.cache.mask_rows import MaskRows
        from prep.masks.objects import Masks

        if self._mask_rows is None:
            self._mask_rows = MaskRows(self)
        return Masks.of_row(self._mask_rows.get(image))

    def require_table(self, name: str, command: str) -> StageReader:
        """The rows of a required table; if missing, MissingInputError with ``command`` as the remedy."""
        reader = self.stage(name).reader()
        if not reader.exists:
            raise MissingInputError(
                f"{self.uri} has no {name} yet.", f"Run: {command} --store {shlex.quote(self.uri)}"
            )
        return reader


class StageStore:
    """The folder of one table: ``reader()`` needs no lock, ``writer()`` takes it."""

    def __init__(self, files: Files, name: str, aside: Files | None = None) -> None:
        self.files = files
        self.name = name
        self.schema, self.key_column = STAGES[name]
        self.label = name if aside is not None else f"{ASIDE_FOLDER}/{name}"
        self._aside = aside

    @property
    def aside(self) -> StageStore:
        """The rows that the input no longer has: a table of the same columns, ``<store>/aside/<table>``."""
        if self._aside is None:
            raise ValueError("Rows that are set aside have no table for such rows.")
        return StageStore(self._aside, self.name)

    def reader(self) -> StageReader:
        """The rows committed at this moment. Works while a writer is active and on a read-only store."""
        return StageReader(self)

    def writer(
        self,
        settings: Mapping[str, object],
        *,
        replace: bool = False,
        cache: str | Path | None = None,
        share: bool = False,
        inputs: Mapping[str, str] | None = None,
        commit_seconds: float = 2.0,
    ) -> StageWriter:
        """The single writer of the table, used as a context manager.

        ``settings`` is everything that can change a row, as JSON values. Entering takes the lock and raises
        :class:`PrepError` if another process holds it, or if the table has other settings. With ``replace``,
        the existing rows are retired instead and the table is overwritten. With ``cache``, retired shards
        stay readable in ``<cache>/<stage>/<fingerprint of their settings>`` (see ``AnswerCache``), and with
        ``share`` every shard is also added there when it is committed, for other stores. ``inputs`` (file
        name -> SHA-256) is added to the manifest. Rows are committed every ``commit_seconds``.
        """
        from prep.cache.writer import StageWriter

        return StageWriter(
            self,
            settings,
            replace=replace,
            cache=None if cache is None else open_files(cache),
            share=share,
            inputs=inputs,
            commit_seconds=commit_seconds,
        )


class StageReader:
    """The committed rows of a table, as of the time of construction."""

    def __init__(self, stage: StageStore) -> None:
        self.stage = stage
        self.manifest: Manifest | None = load_manifest(stage.files)

    @property
    def exists(self) -> bool:
        """Whether the table exists."""
        return self.manifest is not None

    @property
    def settings(self) -> dict[str, object]:
        """The settings of every row; empty if the table does not exist."""
        return self.manifest.settings if self.manifest else {}

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the settings, or an empty string."""
        return self.manifest.fingerprint if self.manifest else ""

    @property
    def num_rows(self) -> int:
        """The number of committed rows."""
        return self.manifest.rows if self.manifest else 0

    def paths(self) -> list[str]:
        """The committed shards as paths of ``stage.files.filesystem``, in the order they were committed."""
        shards = self.manifest.shards if self.manifest else {}
        return [self.stage.files.path(name) for name in shards]

    def dataset(self) -> ds.Dataset:
        """The committed shards as a ``pyarrow.dataset.Dataset``; reads their footers."""
        import pyarrow.dataset as ds

        files = self.stage.files
        form = ds.ParquetFileFormat()
        found = ds.FileSystemDataset.from_paths(
            self.paths(), schema=self.stage.schema, format=form, filesystem=files.filesystem
        )
        sizes = files.sizes()

        with ThreadPoolExecutor(8) as pool:  # on an object store each footer is a request of its own
            footers = pool.map(lambda fragment: (fragment.path, fragment.metadata), found.get_fragments())
            for path, footer in footers:
                check_footer(footer, sizes.get(posixpath.basename(path), 0))
        return found

    def read(self, columns: list[str] | None = None, filter: object = None) -> pa.Table:
        """The committed rows as one table, in the order of commits.

        ``columns`` selects and orders columns, ``filter`` is a ``pyarrow.compute`` expression.
        """
        with explained("read", self.stage.files.uri):
            table = self.dataset().to_table(columns=columns, filter=filter)
            check_values(table)
            return table

    def batches(self, columns: list[str] | None = None, filter: object = None) -> Iterator[pa.RecordBatch]:
        """The committed rows in batches of a few row groups, for tables that do not fit in memory."""
        with explained("read", self.stage.files.uri):
            found = self.dataset().to_batches(
                columns=columns, filter=filter, batch_readahead=2, fragment_readahead=1
            )
            for batch in found:
                check_values(batch)
                yield batch

    def statuses(self) -> Counter[str]:
        """How many committed rows have each ``status``; empty for a table without this column."""
        counts: Counter[str] = Counter()
        if "status" in self.stage.schema.names:
            for batch in self.batches(columns=["status"]):
                counts.update({e["values"]: e["counts"] for e in batch.column(0).value_counts().to_pylist()})
        return counts

    def keys(self, *, failed: bool = False) -> KeySet:
        """The keys of the committed rows (8 bytes each in memory), or of those with an error only."""
        keys, wanted = KeySet(), None
        if failed:
            if "status" not in self.stage.schema.names:
                return keys
            wanted = pc.field("status") == "error"
        with explained("read", self.stage.files.uri):
            for batch in self.batches(columns=[self.stage.key_column], filter=wanted):
                keys.add_hashes(column_hashes(pa.chunked_array([batch.column(0)])))
        return keys


def read_manifest_file(path: Path) -> Manifest:
    """A manifest from a separate file, for ``--from-manifest``: its ``settings`` and ``runs``.

    ``path`` may also be a table's folder, or where an older version had the manifest of a table.
    """
    if path.is_dir() or (path.name == OLD + MANIFEST and not path.exists()):
        found = located(open_files(path if path.is_dir() else path.parent))
        if found is None:
            raise PrepError(f"{path} has no manifest.", "Give the folder of a table in a store.")
        path = Path(found[0].where(found[1] + MANIFEST))
    with explained("read", str(path)):
        data = read_plain(path, MAX_MANIFEST)
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PrepError(f"{path} is not JSON: {error}.", "Give the folder of a table in a store.") from error
    return Manifest.from_json(value, str(path))

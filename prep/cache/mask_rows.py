"""Reads rows of the proposals table by image: some of them in a row, or single ones without the others."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prep.cache.files import explained
from prep.cache.shards import check_footer, check_values, complete
from prep.errors import MissingInputError, PrepError
from prep.records import ProposalRow

if TYPE_CHECKING:
    from prep.cache.store import StageReader, Store

TABLE = "proposals"


def rows_of_images(
    reader: StageReader, images: Collection[str] | None, columns: list[str] | None = None
) -> Iterator[ProposalRow]:
    """The rows of the proposals table of ``images`` (None: all), in the order of commits, one at a time."""
    for batch in reader.batches(columns):
        for at, image in enumerate(batch.column("image").to_pylist()):
            if images is None or image in images:
                yield batch.slice(at, 1).to_pylist()[0]


class MaskRows:
    """The rows of a store's proposals by image.

    The names of the images are read once, and again if one is not found or a shard is gone: a writer may have
    added or merged shards since. A look-up reads one row group (128 images), and the last one is kept.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._where: dict[str, tuple[str, int]] | None = None
        self._group: tuple[tuple[str, int], pa.Table] | None = None

    def get(self, image: str) -> ProposalRow:
        """The row of an image; raises MissingInputError if there is none."""
        known = self._where is not None
        try:
            return self._get(image)
        except PrepError:
            if not known:
                raise
        self._where = self._group = None
        return self._get(image)

    def _get(self, image: str) -> ProposalRow:
        if self._where is None:
            self._where = self._index()
        if image not in self._where:
            raise MissingInputError(
                f"The proposals of {self._store.uri} have no image {image!r}.",
                "Give the path below the data root, as in the column `image`.",
            )
        shard, row = self._where[image]
        table, first = self._row_group(shard, row)
        found: ProposalRow = table.slice(row - first, 1).to_pylist()[0]
        return found

    def _index(self) -> dict[str, tuple[str, int]]:
        reader = self._store.require_table(TABLE, "pcnet-prep sam")
        where = {}
        for name in reader.manifest.shards if reader.manifest else ():
            with explained("read", reader.stage.files.where(name)):
                images = self._file(name).read(columns=["image"]).column(0).to_pylist()
            where.update({image: (name, row) for row, image in enumerate(images)})
        return where

    def _row_group(self, shard: str, row: int) -> tuple[pa.Table, int]:
        """The row group that holds a row of a shard, and the number of its first row."""
        stage = self._store.stage(TABLE)
        with explained("read", stage.files.where(shard)):
            file = self._file(shard)
            sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            ends = np.cumsum(sizes)
            number = int(np.searchsorted(ends, row, side="right"))
            if self._group is None or self._group[0] != (shard, number):
                table = complete(file.read_row_group(number), stage.schema)
                check_values(table)
                self._group = (shard, number), table
        return self._group[1], int(ends[number] - sizes[number])

    def _file(self, name: str) -> pq.ParquetFile:
        files = self._store.stage(TABLE).files
        source = files.filesystem.open_input_file(files.path(name))
        file = pq.ParquetFile(source)
        check_footer(file.metadata, source.size())
        return file

"""Encodes, names and reads Parquet shards."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prep.cache.files import Files, explained
from prep.cache.keyset import column_hashes
from prep.cache.manifest_fields import ShardEntry
from prep.cache.schema import SCHEMA_VERSION
from prep.errors import PrepError

SHARD_PREFIX = "part-"
SHARD_SUFFIX = ".parquet"
META_KEY = b"pcnet-prep"
_NAME = re.compile(r"part-[0-9a-z]+\.parquet")

# The trainer reads proposals a few images at a time, and phrases and scores as a whole.
ROW_GROUP_ROWS = {"phrases": 65_536, "triplets": 65_536, "proposals": 128, "scores": 4_096, "concepts": 1_024}
DEFAULT_ROW_GROUP_ROWS = 4_096
# Of one column with lists: 1,000 equal scores of an image compress to a few bytes beside the row's key.
VALUES_PER_BYTE = 256

# Columns with few distinct values. Masks, keys and text repeat too rarely for a dictionary.
_DICTIONARY_COLUMNS = (
    "dataset", "split_by", "split", "source", "llm", "prompt_version", "generator", "model", "detector",
    "status", "error", "violations.list.element", "repairs.list.element", "rejected.list.element.source",
    "rejected.list.element.violations.list.element",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Shard:
    """A committed shard: its file name, the SHA-256 of its bytes, its row count and its size in bytes."""

    name: str
    sha256: str
    rows: int
    bytes: int

    def to_json(self) -> ShardEntry:
        """The shard as the manifest lists it."""
        return {"name": self.name, "sha256": self.sha256, "rows": self.rows, "bytes": self.bytes}


@dataclass(frozen=True, slots=True)
class ShardMeta:
    """The metadata of a shard: its table, generation and settings."""

    stage: str
    generation: str
    settings: Mapping[str, object]
    schema_version: int = SCHEMA_VERSION

    def encode(self) -> bytes:
        """The JSON stored in the Parquet key-value metadata under ``pcnet-prep``."""
        return json.dumps(asdict(self), sort_keys=True).encode()


def encode(table: pa.Table, meta: ShardMeta) -> tuple[Shard, pa.Buffer]:
    """A table as one zstd-compressed Parquet file in memory, named by its content."""
    described = table.replace_schema_metadata({META_KEY: meta.encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(
        described,
        sink,
        row_group_size=ROW_GROUP_ROWS.get(meta.stage, DEFAULT_ROW_GROUP_ROWS),
        compression="zstd",
        use_dictionary=[name for name in _DICTIONARY_COLUMNS if name.split(".")[0] in table.column_names],
        write_page_index=True,
    )
    buffer = sink.getvalue()
    digest = hashlib.sha256(buffer).hexdigest()
    return Shard(shard_name(digest), digest, table.num_rows, buffer.size), buffer


def shard_name(digest: str) -> str:
    """The file name of a shard whose bytes have this SHA-256."""
    return f"{SHARD_PREFIX}{digest[:16]}{SHARD_SUFFIX}"


def is_shard(name: str) -> bool:
    """Whether a file name is that of a shard."""
    return bool(_NAME.fullmatch(name))


def check_footer(footer: pq.FileMetaData, size: int) -> None:
    """Raise ``pa.ArrowInvalid`` if a Parquet file of ``size`` bytes says that it has far more values.

    Every row has a key of its own, so it takes a byte at least; equal values may take no space at all, and a
    file of half a megabyte could have 10^9 rows of them. Lists repeat values within a row.
    """
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    rows = max(footer.num_rows, sum(group.num_rows for group in groups))
    values = sum(
        max((group.column(i).num_values for i in range(group.num_columns)), default=0) for group in groups
    )
    if rows > size or values > VALUES_PER_BYTE * size:
        raise pa.ArrowInvalid(f"it says that {size} bytes are {rows} rows with {values} values")


def describe(files: Files, name: str) -> tuple[Shard, ShardMeta] | None:
    """A shard file verified against the hash in its name, or ``None`` if it is not a complete shard."""
    data = files.read(name)
    digest = hashlib.sha256(data).hexdigest()
    if shard_name(digest) != name:
        return None
    try:
        footer = pq.read_metadata(pa.BufferReader(data))
        check_footer(footer, len(data))
        fields = json.loads((footer.metadata or {})[META_KEY])
        meta = ShardMeta(**fields)
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, RecursionError):
        return None
    return Shard(name, digest, footer.num_rows, len(data)), meta


def read_shard(files: Files, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of one shard. Raises ``PrepError`` for a file that is missing or not Parquet, or text that is
    not UTF-8.
    """
    wanted = None if columns is None else list(columns)

    def get() -> pa.Table:
        with files.filesystem.open_input_file(files.path(name)) as source:
            file = pq.ParquetFile(source)
            check_footer(file.metadata, source.size())
            return file.read(columns=wanted)

    with explained("read", files.where(name)):
        table = files.call(get).replace_schema_metadata(None)
        table.validate(full=True)  # Parquet's readers do not
    return table


def check_values(data: pa.Table | pa.RecordBatch) -> None:
    """Raise ``pa.ArrowInvalid`` for text that is not UTF-8, and for a null where its schema has none.

    Parquet's readers let both pass. An item of a list is never null in our tables.
    """
    data.validate(full=True)
    for field, values in zip(data.schema, data.columns, strict=True):
        chunks = values.chunks if isinstance(values, pa.ChunkedArray) else [values]
        if name := next(filter(None, (_null_in(field, chunk, field.nullable) for chunk in chunks)), ""):
            raise pa.ArrowInvalid(f"a row has no value in {name}")


def _null_in(field: pa.Field, values: pa.Array, nullable: bool) -> str:
    """The first field in ``values`` that is null but must not be, such as ``masks.item.counts``, or empty."""
    if values.null_count and not nullable:
        return str(field.name)
    found = ""
    if pa.types.is_list(field.type):
        found = _null_in(field.type.value_field, values.flatten(), False)
    elif pa.types.is_struct(field.type):
        inner = zip(field.type, values.flatten(), strict=True)
        found = next(filter(None, (_null_in(part, each, part.nullable) for part, each in inner)), "")
    return f"{field.name}.{found}" if found else ""


def keys_of_shard(files: Files, name: str, schema: pa.Schema, key: str) -> np.ndarray | None:
    """The hashes of the keys of a shard; None if it has no rows of ``schema``, whatever its metadata says."""
    try:
        return column_hashes(complete(read_shard(files, name), schema).column(key))
    except (PrepError, pa.ArrowException, ValueError):
        return None


def complete(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """``table`` with the columns of ``schema``; one that an older version did not write is null."""
    for field in schema:
        if field.name not in table.column_names:
            table = table.append_column(field.name, pa.nulls(table.num_rows, field.type))
    return table.select(schema.names).cast(schema)


def shard_schema(files: Files, name: str) -> pa.Schema | None:
    """The columns of a shard, or ``None`` for a file that is not Parquet."""
    with explained("read", files.where(name)), files.filesystem.open_input_file(files.path(name)) as source:
        try:
            return pq.read_schema(source).remove_metadata()
        except pa.ArrowException:
            return None

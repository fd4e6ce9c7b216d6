"""Defines the columns of every shard and the schema version."""

from __future__ import annotations

import pyarrow as pa

SCHEMA_VERSION = 2
# Version 1 has no column ``repairs``: its rows are read with null there.
READABLE_VERSIONS = (1, 2)

PHRASE_SOURCES = ("llm", "repaired", "retry", "rules", "expression", "import")

PHRASES = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("split_by", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("ref_id", pa.int64()),
        pa.field("sent_id", pa.int64()),
        pa.field("image_id", pa.int64()),
        pa.field("image", pa.string()),
        pa.field("expression", pa.string(), nullable=False),
        pa.field("phrases", pa.list_(pa.string()), nullable=False),
        pa.field("source", pa.string()),
        pa.field("llm", pa.string(), nullable=False),
        pa.field("prompt_version", pa.string()),
        pa.field("key", pa.string(), nullable=False),
        pa.field("violations", pa.list_(pa.string()), nullable=False),
        pa.field("repairs", pa.list_(pa.string())),
        pa.field(
            "rejected",
            pa.list_(pa.struct([("source", pa.string()), ("violations", pa.list_(pa.string()))])),
            nullable=False,
        ),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("raw", pa.string()),
    ]
)

MASK = pa.struct(
    [
        pa.field("counts", pa.string(), nullable=False),
        pa.field("area", pa.int32(), nullable=False),
        pa.field("bbox", pa.list_(pa.float64()), nullable=False),
        pa.field("predicted_iou", pa.float64()),
        pa.field("stability_score", pa.float64()),
        pa.field("point", pa.list_(pa.float64())),
        pa.field("crop_box", pa.list_(pa.float64())),
    ]
)

PROPOSALS = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),
        pa.field("image_id", pa.int64()),
        pa.field("image_sha256", pa.string()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("masks", pa.list_(MASK), nullable=False),
        pa.field("grid32", pa.binary(), nullable=False),
        pa.field("generator", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
    ]
)

SCORES = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("split_by", pa.string(), nullable=False),
        pa.field("image", pa.string(), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
        pa.field("proposals_key", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
    ]
)

# Table -> its columns and its unique key column.
STAGES: dict[str, tuple[pa.Schema, str]] = {
    "phrases": (PHRASES, "row_id"),
    "proposals": (PROPOSALS, "image"),
    "scores": (SCORES, "row_id"),
}

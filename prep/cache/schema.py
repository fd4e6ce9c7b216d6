"""Defines the columns of every shard, with what each means, and the schema version."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa

SCHEMA_VERSION = 2
# Version 1 has no column ``repairs``: its rows are read with null there.
READABLE_VERSIONS = (1, 2)

PHRASE_SOURCES = ("llm", "repaired", "retry", "rules", "expression", "import")

PIXELS = "stored image, origin top left, x to the right, y down"


def column(
    name: str, kind: pa.DataType, meaning: str, *, nullable: bool = True, unit: str = "", frame: str = ""
) -> pa.Field:
    """A column with its ``description``, ``unit`` and coordinate ``frame``, as Parquet field metadata."""
    told = {"description": meaning, "unit": unit, "frame": frame}
    return pa.field(name, kind, nullable, metadata={key: text for key, text in told.items() if text})


REJECTED = pa.struct(
    [
        column("source", pa.string(), "the level, a value of `source`"),
        column("violations", pa.list_(pa.string()), "the names of the checks that its phrases failed"),
    ]
)

PHRASES = pa.schema(
    [
        column("row_id", pa.string(), "identity of the expression (32 hex digits), the key", nullable=False),
        column("dataset", pa.string(), "name of the dataset, such as `refcoco`", nullable=False),
        column(
            "split_by",
            pa.string(),
            "who split the dataset: `unc`, `umd` or `google`; empty if nobody",
            nullable=False,
        ),
        column("split", pa.string(), "split in the dataset, such as `train` or `testA`", nullable=False),
        column("ref_id", pa.int64(), "the dataset's ID of the referred object; null if it has none"),
        column("sent_id", pa.int64(), "the dataset's ID of the expression; null if it has none"),
        column("image_id", pa.int64(), "the dataset's ID of the image; null if it has none"),
        column("image", pa.string(), "path of the image below the data root or the image folder"),
        column("expression", pa.string(), "the expression as the dataset has it", nullable=False),
        column(
            "phrases",
            pa.list_(pa.string()),
            "the bare target, then the target with one cue each; empty in an error row",
            nullable=False,
        ),
        column(
            "source",
            pa.string(),
            "level that the phrases come from: " + ", ".join(map("`{}`".format, PHRASE_SOURCES)),
        ),
        column("llm", pa.string(), "`rules`, or the name of the language model", nullable=False),
        column("prompt_version", pa.string(), "version of the prompt; null for the rules"),
        column(
            "key", pa.string(), "content key: settings and normalised text (64 hex digits)", nullable=False
        ),
        column(
            "violations",
            pa.list_(pa.string()),
            "the names of the checks that these phrases fail; empty if they are valid",
            nullable=False,
        ),
        column(
            "repairs",
            pa.list_(pa.string()),
            "what was mended in the model's answer; null in rows of schema version 1",
        ),
        column(
            "rejected",
            pa.list_(REJECTED),
            "the levels that were tried before `source`, each with the checks it failed",
            nullable=False,
        ),
        column("status", pa.string(), "`ok`, or `error`: no phrases, see `error`", nullable=False),
        column("error", pa.string(), "why the row has no phrases; null if it has"),
        column("raw", pa.string(), "the model's responses as JSON, with `--keep-raw`; else null"),
    ]
)

MASK = pa.struct(
    [
        column(
            "counts",
            pa.string(),
            "compressed COCO run lengths of the `height` x `width` mask, column by column",
            nullable=False,
            frame=PIXELS,
        ),
        column("area", pa.int32(), "number of pixels of the mask", nullable=False, unit="pixels"),
        column(
            "bbox",
            pa.list_(pa.float64()),
            "bounding box: x, y, width, height",
            nullable=False,
            unit="pixels",
            frame=PIXELS,
        ),
        column(
            "predicted_iou",
            pa.float64(),
            "the generator's own score of the mask, 0 to 1; null if it has none",
        ),
        column(
            "stability_score",
            pa.float64(),
            "IoU of the masks at a higher and a lower threshold, 0 to 1; null if the generator has none",
        ),
        column(
            "point",
            pa.list_(pa.float64()),
            "x, y of the prompt that gave the mask; null if there was none",
            unit="pixels",
            frame=PIXELS,
        ),
        column(
            "crop_box",
            pa.list_(pa.float64()),
            "x, y, width, height of the crop in which the mask was made; null if there was none",
            unit="pixels",
            frame=PIXELS,
        ),
    ]
)

PROPOSALS = pa.schema(
    [
        column(
            "image",
            pa.string(),
            "path of the image below the data root or the image folder, the key",
            nullable=False,
        ),
        column("image_id", pa.int64(), "the dataset's ID of the image; null if it has none"),
        column(
            "image_sha256", pa.string(), "SHA-256 of the image file (64 hex digits); null if it was not read"
        ),
        column(
            "height",
            pa.int32(),
            "rows of pixels as stored: EXIF is not applied; null in an error row",
            unit="pixels",
        ),
        column("width", pa.int32(), "columns of pixels as stored; null in an error row", unit="pixels"),
        column("masks", pa.list_(MASK), "the masks, in the order of the selection", nullable=False),
        column(
            "grid32",
            pa.binary(),
            "each mask at 32 x 32: 128 bytes, row by row, the first cell in the highest bit of a byte",
            nullable=False,
            frame="cell (i, j) is the pixel in row i * height // 32, column j * width // 32",
        ),
        column(
            "generator", pa.string(), "name of the generator, such as `sam` or `segments`", nullable=False
        ),
        column("key", pa.string(), "content key: settings and image bytes (64 hex digits)", nullable=False),
        column("status", pa.string(), "`ok`, `empty`: no mask, or `error`: see `error`", nullable=False),
        column("error", pa.string(), "why the image has no masks; null if it could be read"),
    ]
)

SCORES = pa.schema(
    [
        column("row_id", pa.string(), "identity of the expression, as in `phrases`, the key", nullable=False),
        column("split_by", pa.string(), "who split the dataset, as in `phrases`", nullable=False),
        column("image", pa.string(), "path of the image, as in `proposals`", nullable=False),
        column(
            "scores",
            pa.list_(pa.float32()),
            "a score for each mask of the image, in the order of `masks`; higher is better",
            nullable=False,
            unit="cosine similarity, if CLIP scored",
        ),
        column("proposals_key", pa.string(), "`key` of the proposals that were scored", nullable=False),
        column("model", pa.string(), "name of the model that scored", nullable=False),
        column(
            "key", pa.string(), "content key: settings, proposals and text (64 hex digits)", nullable=False
        ),
    ]
)

CONCEPT_MASK = pa.struct(
    [
        column(
            "counts",
            pa.string(),
            "compressed COCO run lengths of the `height` x `width` mask; null for a detector of boxes",
            frame=PIXELS,
        ),
        column("area", pa.int32(), "number of pixels of the mask; null without one", unit="pixels"),
        column(
            "bbox",
            pa.list_(pa.float64()),
            "the detector's box: x, y, width, height; not always that of the mask",
            nullable=False,
            unit="pixels",
            frame=PIXELS,
        ),
        column("score", pa.float64(), "the detector's score, 0 to 1; higher is better", nullable=False),
    ]
)

CONCEPTS = pa.schema(
    [
        column(
            "concept_id", pa.string(), "identity of image and phrase (32 hex digits), the key", nullable=False
        ),
        column("image", pa.string(), "path of the image, as in `phrases`", nullable=False),
        column(
            "phrase",
            pa.string(),
            "the target noun phrase: the first of `phrases`",
            nullable=False,
        ),
        column(
            "image_sha256", pa.string(), "SHA-256 of the image file (64 hex digits); null if it was not read"
        ),
        column("height", pa.int32(), "rows of pixels as stored; null in an error row", unit="pixels"),
        column("width", pa.int32(), "columns of pixels as stored; null in an error row", unit="pixels"),
        column(
            "masks",
            pa.list_(CONCEPT_MASK),
            "what the detector found for the phrase, the highest score first",
            nullable=False,
        ),
        column("detector", pa.string(), "`sam3` or `grounding-dino`", nullable=False),
        column(
            "key",
            pa.string(),
            "content key: settings, image bytes and normalised phrase (64 hex digits)",
            nullable=False,
        ),
        column("status", pa.string(), "`ok`, `empty`: nothing found, `error`: see `error`", nullable=False),
        column("error", pa.string(), "why the detector did not look; null if it did"),
    ]
)

# Table -> its columns and its unique key column.
STAGES: dict[str, tuple[pa.Schema, str]] = {
    "phrases": (PHRASES, "row_id"),
    "proposals": (PROPOSALS, "image"),
    "scores": (SCORES, "row_id"),
    "concepts": (CONCEPTS, "concept_id"),
}
# Table -> what one of its rows is.
ROW_OF = {
    "phrases": "one referring expression",
    "proposals": "one image",
    "scores": "one referring expression whose image has proposals",
    "concepts": "one image and one target noun phrase of its expressions",
}


class Described(NamedTuple):
    """A column, or a field of the structs in one (``masks.area``): its Arrow type and what it means."""

    name: str
    type: str
    unit: str
    frame: str
    meaning: str


def described(schema: pa.Schema | pa.DataType, within: str = "") -> Iterator[Described]:
    """Every column of a schema, each followed by the fields of its structs. Texts are empty if not given."""
    for field in schema:
        told = {key.decode(): text.decode() for key, text in (field.metadata or {}).items()}
        inner = field.type.value_type if pa.types.is_list(field.type) else field.type
        is_struct = pa.types.is_struct(inner)
        shown = str(field.type) if not is_struct else "list of structs" if inner != field.type else "struct"
        name = f"{within}{field.name}"
        yield Described(name, shown, told.get("unit", ""), told.get("frame", ""), told.get("description", ""))
        if is_struct:
            yield from described(inner, f"{name}.")


def column_table(name: str) -> str:
    """The columns of a table as a Markdown table."""
    lines = ["| column | type | unit and frame | meaning |", "|---|---|---|---|"]
    for one in described(STAGES[name][0]):
        kind = re.sub(r"list<\w+: (.+)>", r"list of \1", one.type)
        place = "; ".join(filter(None, (one.unit, one.frame)))
        lines.append(f"| `{one.name}` | {kind} | {place} | {one.meaning} |")
    return "\n".join(lines)

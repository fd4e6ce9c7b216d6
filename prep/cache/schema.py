"""Defines the columns of every shard, with what each means, and the schema version."""

from __future__ import annotations

import pyarrow as pa

from prep.cache.columns import column

SCHEMA_VERSION = 2
# Version 1 has no column ``repairs``: its rows are read with null there.
READABLE_VERSIONS = (1, 2)

PHRASE_SOURCES = ("llm", "repaired", "retry", "rules", "expression", "import")

PIXELS = "stored image, origin top left, x to the right, y down"


REJECTED = pa.struct(
    [
        column("source", pa.string(), "the level, a value of `source`"),
        column("violations", pa.list_(pa.string()), "the names of the checks that its phrases failed"),
    ]
)

OF_EXPRESSION = [
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
]


def made_by(what: str, version_1: str = "") -> list[pa.Field]:
    """The columns that say how ``what`` was made of an expression."""
    return [
        column(
            "source",
            pa.string(),
            f"level that the {what} come from: " + ", ".join(map("`{}`".format, PHRASE_SOURCES)),
        ),
        column("llm", pa.string(), "`rules`, or the name of the language model", nullable=False),
        column("prompt_version", pa.string(), "version of the prompt; null for the rules"),
        column(
            "key", pa.string(), "content key: settings and normalised text (64 hex digits)", nullable=False
        ),
        column(
            "violations",
            pa.list_(pa.string()),
            f"the names of the checks that these {what} fail; empty if they are valid",
            nullable=False,
        ),
        column("repairs", pa.list_(pa.string()), f"what was mended in the model's answer{version_1}"),
        column(
            "rejected",
            pa.list_(REJECTED),
            "the levels that were tried before `source`, each with the checks it failed",
            nullable=False,
        ),
        column("status", pa.string(), f"`ok`, or `error`: no {what}, see `error`", nullable=False),
        column("error", pa.string(), f"why the row has no {what}; null if it has"),
        column("raw", pa.string(), "the model's responses as JSON, with `--keep-raw`; else null"),
    ]


PHRASES = pa.schema(
    [
        *OF_EXPRESSION,
        column(
            "phrases",
            pa.list_(pa.string()),
            "the bare target, then the target with one cue each; empty in an error row",
            nullable=False,
        ),
        *made_by("phrases", "; null in rows of schema version 1"),
    ]
)

RELATION = pa.struct(
    [
        column("subject", pa.string(), "the entity, or another thing", nullable=False),
        column("predicate", pa.string(), "place, relation or action; may be empty", nullable=False),
        column("object", pa.string(), "the entity, another thing, or empty", nullable=False),
    ]
)

TRIPLETS = pa.schema(
    [
        *OF_EXPRESSION,
        column("entity", pa.string(), "the target with its attributes; null in an error row"),
        column(
            "relations",
            pa.list_(RELATION),
            "relations whose subject or object is the entity; empty in an error row",
            nullable=False,
        ),
        *made_by("triplets"),
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
    "triplets": (TRIPLETS, "row_id"),
    "proposals": (PROPOSALS, "image"),
    "scores": (SCORES, "row_id"),
    "concepts": (CONCEPTS, "concept_id"),
}
# Table -> what one of its rows is.
ROW_OF = {
    "phrases": "one referring expression",
    "triplets": "one referring expression",
    "proposals": "one image",
    "scores": "one referring expression whose image has proposals",
    "concepts": "one image and one target noun phrase of its expressions",
}

"""A store of phrases with photos, for the tests of the concepts job and command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from prep.cache.schema import PHRASES
from prep.cache.store import Store, open_store

ID = "{:032x}".format  # the row_id of a number
Row = tuple[str, str | None, list[str], str]  # row_id, image, phrases, split


def write_photo(path: Path, seed: int, height: int = 24, width: int = 32) -> None:
    """A photo of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def phrase_table(rows: Sequence[Row]) -> pa.Table:
    """Rows of the phrases table; one without phrases is an error row."""
    made = [
        {
            "row_id": row_id, "dataset": "toy", "split_by": "unc", "split": split, "ref_id": None,
            "sent_id": None, "image_id": None, "image": image, "expression": f"the text of {row_id}",
            "phrases": phrases, "source": "rules" if phrases else None, "llm": "rules",
            "prompt_version": None, "key": "0" * 64, "violations": [], "repairs": [], "rejected": [],
            "status": "ok" if phrases else "error", "error": None if phrases else "empty", "raw": None,
        }
        for row_id, image, phrases, split in rows
    ]  # fmt: skip
    return pa.Table.from_pylist(made, schema=PHRASES)


def write_phrases(where: Path, rows: Sequence[Row], version: int = 1) -> Store:
    """The store at ``where`` with these rows of phrases instead of any others."""
    store = open_store(where, create=True)
    with store.stage("phrases").writer({"version": version}, replace=True) as writer:
        writer.write(phrase_table(rows))
    return store

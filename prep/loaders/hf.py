"""Gives a table of a store as a Hugging Face dataset, with images as such and masks decoded on demand."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from prep.errors import PrepError

if TYPE_CHECKING:
    import datasets

    from prep.cache.store import Store


def to_hf(store: Store, image_root: str | Path, table: str = "proposals") -> datasets.Dataset:
    """The rows of ``proposals`` or ``phrases`` without error as a ``datasets.Dataset``.

    ``image`` is an ``Image`` feature that reads the file below ``image_root``, and gives the stored pixels
    as a Pillow image: the EXIF orientation, which the masks do not know, is not applied. ``image_path`` is
    the path as the store has it. In ``proposals``, ``masks`` is a :class:`prep.masks.objects.Masks`. Both are
    read when a row is: ``dataset.with_format(None)`` gives what is stored. The rows are held in memory.

    Raises :class:`PrepError` if datasets is not installed, and for an image that cannot be read.
    """
    try:
        import datasets
    except ImportError as error:
        raise PrepError(
            "The package datasets is not installed.", "Run: python -m pip install datasets"
        ) from error
    if table not in ("proposals", "phrases"):
        raise PrepError(f"The table {table!r} has no images.", "Choose `proposals` or `phrases`.")
    rows = store.require_table(table, f"pcnet-prep {'sam' if table == 'proposals' else 'phrases'}").read()
    rows = rows.filter(pc.and_(pc.not_equal(rows["status"], "error"), pc.is_valid(rows["image"])))
    rows = rows.append_column("image_path", rows["image"])
    root = os.path.abspath(image_root)
    paths = [os.path.join(root, name) for name in rows["image"].to_pylist()]
    rows = rows.set_column(rows.column_names.index("image"), "image", pa.array(paths, pa.string()))
    made = datasets.Dataset(rows.replace_schema_metadata(None))
    made = made.cast_column("image", datasets.Image(decode=False))
    return made.with_transform(_decoded)


def _decoded(batch: Mapping[str, list[Any]]) -> dict[str, list[object]]:
    """A batch with its images read and its masks as objects."""
    from prep.images import UnreadableImage, check_name, read_rgb
    from prep.masks.objects import Masks

    found = dict(batch)
    if "image" in batch:
        found["image"] = []
        names = batch.get("image_path", [""] * len(batch["image"]))
        for image, name in zip(batch["image"], names, strict=True):
            try:
                check_name(name)
                found["image"].append(read_rgb(image["path"]))
            except UnreadableImage as error:
                raise PrepError(
                    f"{image['path']} cannot be used: {error}.",
                    "Give the folder that the store's image paths are relative to as image_root.",
                ) from error
    if "masks" in batch and {"image_path", "height", "width"} <= batch.keys():
        columns = (batch[name] for name in ("image_path", "height", "width", "masks"))
        found["masks"] = [Masks(*values) for values in zip(*columns, strict=True)]
    return found

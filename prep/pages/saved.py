"""Reads the rows and the maps that an evaluation saved: somebody else may have made the folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from prep.errors import PrepError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

REMEDY = "Evaluate again into this folder."
# The columns that the pages read; those of the first line have a value in every row.
NEEDED = ("row_id", "iou", "peak_y", "peak_x")
TEXT, TEXTS = ("row_id", "image", "expression"), ("phrases", "groups")
NUMBERS, WHOLE, FLAGS = ("iou", "proposal_iou", "margin", "entropy"), ("peak_y", "peak_x", "proposal"), (
    "point", "no_target",
)  # fmt: skip


def read_rows(path: Path) -> pa.Table:
    """``samples.parquet`` of an evaluation; raises :class:`PrepError` unless the pages can show all of it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from prep.cache.shards import check_footer, check_values

    try:
        check_footer(pq.read_metadata(path), path.stat().st_size)
        table = pq.read_table(path)
        check_values(table)
        if fault := _fault(table):
            raise ValueError(fault)
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).split("\n", 1)[0].rstrip(".")
        raise PrepError(f"{path} cannot be read: {reason}.", REMEDY) from error
    return table


def _fault(table: pa.Table) -> str:
    """What is wrong with the columns that the pages read, or an empty string."""
    import pyarrow.compute as pc
    from pyarrow import types

    def are_texts(kind: pa.DataType) -> bool:
        item = kind.value_type if types.is_list(kind) else None
        return item is not None and bool(types.is_string(item) or types.is_null(item))

    def is_number(kind: pa.DataType) -> bool:
        return bool(types.is_floating(kind) or types.is_integer(kind))

    kinds: list[tuple[tuple[str, ...], Callable[[pa.DataType], bool], str]] = [
        (TEXT, types.is_string, "text"),
        (TEXTS, are_texts, "lists of texts"),
        (NUMBERS, is_number, "numbers"),
        (WHOLE, types.is_integer, "whole numbers"),
        (FLAGS, types.is_boolean, "true or false"),
    ]
    there = set(table.column_names)
    if missing := [name for name in NEEDED if name not in there or table[name].null_count]:
        return f"it has rows without {missing[0]}"
    for names, holds, told in kinds:
        for name in names:
            kind = table.schema.field(name).type if name in there else None
            if kind is not None and not types.is_null(kind) and not holds(kind):
                return f"its column {name} holds {kind}, not {told}"
    for name in NUMBERS:
        if (
            name in there
            and table[name].null_count < len(table)
            and not pc.all(pc.is_finite(table[name])).as_py()
        ):
            return f"its column {name} has values that are not finite"
    return ""


def read_maps(path: Path) -> npt.NDArray[np.floating]:
    """The response maps of an expression's stages, float (N, h, w); raises :class:`PrepError`."""
    from prep.datasets.object_npy import load_object_npy

    maps: npt.NDArray[np.floating] = load_object_npy(path)
    shape = getattr(maps, "shape", ())
    if len(shape) != 3 or not all(shape) or maps.dtype.kind != "f":
        raise PrepError(f"{path} holds no response maps of stages.", REMEDY)
    return maps

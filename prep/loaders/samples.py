"""Joins the images of a store with their masks and expressions, for the loaders."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, overload

import pyarrow as pa
import pyarrow.compute as pc

from prep.errors import PrepError
from prep.images import ImageBytes, UnreadableImage, check_name, decode, read_bytes
from prep.records import Json, ProposalRow

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from prep.cache.store import Store
    from prep.masks.objects import Masks

# What is told of an expression; its image and its masks are the sample's.
EXPRESSION = ("row_id", "dataset", "split_by", "split", "ref_id", "sent_id", "expression", "phrases")


@dataclass(frozen=True)
class Sample:
    """An image with its row of proposals and its expressions (the columns :data:`EXPRESSION` of each)."""

    row: ProposalRow
    path: Path
    expressions: list[dict[str, Json]]

    @property
    def image(self) -> str:
        """The image's path as the store has it."""
        return str(self.row["image"])

    @property
    def masks(self) -> Masks:
        """The masks, decoded on demand."""
        from prep.masks.objects import Masks

        return Masks.of_row(self.row)

    def bytes(self) -> ImageBytes:
        """The image's file. Raises :class:`PrepError` if it cannot be read or is not the one of the masks."""
        try:
            check_name(self.image)
            found = read_bytes(self.path)
        except UnreadableImage as error:
            raise self._unusable(str(error)) from error
        if self.row["image_sha256"] not in (None, found.sha256):
            raise self._unusable("it is not the file that the masks in the store were made of")
        return found

    def pixels(self) -> npt.NDArray[np.uint8]:
        """The stored pixels, H x W x 3 RGB: the EXIF orientation is not applied, as for the masks."""
        try:
            return decode(self.bytes().data)
        except UnreadableImage as error:
            raise self._unusable(str(error)) from error

    def _unusable(self, reason: str) -> PrepError:
        return PrepError(
            f"{self.path} cannot be used: {reason}.",
            "Give the folder that the store's image paths are relative to as image_root.",
        )


class Samples(Sequence[Sample]):
    """The images of a store that have proposals, in the order of the table; a sequence of :class:`Sample`.

    ``image_root`` is the folder that image paths are relative to. With ``splits``, only expressions of these
    splits, and only images that have one. ``left_out`` counts the images with an error. The rows are held in
    memory as they are in the store; images and masks are decoded when they are asked for.
    """

    def __init__(self, store: Store, image_root: str | Path, splits: Collection[str] | None = None) -> None:
        self.root = Path(image_root)
        rows = store.require_table("proposals", "pcnet-prep sam").read()
        good = rows.filter(pc.not_equal(rows["status"], "error"))
        self.left_out = rows.num_rows - good.num_rows
        self._expressions, self._of = _by_image(store, splits)
        if splits is not None:
            good = good.filter(pc.is_in(good["image"], pa.array(list(self._of), pa.string())))
        self._rows = good.combine_chunks()

    def __len__(self) -> int:
        return int(self._rows.num_rows)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"There are {len(self)} images, not {index}.")
        row: ProposalRow = self._rows.slice(index % len(self), 1).to_pylist()[0]
        numbers = self._of.get(row["image"], [])
        found = self._expressions.take(pa.array(numbers, pa.int64())).to_pylist()
        return Sample(row, self.root / row["image"], found)


def _by_image(store: Store, splits: Collection[str] | None) -> tuple[pa.Table, dict[str, list[int]]]:
    """The usable expressions, and the numbers of those of each image."""
    reader = store.stage("phrases").reader()
    rows = reader.read([*EXPRESSION, "image", "status"])
    rows = rows.filter(pc.not_equal(rows["status"], "error"))
    if splits is not None:
        known = sorted(set(rows["split"].to_pylist()))
        if missing := sorted(set(splits) - set(known)):
            raise PrepError(
                f"{store.uri} has no expressions of the split {missing[0]!r}.",
                f"Choose among: {', '.join(known) or 'none: run `pcnet-prep phrases` first'}.",
            )
        rows = rows.filter(pc.is_in(rows["split"], pa.array(list(splits), pa.string())))
    numbers: dict[str, list[int]] = {}
    for number, image in enumerate(rows["image"].to_pylist()):
        numbers.setdefault(image, []).append(number)
    return rows.select(EXPRESSION), numbers

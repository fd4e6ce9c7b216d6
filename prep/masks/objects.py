"""The masks of one image as an object that numpy, pycocotools and supervision take, decoded on demand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

import numpy as np
import numpy.typing as npt

from prep.errors import PrepError
from prep.records import MaskRow, ProposalRow, Rle

if TYPE_CHECKING:
    import supervision


class Masks(Sequence[Rle]):
    """The masks of one image, in the order of the store.

    Pixels are those of the stored image: ``height`` x ``width``, origin top left. It is a sequence of COCO
    run lengths, ``{"size": [height, width], "counts": str}``, so that ``list(masks)`` is what pycocotools
    takes; ``numpy.asarray(masks)`` is the bool array N x H x W. Nothing is decoded before it is asked for,
    and nothing decoded is kept. A notebook shows the masks in colours.
    """

    def __init__(
        self,
        image: str,
        height: int,
        width: int,
        rows: Sequence[MaskRow],
        image_id: int | None = None,
    ) -> None:
        self.image, self.height, self.width, self.image_id = image, height, width, image_id
        self._rows = rows

    @classmethod
    def of_row(cls, row: ProposalRow) -> Masks:
        """The masks of a row of the proposals table. Raises :class:`PrepError` for a row with an error."""
        if row["status"] == "error":
            raise PrepError(
                f"{row['image']} has no masks: {row['error']}.",
                "Mend or replace the image, then run it again.",
            )
        return cls(row["image"], row["height"], row["width"], row["masks"], row["image_id"])

    def __repr__(self) -> str:
        return f"Masks({len(self)} of {self.height} x {self.width} in {self.image!r})"

    def _repr_png_(self) -> bytes:
        """The masks in colours on black, which a notebook shows."""
        from prep.pictures import preview

        black = np.zeros((self.height, self.width, 3), np.uint8)
        return preview(black, (self.array(number) for number in range(len(self))))

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Rle: ...

    @overload
    def __getitem__(self, index: slice) -> list[Rle]: ...

    def __getitem__(self, index: int | slice) -> Rle | list[Rle]:
        if isinstance(index, slice):
            return [self.rle(number) for number in range(*index.indices(len(self)))]
        return self.rle(index)

    def __iter__(self) -> Iterator[Rle]:
        return (self.rle(number) for number in range(len(self)))

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[np.generic]:
        if copy is False:
            raise ValueError("Masks are decoded into a new array.")
        found = np.zeros((len(self), self.height, self.width), bool)
        for number in range(len(self)):
            found[number] = self.array(number)
        return found if dtype is None else found.astype(dtype)

    def rle(self, index: int) -> Rle:
        """Mask ``index`` as COCO run lengths, as pycocotools takes them and JSON can hold them."""
        return {"size": [self.height, self.width], "counts": self._rows[index]["counts"]}

    def array(self, index: int) -> npt.NDArray[np.bool_]:
        """Mask ``index`` as a bool array H x W. Raises :class:`PrepError` if it is damaged."""
        from prep.masks.rle import decode_counts

        return decode_counts(self._rows[index]["counts"], self.height, self.width)

    @property
    def areas(self) -> npt.NDArray[np.int64]:
        """The number of pixels of each mask, N."""
        return np.array([row["area"] for row in self._rows], np.int64)

    @property
    def boxes(self) -> npt.NDArray[np.float64]:
        """The bounding boxes, N x 4: x, y, width, height in pixels."""
        return np.array([row["bbox"] for row in self._rows], np.float64).reshape(-1, 4)

    @property
    def scores(self) -> npt.NDArray[np.float64]:
        """The generator's own score of each mask (``predicted_iou``), N; NaN if it has none."""
        return np.array([row["predicted_iou"] for row in self._rows], np.float64)

    def to_coco(self, image_id: int | None = None, category_id: int = 1) -> list[dict[str, object]]:
        """The masks as COCO results, which ``COCO.loadRes`` takes: a score of 1 if the generator has none.

        ``image_id`` is the row's by default. Raises :class:`PrepError` if neither is known.
        """
        number = self.image_id if image_id is None else image_id
        if number is None:
            raise PrepError(f"{self.image} has no image_id.", "Call to_coco(image_id=...) with one.")
        return [
            {
                "image_id": number,
                "category_id": category_id,
                "segmentation": self.rle(index),
                "area": int(row["area"]),
                "bbox": [float(value) for value in row["bbox"]],
                "score": 1.0 if row["predicted_iou"] is None else float(row["predicted_iou"]),
            }
            for index, row in enumerate(self._rows)
        ]

    def to_supervision(self) -> supervision.Detections:
        """The masks as ``supervision.Detections``: boxes as XYXY, masks decoded, scores as ``confidence``.

        ``data["stability_score"]`` is there if every mask has one, and so is ``confidence``. Raises
        :class:`PrepError` if supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise PrepError(
                "The package supervision is not installed.", "Run: python -m pip install supervision"
            ) from error
        corners = self.boxes
        corners[:, 2:] += corners[:, :2]
        stable = [row["stability_score"] for row in self._rows]
        known = bool(len(self)) and not np.isnan(self.scores).any()
        return supervision.Detections(
            xyxy=corners,
            mask=np.asarray(self),
            confidence=self.scores if known else None,
            data={} if None in stable else {"stability_score": np.array(stable, np.float64)},
        )

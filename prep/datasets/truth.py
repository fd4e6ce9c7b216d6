"""Reads ground-truth masks, for evaluation only: no training code may import this module."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from prep.datasets.catalogue import Dataset
from prep.datasets.coco_json import read_annotations
from prep.datasets.jsonl import JsonlDataset
from prep.datasets.refer import RefDataset
from prep.datasets.segmentation import MAX_COORDINATE, MAX_PIXELS, BadSegmentation, Mask, decode, decode_once
from prep.images import UnreadableImage, image_size, read_mask
from prep.inputs import below
from prep.records import Expression

# Why an expression has no ground truth if the file simply gives none; every other reason is an error.
NO_MASK = "the line has no mask"

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels; x1 and y1 are not part of it


class Truth:
    """The ground-truth masks of a dataset's expressions, at the size of the stored image.

    With ``released``, they are the targets of the released code: a pixel that several polygons of one object
    cover is not part of it. ``problems`` records, by ``row_id``, why a requested expression has no usable
    mask.
    """

    def __init__(self, dataset: Dataset, released: bool = False) -> None:
        self.dataset = dataset
        self._decode = decode_once if released else decode
        self.problems: dict[str, str] = {}

    def mask(self, expression: Expression) -> Mask | None:
        """The bool H x W union of the targets, all False if there are none; None without a usable mask."""
        try:
            if expression.problem:
                raise BadSegmentation(expression.problem)
            if isinstance(self.dataset, RefDataset):
                return self._of_annotations(self.dataset, expression)
            if isinstance(self.dataset, JsonlDataset):
                return self._of_line(self.dataset, expression)
            raise BadSegmentation("the dataset has no masks")
        except BadSegmentation as problem:
            self.problems[expression.row_id] = str(problem)
            return None

    def boxes(self, expression: Expression) -> tuple[Box, ...] | None:
        """The annotated boxes of the targets as the released code reads them: x, y, width and height are cut
        to whole numbers, and both ends belong to the box.

        Empty for a dataset without annotated boxes; None if an annotation of a target has no usable one.
        """
        if not isinstance(self.dataset, RefDataset) or expression.ref_id is None:
            return ()
        found = []
        for target in self.dataset.targets.get(expression.ref_id, ()):
            box = self._boxes.get(target)
            numbers = box if isinstance(box, list) and len(box) == 4 else []
            if not numbers or not all(type(n) in (int, float) and abs(n) <= MAX_COORDINATE for n in numbers):
                self.problems[expression.row_id] = f"annotation {target} has no bbox of four numbers"
                return None
            x, y, width, height = (int(number) for number in numbers)
            found.append((x, y, x + width + 1, y + height + 1))
        return tuple(found)

    def _of_annotations(self, dataset: RefDataset, expression: Expression) -> Mask:
        targets = dataset.targets.get(expression.ref_id) if expression.ref_id is not None else None
        info = dataset.instances.images.get(expression.image_id) if expression.image_id is not None else None
        if targets is None or info is None:
            raise BadSegmentation("the expression does not belong to this dataset")
        stored = _image_size(dataset.root, expression.image)
        # A file may say neither or one of them: the image itself then does.
        height, width = info.height or (stored or (0, 0))[0], info.width or (stored or (0, 0))[1]
        if not height or not width:
            raise BadSegmentation(
                f"instances.json does not say the size of image {expression.image_id}, "
                "and the image cannot be opened"
            )
        if stored is not None and (height, width) != stored:
            raise BadSegmentation(
                f"instances.json says {width} x {height} pixels, the image file has {stored[1]} x {stored[0]}"
            )
        union = _nothing(height, width)
        for target in targets:
            if target not in self._segmentations:
                raise BadSegmentation(f"annotation {target} has no segmentation")
            try:
                np.logical_or(union, self._decode(self._segmentations[target], height, width), out=union)
            except BadSegmentation as problem:
                raise BadSegmentation(f"annotation {target}: {problem}") from problem
        return union

    @cached_property
    def _segmentations(self) -> Mapping[int, object]:
        return self._annotated("segmentation")

    @cached_property
    def _boxes(self) -> Mapping[int, object]:
        return self._annotated("bbox")

    def _annotated(self, key: str) -> Mapping[int, object]:
        if not isinstance(self.dataset, RefDataset):
            return {}
        wanted = {target for targets in self.dataset.targets.values() for target in targets}
        return read_annotations(self.dataset.instances_file, wanted, key)

    @cached_property
    def _offsets(self) -> Mapping[str, int]:
        return self.dataset.mask_offsets() if isinstance(self.dataset, JsonlDataset) else {}

    def _of_line(self, dataset: JsonlDataset, expression: Expression) -> Mask:
        offset = self._offsets.get(expression.row_id)
        if offset is None:
            raise BadSegmentation(NO_MASK)
        mask = dataset.entry_at(offset).get("mask")
        size = _image_size(dataset.root, expression.image)
        if isinstance(mask, str):
            return _mask_file(dataset.root, mask, size)
        size = size or _rle_size(mask)
        if size is None:
            raise BadSegmentation("the image cannot be opened, so the mask has no size")
        return _nothing(*size) if mask == [] else self._decode(mask, *size)


def _nothing(height: int, width: int) -> Mask:
    if not 0 < height * width <= MAX_PIXELS or height < 0:
        raise BadSegmentation(f"an image of {width} x {height} pixels")
    return np.zeros((height, width), dtype=bool)


def _rle_size(mask: object) -> tuple[int, int] | None:
    size = mask.get("size") if isinstance(mask, dict) else None
    if isinstance(size, list) and len(size) == 2 and all(type(value) is int for value in size):
        return size[0], size[1]
    return None


def _image_size(root: Path, image: str | None) -> tuple[int, int] | None:
    """(height, width) from the header of an image file, or None if it is missing or not an image."""
    if image is None or below(image) is None:
        return None
    try:
        return image_size(root / image)
    except UnreadableImage:
        return None


def _mask_file(root: Path, name: str, size: tuple[int, int] | None) -> Mask:
    """The mask in an image file (:func:`prep.images.read_mask`), which must have the size of the image."""
    if below(name) is None:
        raise BadSegmentation(f"the mask file {name[:80]!r} is not a path below the image root")
    try:
        return read_mask(root / name, size)
    except UnreadableImage as error:
        raise BadSegmentation(f"the mask file {name[:80]}: {error}") from error

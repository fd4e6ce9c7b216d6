"""Reads masks from COCO results, SA-1B files and the released layout."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from prep.errors import PrepError
from prep.masks import rle
from prep.records import ImageRef, Proposal

LAYOUTS = ("coco", "sa1b", "official")
MAX_ARRAY = 1 << 31  # bytes of one released .npy: 40 masks of 7 megapixels as float64
OFFICIAL_FOLDERS = ("SAM_Mask/SAM_out", "SAM_Mask/SAM_Out", "SOLO_Mask/SOLO_out", "SOLO_Mask/SOLO_Out")


class BadMasks(Exception):
    """Masks of one image that cannot be used; the text is the reason for a row's ``error`` column."""


class Layout(Protocol):
    """Reads the masks of an image."""

    def masks(self, ref: ImageRef, height: int, width: int) -> list[Proposal]:
        """The masks of an image of that size, in the source's order; raises :class:`BadMasks`."""


def open_layout(layout: str, source: Path) -> Layout:
    """The layout ``layout`` of a file (``coco``) or folder; raises PrepError if it cannot be read."""
    if layout == "coco":
        return CocoResults(source)
    return Sa1b(source) if layout == "sa1b" else Official(source)


class CocoResults:
    """COCO's results format: one JSON list of ``{image_id, segmentation, score}``; images are found by id.

    ``segmentation`` is an RLE (compressed or not) of the image's size or a list of polygons. An image without
    entries has no masks. ``score`` becomes ``predicted_iou``.
    """

    def __init__(self, file: Path) -> None:
        self._by_image: dict[int, list[Mapping[str, Any]]] = {}
        listed = _read_json(file)
        listed = listed.get("annotations") if isinstance(listed, dict) else listed
        if not isinstance(listed, list):
            form = "COCO results must be [{image_id, segmentation, score}, ...]."
            raise PrepError(f"{file} contains no list of results.", form)
        for number, entry in enumerate(listed):
            if not isinstance(entry, dict) or not isinstance(entry.get("image_id"), int):
                raise PrepError(f"{file}: entry {number} has no integer image_id.", "See docs/proposals.md.")
            self._by_image.setdefault(entry["image_id"], []).append(entry)

    def masks(self, ref: ImageRef, height: int, width: int) -> list[Proposal]:
        """The entries with this image's id, in the file's order."""
        if ref.image_id is None:
            raise BadMasks("the image has no id, so its COCO results cannot be found")
        made = []
        for entry in self._by_image.get(ref.image_id, []):
            runs = _runs(entry.get("segmentation"), height, width)
            made.append(_proposal(runs, height, predicted_iou=_number(entry.get("score"))))
        return [mask for mask in made if mask.area]


class _Files:
    """A folder with one file per image, found by the image's path or else by its name."""

    suffix: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_name: dict[str, list[str]] = {}
        for place, _, names in os.walk(folder):
            for name in names:
                stem, suffix = os.path.splitext(name)
                if suffix == self.suffix:
                    self._by_name.setdefault(stem, []).append(os.path.join(place, name))

    def find(self, image: str) -> Path:
        """The mask file of an image."""
        path = self.folder / PurePosixPath(image).with_suffix(self.suffix)
        if path.is_file():
            return path
        found = self._by_name.get(PurePosixPath(image).stem, [])
        if not found:
            raise BadMasks(f"no {PurePosixPath(image).stem}{self.suffix} in {self.folder.name}")
        if len(found) > 1:
            raise BadMasks(f"{len(found)} files in {self.folder.name} are named {Path(found[0]).name}")
        return Path(found[0])


class Sa1b(_Files):
    """SA-1B's layout: ``<image>.json`` with ``{image, annotations}``, as SAM's own generator is often saved.

    A plain list of annotations is also read, such as ``json.dump(generator.generate(image))`` with COCO RLEs.
    """

    suffix = ".json"

    def masks(self, ref: ImageRef, height: int, width: int) -> list[Proposal]:
        """The file's annotations in order, with all their scores."""
        path = self.find(ref.image)
        try:
            read = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise BadMasks(f"{path.name} could not be read as JSON: {error}") from error
        listed = read.get("annotations") if isinstance(read, dict) else read
        if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
            raise BadMasks(f"{path.name} contains no list of annotations")
        made = []
        for entry in listed:
            points = entry.get("point_coords") or [None]
            made.append(
                _proposal(
                    _runs(entry.get("segmentation"), height, width),
                    height,
                    bbox=_numbers(entry.get("bbox"), 4),
                    predicted_iou=_number(entry.get("predicted_iou")),
                    stability_score=_number(entry.get("stability_score")),
                    point=_numbers(points[0] if isinstance(points, list) else None, 2),
                    crop_box=_numbers(entry.get("crop_box"), 4),
                )
            )
        return [mask for mask in made if mask.area]


class Official(_Files):
    """The released layout: ``<image>.npy``, an array (P, H', W') that is zero outside the masks.

    All-zero masks are padding and are skipped. If H' x W' is not the image's size, the masks are resized to
    it by nearest neighbour, as in the released evaluation. Files are never unpickled.
    """

    suffix = ".npy"

    def __init__(self, folder: Path) -> None:
        inner = [folder / name for name in OFFICIAL_FOLDERS if (folder / name).is_dir()]
        distinct = {path.resolve(): path for path in inner}  # case-insensitive file systems list one twice
        if len(distinct) > 1:
            names = ", ".join(str(path) for path in distinct.values())
            raise PrepError(f"{folder} has more than one set of masks: {names}.", "Give one of them.")
        super().__init__(next(iter(distinct.values()), folder))

    def masks(self, ref: ImageRef, height: int, width: int) -> list[Proposal]:
        """The non-empty masks of the array, in order."""
        path = self.find(ref.image)
        try:
            stored = np.load(path, mmap_mode="r", allow_pickle=False)
            if stored.ndim != 3 or 0 in stored.shape[1:] or stored.dtype.kind not in "biuf":
                found = f"{stored.dtype} {stored.shape}"
                raise BadMasks(f"{path.name} contains {found}, not numbers (masks, height, width)")
            if stored.nbytes > MAX_ARRAY:
                raise BadMasks(f"{path.name} contains {stored.nbytes} bytes, over the limit of {MAX_ARRAY}")
            rows = np.arange(height) * stored.shape[1] // height
            columns = np.arange(width) * stored.shape[2] // width
            made = [_proposal(rle.encode(mask[np.ix_(rows, columns)]), height) for mask in stored]
        except (OSError, ValueError, EOFError) as error:
            raise BadMasks(f"{path.name} could not be read as an array: {error}") from error
        return [mask for mask in made if mask.area]


def _runs(segmentation: Any, height: int, width: int) -> npt.NDArray[np.int64]:
    """The runs of a COCO segmentation of an image of that size."""
    from pycocotools import mask as coco

    try:
        if isinstance(segmentation, list) and segmentation:
            parts = coco.frPyObjects(segmentation, height, width)
            return rle.checked_runs(coco.merge(parts)["counts"], height, width)
        if not isinstance(segmentation, dict):
            raise BadMasks("an entry has no segmentation")
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if size != [height, width]:
            raise BadMasks(f"masks of size {size} for an image of {[height, width]}")
        return rle.checked_runs(counts, height, width)
    except BadMasks:
        raise
    except PrepError as error:
        raise BadMasks(error.message.rstrip(".")) from error
    except Exception as error:  # pycocotools and numpy raise many types for malformed entries
        raise BadMasks(f"a segmentation could not be read: {error}") from error


def _proposal(
    runs: npt.NDArray[np.int64],
    height: int,
    *,
    bbox: Sequence[float] | None = None,
    predicted_iou: float | None = None,
    stability_score: float | None = None,
    point: Sequence[float] | None = None,
    crop_box: Sequence[float] | None = None,
) -> Proposal:
    x, y, w, h = bbox or (float(v) for v in rle.bounding_box(runs, height))
    return Proposal(
        counts=rle.compress(runs),
        area=rle.area(runs),
        bbox=(x, y, w, h),
        predicted_iou=predicted_iou,
        stability_score=stability_score,
        point=None if point is None else (point[0], point[1]),
        crop_box=None if crop_box is None else (crop_box[0], crop_box[1], crop_box[2], crop_box[3]),
    )


def _number(value: Any) -> float | None:
    """A finite JSON number, else None."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value)
    return float(value) if usable else None


def _numbers(value: Any, count: int) -> list[float] | None:
    """A list of ``count`` finite numbers, else None."""
    if not isinstance(value, list) or len(value) != count:
        return None
    found = [number for number in map(_number, value) if number is not None]
    return found if len(found) == count else None


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise PrepError(
            f"{file} could not be read as JSON: {error}.", "Download or create the file again."
        ) from error

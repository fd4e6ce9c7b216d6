"""Reads masks from COCO results, SA-1B files and the released layout."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
import numpy.typing as npt

from prep.datasets.coco_json import integer
from prep.datasets.segmentation import BadSegmentation, runs_of
from prep.errors import PrepError
from prep.inputs import read_plain
from prep.masks import rle
from prep.proposals.mask_arrays import BadMasks, array_runs
from prep.records import ImageRef, Proposal

LAYOUTS = ("coco", "sa1b", "official")
MAX_JSON = 1 << 33
OFFICIAL_FOLDERS = ("SAM_Mask/SAM_out", "SAM_Mask/SAM_Out", "SOLO_Mask/SOLO_out", "SOLO_Mask/SOLO_Out")

Entry = Mapping[str, object]  # the JSON of a mask
# The masks of an image, and the reasons why others of it were left out.
Found = tuple[list[Proposal], list[str]]


class Layout(Protocol):
    """Reads the masks of an image."""

    def sizes(self) -> Mapping[str, int]:
        """The number of masks, or of files, under each key; the empty key has those that fit no image."""

    def key(self, ref: ImageRef) -> str | None:
        """The key of an image's masks, or None if there are none."""

    def masks(self, ref: ImageRef, height: int, width: int) -> Found:
        """The masks of an image of that size, in the source's order; raises :class:`BadMasks`."""


def open_layout(layout: str, source: Path) -> Layout:
    """The layout ``layout`` of a file (``coco``) or folder; raises PrepError if it cannot be read."""
    if layout == "coco":
        return CocoResults(source)
    return Sa1b(source) if layout == "sa1b" else Official(source)


class CocoResults:
    """COCO's results, a JSON list of ``{image_id, segmentation, score}``, or a whole COCO file.

    A file with an ``images`` list has a numbering of its own: its images are found by ``file_name``, those of
    a plain list by ``image_id``. An image without entries has no masks. ``score`` becomes ``predicted_iou``.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._entries: dict[str, list[Entry]] = {}
        read = _read_json(file)
        listed = read.get("annotations") if isinstance(read, dict) else read
        if not isinstance(listed, list):
            form = "COCO results must be [{image_id, segmentation, score}, ...]."
            raise PrepError(f"{file} contains no list of results.", form)
        self._by_name: dict[str, list[str]] = {}  # the last part of a file name -> whole names
        self._stated: dict[str, tuple[int | None, int | None]] = {}  # file name -> height and width
        names = self._names(read.get("images") if isinstance(read, dict) else None)
        for entry in listed:
            number = integer(entry.get("image_id")) if isinstance(entry, dict) else None
            key = "" if number is None else names.get(number, "") if names else str(number)
            self._entries.setdefault(key, []).append(entry)
        if listed and set(self._entries) == {""} and not names:
            raise PrepError(f"{file}: entry 0 has no integer image_id.", "See docs/proposals.md.")

    def _names(self, images: object) -> dict[int, str]:
        """The file name of each ID of the ``images`` list."""
        names: dict[int, str] = {}
        for image in images if isinstance(images, list) else ():
            number = integer(image.get("id")) if isinstance(image, dict) else None
            name = image.get("file_name") if number is not None else None
            if number is not None and isinstance(name, str) and name:
                path = PurePosixPath(name.replace("\\", "/"))
                # An ID with two names is that of no image.
                names[number] = str(path) if names.get(number, str(path)) == str(path) else ""
                self._by_name.setdefault(path.name, []).append(str(path))
                self._stated[str(path)] = integer(image.get("height")), integer(image.get("width"))
        return names

    def sizes(self) -> Mapping[str, int]:
        """The number of entries of each image."""
        return {key: len(entries) for key, entries in self._entries.items()}

    def key(self, ref: ImageRef) -> str | None:
        """The image's ``file_name`` in the file, or its ID if the file has no ``images``."""
        if not self._by_name:
            return None if ref.image_id is None else str(ref.image_id)
        named = list(dict.fromkeys(self._by_name.get(PurePosixPath(ref.image).name, [])))
        if ref.image in named:
            return ref.image
        ends = [
            name for name in named if f"/{ref.image}".endswith(f"/{name}") or name.endswith(f"/{ref.image}")
        ]
        found = ends or named
        return found[0] if len(found) == 1 else None

    def masks(self, ref: ImageRef, height: int, width: int) -> Found:
        """The entries of this image, in the file's order."""
        key = self.key(ref)
        if key is None:
            if self._by_name:
                raise BadMasks(f"the image is not among the images of {self._file.name}")
            raise BadMasks("the image has no id, so its COCO results cannot be found")
        stated = self._stated.get(key, (None, None))
        if stated[0] not in (None, 0, height) or stated[1] not in (None, 0, width):
            raise BadMasks(f"{self._file.name} says {stated[1]} x {stated[0]} pixels, not {width} x {height}")
        return _proposals(
            self._entries.get(key, []), height, width, lambda entry: _number(entry.get("score"))
        )


class _Files:
    """A folder with one file per image, found by the image's path or else by its name."""

    suffix: str

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_name: dict[str, list[str]] = {}
        for place, _, names in os.walk(folder):
            for name in names:
                stem, suffix = os.path.splitext(name)
                if suffix.lower() == self.suffix:
                    self._by_name.setdefault(stem, []).append(os.path.join(place, name))

    def sizes(self) -> Mapping[str, int]:
        """1 for each file."""
        return {path: 1 for paths in self._by_name.values() for path in paths}

    def key(self, ref: ImageRef) -> str | None:
        """The path of the image's file."""
        try:
            return str(self.find(ref.image))
        except BadMasks:
            return None

    def find(self, image: str) -> Path:
        """The mask file of an image."""
        found = self._by_name.get(PurePosixPath(image).stem, [])
        path = os.path.join(self.folder, PurePosixPath(image).with_suffix(self.suffix))
        if path in found or os.path.isfile(path):  # the second in a linked folder
            return Path(path)
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

    def masks(self, ref: ImageRef, height: int, width: int) -> Found:
        """The file's annotations in order, with all their scores."""
        path = self.find(ref.image)
        try:
            read = json.loads(read_plain(path, MAX_JSON))
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BadMasks(f"{path.name} could not be read as JSON: {reason}") from error
        listed = read.get("annotations") if isinstance(read, dict) else read
        if not isinstance(listed, list):
            raise BadMasks(f"{path.name} contains no list of annotations")
        return _proposals(listed, height, width, lambda entry: _number(entry.get("predicted_iou")))


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

    def masks(self, ref: ImageRef, height: int, width: int) -> Found:
        """The non-empty masks of the array, in order."""
        runs = array_runs(self.find(ref.image), height, width)
        return [_proposal(each, height) for each in runs if rle.area(each)], []


def _proposals(
    entries: Iterable[object], height: int, width: int, score: Callable[[Entry], float | None]
) -> Found:
    """The masks of COCO entries; one that cannot be read is left out. BadMasks if none is left of them."""
    made, bad, empty = [], [], 0
    for entry in entries:
        try:
            if not isinstance(entry, dict) or entry.get("segmentation") is None:
                raise BadSegmentation("an entry has no segmentation")
            runs = runs_of(entry["segmentation"], height, width)
        except BadSegmentation as error:
            bad.append(str(error))
            continue
        if not rle.area(runs):
            empty += 1
            continue
        points = entry.get("point_coords") or [None]
        made.append(
            _proposal(
                runs,
                height,
                predicted_iou=score(entry),
                stability_score=_number(entry.get("stability_score")),
                point=_numbers(points[0] if isinstance(points, list) else None, 2),
                crop_box=_numbers(entry.get("crop_box"), 4),
            )
        )
    if bad and not made:
        raise BadMasks(bad[0] if len(bad) == 1 else f"{bad[0]}, and {len(bad) - 1} more masks are unusable")
    return made, [*bad, *["the segmentation covers no pixel of the image"] * empty]


def _proposal(
    runs: npt.NDArray[np.int64],
    height: int,
    *,
    predicted_iou: float | None = None,
    stability_score: float | None = None,
    point: Sequence[float] | None = None,
    crop_box: Sequence[float] | None = None,
) -> Proposal:
    """A mask with its area and box, which are counted, whatever its file says."""
    x, y, w, h = (float(v) for v in rle.bounding_box(runs, height))
    return Proposal(
        counts=rle.compress(runs),
        area=rle.area(runs),
        bbox=(x, y, w, h),
        predicted_iou=predicted_iou,
        stability_score=stability_score,
        point=None if point is None else (point[0], point[1]),
        crop_box=None if crop_box is None else (crop_box[0], crop_box[1], crop_box[2], crop_box[3]),
    )


def _number(value: object) -> float | None:
    """A finite JSON number, else None."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if np.isfinite(value) else None


def _numbers(value: object, count: int) -> list[float] | None:
    """A list of ``count`` finite numbers, else None."""
    if not isinstance(value, list) or len(value) != count:
        return None
    found = [number for number in map(_number, value) if number is not None]
    return found if len(found) == count else None


def _read_json(file: Path) -> object:
    try:
        return json.loads(read_plain(file, MAX_JSON))
    except (OSError, ValueError, RecursionError) as error:
        raise PrepError(
            f"{file} could not be read as JSON: {getattr(error, 'strerror', None) or error}.",
            "Download or create the file again.",
        ) from error

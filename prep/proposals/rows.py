"""Defines the rows of the proposals table: the masks of an image, their columns and content keys."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from prep.cache.keys import canonical_json
from prep.masks.grid32 import grid32
from prep.records import ImageRef, MaskRow, Proposal


class Answer(NamedTuple):
    """The result of a generator and a selection for one image's bytes."""

    height: int
    width: int
    masks: list[MaskRow]
    grid32: bytes


def make_row(
    ref: ImageRef, sha256: str | None, found: Answer | str | None, generator: str, key: str
) -> dict[str, object]:
    """The row of an image: its result, or the reason why it has none (None: not recorded)."""
    known = found if isinstance(found, Answer) else None
    return {
        "image": ref.image,
        "image_id": ref.image_id,
        "image_sha256": sha256,
        "height": known.height if known else None,
        "width": known.width if known else None,
        "masks": known.masks if known else [],
        "grid32": known.grid32 if known else b"",
        "generator": generator,
        "key": key,
        "status": "error" if known is None else "ok" if known.masks else "empty",
        "error": found if isinstance(found, str) else None,
    }


def content_key(settings_fingerprint: str, image_sha256: str) -> str:
    """The content key of an image's masks (64 hex digits), from the settings and the file's bytes only."""
    return hashlib.sha256(f"{settings_fingerprint}\n{image_sha256}".encode("ascii")).hexdigest()


def masks_key(settings_fingerprint: str, masks: list[MaskRow]) -> str:
    """The content key of imported masks (64 hex digits), from the settings and the masks themselves."""
    return hashlib.sha256(f"{settings_fingerprint}\n{canonical_json(masks)}".encode()).hexdigest()


def answer(masks: Iterable[Proposal], height: int, width: int) -> Answer:
    """The columns of a row that describe an image's masks."""
    kept = list(masks)
    return Answer(
        height, width, [mask_struct(m) for m in kept], grid32([m.counts for m in kept], height, width)
    )


def mask_struct(mask: Proposal) -> MaskRow:
    """A proposal as one element of the ``masks`` column."""
    return {
        "counts": mask.counts,
        "area": mask.area,
        "bbox": list(mask.bbox),
        "predicted_iou": mask.predicted_iou,
        "stability_score": mask.stability_score,
        "point": None if mask.point is None else list(mask.point),
        "crop_box": None if mask.crop_box is None else list(mask.crop_box),
    }


def proposal_of(mask: MaskRow) -> Proposal:
    """One element of the ``masks`` column as a proposal."""
    point, crop = mask["point"], mask["crop_box"]
    return Proposal(
        counts=mask["counts"],
        area=mask["area"],
        bbox=_four(mask["bbox"]),
        predicted_iou=mask["predicted_iou"],
        stability_score=mask["stability_score"],
        point=None if point is None else (point[0], point[1]),
        crop_box=None if crop is None else _four(crop),
    )


def _four(values: Sequence[float]) -> tuple[float, float, float, float]:
    left, top, width, height = values
    return left, top, width, height

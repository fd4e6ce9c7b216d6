"""Collects what the reports show of a store: how its tables were made, pictures with masks, and maps."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from prep import pictures
from prep.images import UnreadableImage, read_rgb
from prep.inputs import below
from prep.pages.saved import read_maps
from prep.records import MaskRow, ProposalRow

if TYPE_CHECKING:
    from prep.cache.store import Store

# The longer side of the photos on a page, in pixels.
THUMBNAIL_SIDE = 480
# A stage's map: height, width, base64 of its bytes, maximum.
Level = tuple[int, int, str, float]
RUN_COLUMNS = ("at", "rows", "failed", "reused", "seconds", "rate", "workers")


def stages(store: Store) -> list[dict[str, object]]:
    """How each table was generated, according to its manifest, with the time of all its runs."""
    told = []
    for name in store.stages():
        manifest = store.stage(name).reader().manifest
        if manifest is not None:
            runs = [{key: run.get(key) for key in RUN_COLUMNS} for run in manifest.runs]
            told.append(
                {
                    "stage": name,
                    "rows": manifest.rows,
                    "bytes": sum(shard.bytes for shard in manifest.shards.values()),
                    "shards": len(manifest.shards),
                    "created": manifest.created,
                    "settings": list(flat(manifest.settings)),
                    "versions": manifest.versions,
                    "inputs": manifest.inputs,
                    "seconds": sum(run.get("seconds") or 0 for run in manifest.runs),
                    "runs": runs,
                }
            )
    return told


def disk(store: Store) -> dict[str, int]:
    """The bytes of all files of the store by their first folder, the largest first."""
    sizes: dict[str, int] = {}
    for name, size in store.files.tree().items():
        sizes[name.split("/")[0]] = sizes.get(name.split("/")[0], 0) + size
    return dict(sorted(sizes.items(), key=lambda entry: -entry[1]))


def flat(value: Mapping[str, object], prefix: str = "") -> Iterator[list[str]]:
    """A nested mapping as ``[dotted name, value]`` pairs."""
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from flat(inner, f"{prefix}{key}.")
        elif inner is not None:
            yield [f"{prefix}{key}", str(inner)]


class Picture(TypedDict):
    """An image on a page: its height and width, what its masks are and score, and a small photo as a URI."""

    size: list[int]
    masks: list[tuple[str, int, float | None, float | None]]
    thumbnail: str | None


def picture(image: str, height: int, width: int, masks: Sequence[MaskRow], data: Path | None) -> Picture:
    """The page's data for an image and its masks, with a thumbnail if the image is in ``data``."""
    shown = [(mask["counts"], mask["area"], mask["predicted_iou"], mask["stability_score"]) for mask in masks]
    return {"size": [height, width], "masks": shown, "thumbnail": thumbnail(image, data)}


def picture_of(row: ProposalRow, data: Path | None) -> Picture:
    """The page's data for a row of the proposals table."""
    return picture(row["image"], row["height"], row["width"], row["masks"], data)


def thumbnail(image: str, data: Path | None) -> str | None:
    """The image scaled to ``THUMBNAIL_SIDE`` as a JPEG data URI; None if it cannot be read."""
    if data is None or below(image) is None:
        return None
    try:
        small = read_rgb(data / image)
    except UnreadableImage:
        return None
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return pictures.data_uri(np.asarray(small), "JPEG")


def response_levels(path: Path) -> list[Level]:
    """Each stage's map in a file of ``pcnet eval --save-stages``: [height, width, base64 of bytes, maximum].

    0 stands for non-positive values, 255 for the map's maximum; positive values are at least 1. Raises
    :class:`PrepError` for a file of another kind.
    """
    maps = np.maximum(np.nan_to_num(read_maps(path).astype(np.float32)), 0)
    tops = maps.max(axis=(1, 2), keepdims=True)
    levels = np.ceil(maps / np.maximum(tops, 1e-9) * 255).astype(np.uint8)
    return [
        (*level.shape, base64.b64encode(level.tobytes()).decode(), float(f"{top:.4g}"))
        for level, top in zip(levels, tops.ravel(), strict=True)
    ]

"""Writes the report on a store as one HTML page: runs, statistics, and a searchable gallery."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prep.cache.store import Store, open_store
from prep.errors import PrepError
from prep.pages.html import render, write
from prep.pages.store_data import (
    PHRASE_COLUMNS,
    Gallery,
    PhraseCounts,
    ProposalCounts,
    picture,
    response_levels,
    rows_of,
    stages,
)

PROPOSAL_COLUMNS = ["image", "height", "width", "masks", "status", "error"]


@dataclass(frozen=True, slots=True)
class ReportConfig:
    """The report's settings. ``rows`` and ``pictures`` limit the gallery; counts cover all rows.

    ``data`` is the folder that image paths are relative to (without it, masks are shown without images);
    ``evaluation`` a folder written by ``pcnet eval --out``, to show its hits and IoU.
    """

    store: str
    out: Path
    data: Path | None = None
    evaluation: Path | None = None
    rows: int = 50_000
    pictures: int = 300


def write_report(config: ReportConfig) -> dict[str, int]:
    """Write the page to ``config.out``; return the numbers of rows, images and pictures in it."""
    if config.data is not None and not config.data.is_dir():
        raise PrepError(
            f"{config.data} is not a folder.",
            "Give the folder that the store's image paths are relative to with --data.",
        )
    store = open_store(config.store)
    phrases, gallery = _phrases(store, config.rows)
    proposals, pictures = _proposals(store, gallery, config)
    content = {
        "store": store.uri,
        "stages": stages(store),
        "phrases": phrases.to_json(),
        "proposals": proposals.to_json(),
        "gallery": gallery.to_json(),
        "pictures": pictures,
        "scores": _scores(store, gallery, pictures),
        "evaluation": _evaluation(config.evaluation, gallery),
        "maps": _maps(config.evaluation, gallery, pictures),
        "threshold": _threshold(config.evaluation),
        "truth": _truth(config.data, gallery, pictures),
    }
    write(render("prep.pages", "store", "Report on a store", content), config.out)
    return {
        "expressions": len(gallery.text),
        "of": sum(count for _, count in content["phrases"]["splits"]),  # type: ignore[index]
        "pictures": len(pictures),
    }


def _phrases(store: Store, limit: int) -> tuple[PhraseCounts, Gallery]:
    counts, gallery = PhraseCounts(), Gallery()
    reader = store.stage("phrases").reader()
    # Row IDs are hashes: the smallest ones are an unbiased sample, and always the same one.
    share = 1.0 if reader.num_rows <= limit else limit / reader.num_rows
    for rows in rows_of(reader, PHRASE_COLUMNS) if reader.exists else ():
        counts.add(rows)
        for row in rows:
            if share == 1.0 or int(row["row_id"][:12], 16) < share * 16**12:
                gallery.add(row)
    return counts, gallery


def _proposals(store: Store, gallery: Gallery, config: ReportConfig) -> tuple[ProposalCounts, dict[str, Any]]:
    counts = ProposalCounts()
    pictures: dict[str, Any] = {}
    reader = store.stage("proposals").reader()
    images = gallery.columns["image"]
    spoken_of = len(images.values)
    for rows in rows_of(reader, PROPOSAL_COLUMNS) if reader.exists else ():
        counts.add(rows)
        for row in rows:
            wanted = not spoken_of or row["image"] in images
            if wanted and len(pictures) < config.pictures and row["status"] != "error":
                pictures[str(images.code(row["image"]))] = picture(row, config.data)
    return counts, pictures


def _scores(store: Store, gallery: Gallery, pictures: Mapping[str, Any]) -> dict[str, list[float]]:
    """Row number -> its scores of the image's masks, for rows whose image has a picture."""
    reader = store.stage("scores").reader()
    if not reader.exists:
        return {}
    wanted = _pictured(gallery, pictures)
    return {
        str(wanted[row["row_id"]]): [round(score, 4) for score in row["scores"]]
        for rows in rows_of(reader, ["row_id", "scores"])
        for row in rows
        if row["row_id"] in wanted
    }


def _pictured(gallery: Gallery, pictures: Mapping[str, Any]) -> dict[str, int]:
    codes = gallery.columns["image"].codes
    return {row_id: at for at, row_id in enumerate(gallery.row_ids) if str(codes[at]) in pictures}


def _evaluation(folder: Path | None, gallery: Gallery) -> dict[str, list[Any]]:
    """Row number -> hit, IoU, peak row and column, and the number of the selected mask."""
    if folder is None:
        return {}
    import pyarrow.parquet as pq

    path = folder / "samples.parquet"
    if not path.is_file():
        raise PrepError(f"{folder} has no samples.parquet.", "Give the --out folder of pcnet eval.")
    numbers = {row_id: at for at, row_id in enumerate(gallery.row_ids)}
    found = {}
    for row in pq.read_table(path).to_pylist():
        if row["row_id"] in numbers:
            overlap = row["iou"] if row.get("proposal_iou") is None else row["proposal_iou"]
            found[str(numbers[row["row_id"]])] = [
                bool(row["point"]), round(overlap, 4), row["peak_y"], row["peak_x"], row.get("proposal"),
            ]  # fmt: skip
    return found


def _truth(data: Path | None, gallery: Gallery, pictures: Mapping[str, Any]) -> dict[str, str]:
    """Row number -> its ground-truth mask as compressed RLE, for pictured rows of datasets in ``data``."""
    if data is None:
        return {}
    from prep.datasets.catalogue import open_dataset
    from prep.datasets.truth import Truth
    from prep.masks import rle

    truths: dict[tuple[str, str], Truth | None] = {}
    found = {}
    for at in _pictured(gallery, pictures).values():
        row = gallery.expression(at)
        key = row.dataset, row.split_by
        if key not in truths:
            try:
                truths[key] = Truth(open_dataset(data, *key))
            except PrepError:  # a folder with only images is also a valid data root
                truths[key] = None
        truth = truths[key]
        try:
            mask = truth.mask(row) if truth else None
        except PrepError:
            truths[key] = mask = None
        if mask is not None and list(mask.shape) == pictures[str(gallery.columns["image"].codes[at])]["size"]:
            found[str(at)] = rle.counts_of(mask)
    return found


def _maps(folder: Path | None, gallery: Gallery, pictures: Mapping[str, Any]) -> dict[str, list[list[Any]]]:
    """Row number -> each stage's map in the form of :func:`response_levels`, for the pictured rows."""
    if folder is None or not (folder / "stages").is_dir():
        return {}
    files = {at: folder / "stages" / f"{row_id}.npy" for row_id, at in _pictured(gallery, pictures).items()}
    return {str(at): response_levels(path) for at, path in files.items() if path.is_file()}


def _threshold(folder: Path | None) -> float:
    """The share of a map's maximum above which the evaluation counts a pixel as part of the mask."""
    path = None if folder is None else folder / "metrics.json"
    if path is None or not path.is_file():
        return 0.0
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return float(told.get("settings", {}).get("threshold", 0.0))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise PrepError(f"{path} names no threshold.", "Give the --out folder of pcnet eval.") from error

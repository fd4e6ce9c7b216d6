"""One self-contained HTML page on a store: what was run, how it went, and a gallery to search and filter."""

from __future__ import annotations

import base64
import gzip
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from prep.cache.store import Store, open_store
from prep.errors import PrepError
from prep.report_data import (
    PHRASE_COLUMNS,
    Gallery,
    PhraseCounts,
    ProposalCounts,
    picture,
    rows_of,
    stages,
)

PROPOSAL_COLUMNS = ["image", "height", "width", "masks", "status", "error"]


@dataclass(frozen=True, slots=True)
class ReportConfig:
    """What to report on. ``rows`` and ``pictures`` bound what the page carries; its counts are over all.

    ``data`` is the folder that image paths are relative to (without it there are no photos, but masks);
    ``evaluation`` a folder written by ``pcnet eval --out``, whose hits and IoU are then shown.
    """

    store: str
    out: Path
    data: Path | None = None
    evaluation: Path | None = None
    rows: int = 50_000
    pictures: int = 300


def write_report(config: ReportConfig) -> dict[str, int]:
    """Write the page to ``config.out``; return how many rows, images and pictures it holds."""
    if config.data is not None and not config.data.is_dir():
        raise PrepError(
            f"{config.data} is no folder.", "Name with --data what the store's image paths are relative to."
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
        "truth": _truth(config.data, gallery, pictures),
    }
    page = render(content)
    try:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        temporary = config.out.with_name(f".{config.out.name}.{os.getpid()}.tmp")
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, config.out)
    except OSError as error:
        raise PrepError(
            f"{config.out} cannot be written: {error.strerror or error}.", "Name another --out."
        ) from error
    return {
        "expressions": len(gallery.text),
        "of": sum(count for _, count in content["phrases"]["splits"]),  # type: ignore[index]
        "pictures": len(pictures),
    }


def render(content: Mapping[str, Any]) -> str:
    """The page: template, style, script, and the content compressed, so that none of its text is markup."""
    here = files("prep")
    packed = gzip.compress(json.dumps(content, separators=(",", ":")).encode(), mtime=0)
    return Template((here / "report.html").read_text("utf-8")).substitute(
        css=(here / "page.css").read_text("utf-8"),
        js=(here / "report.js").read_text("utf-8"),
        content=base64.b64encode(packed).decode(),
    )


def _phrases(store: Store, limit: int) -> tuple[PhraseCounts, Gallery]:
    counts, gallery = PhraseCounts(), Gallery()
    reader = store.stage("phrases").reader()
    # Row ids are hashes: the smallest share of them is an even sample, and the same one every time.
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
    """Row number -> its scores of the image's masks, for the rows whose image has a picture."""
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
    """Row number -> hit, IoU, peak row and column, and the number of the mask chosen."""
    if folder is None:
        return {}
    import pyarrow.parquet as pq

    path = folder / "samples.parquet"
    if not path.is_file():
        raise PrepError(f"{folder} has no samples.parquet.", "`pcnet eval --out` writes it.")
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
    """Row number -> its true mask as compressed RLE, for the pictured rows of datasets found in ``data``."""
    if data is None:
        return {}
    import numpy as np
    from pycocotools import mask as coco

    from prep.dataset import open_dataset
    from prep.truth import Truth

    truths: dict[tuple[str, str], Truth | None] = {}
    found = {}
    for at in _pictured(gallery, pictures).values():
        row = gallery.expression(at)
        key = row.dataset, row.split_by
        if key not in truths:
            try:
                truths[key] = Truth(open_dataset(data, *key))
            except PrepError:  # a folder of images alone is a data root too
                truths[key] = None
        truth = truths[key]
        try:
            mask = truth.mask(row) if truth else None
        except PrepError:
            truths[key] = mask = None
        if mask is not None and list(mask.shape) == pictures[str(gallery.columns["image"].codes[at])]["size"]:
            found[str(at)] = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    return found


def _maps(folder: Path | None, gallery: Gallery, pictures: Mapping[str, Any]) -> dict[str, list[list[Any]]]:
    """Row number -> each stage's map as [height, width, base64 of bytes 0 to 255], for the pictured rows."""
    if folder is None or not (folder / "stages").is_dir():
        return {}
    import numpy as np

    found = {}
    for row_id, at in _pictured(gallery, pictures).items():
        path = folder / "stages" / f"{row_id}.npy"
        if path.is_file():
            maps = np.maximum(np.nan_to_num(np.load(path, allow_pickle=False).astype(np.float32)), 0)
            tops = np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-9)
            levels = (maps / tops * 255).astype(np.uint8)
            found[str(at)] = [[*level.shape, base64.b64encode(level.tobytes()).decode()] for level in levels]
    return found

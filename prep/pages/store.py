"""Writes the report on a store as one HTML page: runs, statistics, and a searchable gallery."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prep.cache.store import Store, open_store
from prep.errors import PrepError
from prep.pages.counts import Histogram, PhraseCounts, ProposalCounts
from prep.pages.evaluation import EvaluatedRows, TrueMasks, best_iou
from prep.pages.gallery import Gallery
from prep.pages.html import render, write
from prep.pages.store_data import Picture, disk, picture_of, stages

if TYPE_CHECKING:
    import pyarrow as pa

PHRASE_COLUMNS = [
    "row_id", "dataset", "split_by", "split", "ref_id", "sent_id", "image_id", "image", "expression",
    "phrases", "source", "violations", "repairs", "rejected", "status", "error",
]  # fmt: skip
PROPOSAL_COLUMNS = ["image", "height", "width", "masks", "grid32", "status", "error"]


@dataclass(frozen=True, slots=True)
class ReportConfig:
    """The report's settings. ``rows`` and ``pictures`` limit the gallery; counts cover all rows.

    ``data`` is the folder that image paths are relative to (without it, masks are shown without images);
    ``evaluation`` a folder written by ``pcnet eval --output-dir``: its expressions come first, with pictures.
    """

    store: str
    out: Path
    data: Path | None = None
    evaluation: Path | None = None
    rows: int = 50_000
    pictures: int = 300


def write_report(config: ReportConfig) -> dict[str, int]:
    """Write the page to ``config.out``; return the numbers of rows, images, pictures and photos in it."""
    if config.data is not None and not config.data.is_dir():
        raise PrepError(
            f"{config.data} is not a folder.",
            "Give the folder that the store's image paths are relative to with --data.",
        )
    store = open_store(config.store)
    evaluated = EvaluatedRows(config.evaluation)
    phrases, gallery = _phrases(store, evaluated, config.rows)
    proposals, pictures = _proposals(store, gallery, evaluated, config)
    truth, best = _truth(config.data, gallery, pictures)
    content = {
        "store": store.uri,
        "stages": stages(store),
        "disk": disk(store),
        "phrases": phrases.to_json(),
        "proposals": {**proposals.to_json(), "best_iou": best.to_json()},
        "gallery": gallery.to_json(),
        "pictures": pictures,
        "scores": _scores(store, gallery, pictures),
        "evaluation": evaluated.scores(gallery),
        "maps": evaluated.maps(gallery.pictured(pictures)),
        "threshold": evaluated.threshold,
        "truth": truth,
    }
    name = store.uri.rstrip("/").split("/")[-1] or store.uri
    write(render("prep.pages", "store", f"Store {name}", content), config.out)
    return {
        "expressions": len(gallery.text),
        "of": sum(phrases.splits.values()),
        "pictures": len(pictures),
        "photos": sum(1 for one in pictures.values() if one["thumbnail"]),
    }


def _phrases(store: Store, evaluated: EvaluatedRows, limit: int) -> tuple[PhraseCounts, Gallery]:
    """Counts of every row, and a gallery of about ``limit`` rows, the evaluated ones before others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    counts, gallery = PhraseCounts(), Gallery()
    reader = store.stage("phrases").reader()
    judged = len(evaluated.rows)
    of_judged = _bound(limit / max(judged, 1))
    of_others = _bound(max(limit - judged, 0) / max(reader.num_rows - judged, 1))
    scored = pa.array(list(evaluated.rows), pa.string()) if judged else None
    for batch in reader.batches(columns=PHRASE_COLUMNS) if reader.exists else ():
        counts.add(batch)
        bound: object = pa.scalar(of_others)
        if scored is not None:
            bound = pc.if_else(pc.is_in(batch["row_id"], scored), pa.scalar(of_judged), bound)
        for row in batch.filter(pc.less(batch["row_id"], bound)).to_pylist():
            gallery.add(row)
    return counts, gallery


def _bound(share: float) -> str:
    """The row ID below which a share of all IDs lies.

    IDs are hashes in hexadecimal digits: the smallest are an unbiased sample, and always the same one.
    """
    return "g" if share >= 1 else f"{int(share * 16**12):012x}"


def _proposals(
    store: Store, gallery: Gallery, evaluated: EvaluatedRows, config: ReportConfig
) -> tuple[ProposalCounts, dict[str, Picture]]:
    """Counts of every image, and the pictures by image number: first those of evaluated expressions."""
    counts = ProposalCounts()
    images = gallery.columns["image"]
    first = set(evaluated.images(config.pictures))
    chosen: dict[str, Picture] = {}
    spare = config.pictures - len(first)
    reader = store.stage("proposals").reader()
    for batch in reader.batches(columns=PROPOSAL_COLUMNS) if reader.exists else ():
        counts.add(batch)
        for at, image in _usable(batch):
            if image not in first:
                if spare <= 0 or (images.values and image not in images):
                    continue
                spare -= 1
            chosen[image] = picture_of(batch.slice(at, 1).to_pylist()[0], config.data)
    return counts, {str(images.code(image)): one for image, one in chosen.items()}


def _usable(batch: pa.RecordBatch) -> list[tuple[int, str]]:
    """(row, image) of the images of a batch that did not fail."""
    pairs = zip(batch["image"].to_pylist(), batch["status"].to_pylist(), strict=True)
    return [(at, image) for at, (image, status) in enumerate(pairs) if status != "error"]


def _scores(store: Store, gallery: Gallery, pictures: Mapping[str, object]) -> dict[str, list[float]]:
    """Row number -> its scores of the image's masks, for rows whose image has a picture."""
    import pyarrow.compute as pc

    reader = store.stage("scores").reader()
    if not reader.exists:
        return {}
    wanted = gallery.pictured(pictures)
    chosen = pc.field("row_id").isin(list(wanted))
    table = reader.read(columns=["row_id", "scores"], filter=chosen)
    return {
        str(wanted[row["row_id"]]): [round(score, 4) for score in row["scores"]] for row in table.to_pylist()
    }


def _truth(
    data: Path | None, gallery: Gallery, pictures: Mapping[str, Picture]
) -> tuple[dict[str, str], Histogram]:
    """Row number -> its ground-truth mask as compressed RLE, for pictured rows of datasets in ``data``, and
    the best IoU of each with the proposals of its image.
    """
    truths, best = TrueMasks(data), Histogram(0, 1)
    found: dict[str, str] = {}
    if data is None:
        return found, best
    from prep.masks import rle  # only here: it loads the compiler of loops

    for at in gallery.pictured(pictures).values():
        mask = truths.mask(gallery, at)
        shown = pictures[str(gallery.columns["image"].codes[at])]
        if mask is not None and list(mask.shape) == shown["size"]:
            found[str(at)] = rle.counts_of(mask)
            best.add(np.array([best_iou(mask, [counts for counts, *_ in shown["masks"]])]))
    return found, best

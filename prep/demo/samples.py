"""Collects the data for the demo's page from the dataset, the store and the evaluation, joined by key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prep.cache.store import open_store
from prep.datasets.catalogue import open_dataset
from prep.datasets.truth import Truth
from prep.demo.page import Figure, Page, Sample, render
from prep.images import read_rgb
from prep.masks import rle
from prep.pages import html, pictures
from prep.records import Expression

if TYPE_CHECKING:
    from prep.demo.run import DemoConfig

ALL = "all"


def write_page(
    out: Path,
    data: Path,
    steps: Sequence[tuple[str, str, float]],
    metrics: Mapping[str, Any],
    config: DemoConfig,
) -> list[dict[str, Any]]:
    """Write ``out/index.html``; return the figures, a mapping for each kind of expression."""
    import pyarrow.parquet as pq

    dataset = open_dataset(data, "refcoco")
    scored = {row["row_id"]: row for row in pq.read_table(out / "evaluation" / "samples.parquet").to_pylist()}
    expressions = [row for row in dataset.expressions(["val"]) if row.row_id in scored]
    types = json.loads((data / "refer" / "refcoco" / "types.json").read_text(encoding="utf-8"))
    kinds = {row.row_id: _kinds(types.get(str(row.sent_id), {})) for row in expressions}
    store = open_store(out / "prepared")
    proposals = _proposals(store, {row.image for row in expressions if row.image})
    truth = Truth(dataset)
    objects = _objects(data)
    measured = [
        {
            "kinds": kinds[row.row_id],
            "ours": bool(scored[row.row_id]["point"]),
            "chance": 1 / max(objects.get(row.image_id or 0, 1), 1),
            "bound": _reachable(truth.mask(row), proposals.get(row.image or "", [])),
        }
        for row in expressions
    ]
    figures = _figures(measured)
    phrases = _phrases(store, {row.row_id for row in expressions})
    samples = [
        _sample(row, scored[row.row_id], kinds[row.row_id], phrases, proposals, truth, out)
        for row in spread(expressions, kinds, config.shown)
    ]
    lead = (
        f"Trained for {config.steps:,} steps on {config.images:,} scenes with expressions: only images, "
        "texts and proposals, no ground-truth masks or boxes. Recipe plus, encoder trained from scratch. "
        f"mIoU {metrics['miou']:.1f}%; refined mIoU {metrics.get('proposal_miou') or 0:.1f}% (oracle "
        f"{metrics.get('oracle_miou') or 0:.1f}%)."
    )
    page = Page(
        "PCNet: referring segmentation on synthetic scenes",
        lead,
        [Figure(**figure) for figure in figures],
        [sample for sample in samples if sample is not None],
        steps,
    )
    html.write(render(page), out / "index.html")
    return figures


def spread(rows: Sequence[Expression], kinds: Mapping[str, tuple[str, ...]], count: int) -> list[Expression]:
    """``count`` rows at even intervals, alternating between kinds, regardless of their results."""
    groups: dict[str, list[Expression]] = {}
    for row in rows:
        groups.setdefault(kinds[row.row_id][0], []).append(row)
    chosen: list[Expression] = []
    for at, name in enumerate(sorted(groups)):
        share = count // len(groups) + (at < count % len(groups))
        own = groups[name]
        # Each kind starts at a different offset, so that they do not all show the same images.
        share = min(share, len(own))
        chosen += [own[int((step + at / len(groups)) * len(own) / share)] for step in range(share)]
    return sorted(chosen, key=lambda row: (row.image or "", row.row_id))


def _kinds(entry: Mapping[str, Any]) -> tuple[str, ...]:
    kind = str(entry.get("type", "expression"))
    return (kind, f"hard {kind}") if entry.get("hard") else (kind,)


def _figures(measured: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    names = sorted(
        {kind for row in measured for kind in row["kinds"]}, key=lambda name: (name.split()[-1], len(name))
    )
    figures = []
    for name in [ALL, *names]:
        own = [row for row in measured if name == ALL or name in row["kinds"]]
        if own:
            shares = {
                key: 100 * float(np.mean([row[key] for row in own])) for key in ("ours", "chance", "bound")
            }
            figures.append({"kind": name, "n": len(own), **shares})
    return figures


def _objects(data: Path) -> dict[int, int]:
    """The number of objects in each image."""
    instances = json.loads((data / "refer" / "refcoco" / "instances.json").read_text(encoding="utf-8"))
    counts: dict[int, int] = {}
    for annotation in instances["annotations"]:
        counts[annotation["image_id"]] = counts.get(annotation["image_id"], 0) + 1
    return counts


def _reachable(truth: pictures.Mask | None, proposals: Sequence[pictures.Mask]) -> bool:
    """Whether the centre of the proposal with the highest IoU lies on the object."""
    if truth is None or not proposals:
        return False
    from scipy import ndimage

    def overlap(mask: pictures.Mask) -> float:
        return float((mask & truth).sum() / max((mask | truth).sum(), 1))

    best = max(proposals, key=overlap)
    depth = ndimage.distance_transform_edt(np.pad(best, 1))[1:-1, 1:-1]
    return bool(truth[np.unravel_index(int(depth.argmax()), truth.shape)])


def _proposals(store: Any, images: set[str]) -> dict[str, list[pictures.Mask]]:
    found: dict[str, list[pictures.Mask]] = {}
    for batch in store.stage("proposals").reader().batches(columns=["image", "height", "width", "masks"]):
        for row in batch.to_pylist():
            if row["image"] in images:
                found[row["image"]] = [
                    rle.decode_counts(mask["counts"], row["height"], row["width"]) for mask in row["masks"]
                ]
    return found


def _phrases(store: Any, rows: set[str]) -> dict[str, list[str]]:
    table = store.stage("phrases").reader().read(columns=["row_id", "phrases"])
    pairs = zip(table["row_id"].to_pylist(), table["phrases"].to_pylist(), strict=True)
    return {row_id: phrases for row_id, phrases in pairs if row_id in rows}


def _sample(
    row: Expression,
    score: Mapping[str, Any],
    kinds: tuple[str, ...],
    phrases: Mapping[str, list[str]],
    proposals: Mapping[str, list[pictures.Mask]],
    truth: Truth,
    out: Path,
) -> Sample | None:
    mask = truth.mask(row)
    if mask is None or row.image is None:
        return None
    own = proposals.get(row.image, [])
    chosen = score.get("proposal")
    stages = out / "evaluation" / "stages" / f"{row.row_id}.npy"
    return Sample(
        text=row.text,
        kind=kinds[-1],
        phrases=phrases.get(row.row_id, []),
        pixels=np.asarray(read_rgb(truth.dataset.root / row.image)),
        proposals=own,
        truth=mask,
        stages=list(np.load(stages, allow_pickle=False)) if stages.is_file() else [],
        prediction=own[chosen] if chosen is not None and chosen < len(own) else None,
        peak=(int(score["peak_y"]), int(score["peak_x"])),
        iou=score.get("proposal_iou"),
    )

"""Collects the data for the demo's page from the dataset, the store and the evaluation, joined by key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np

from prep import pictures
from prep.cache.store import Store, open_store
from prep.datasets.catalogue import open_dataset
from prep.datasets.truth import Truth
from prep.demo.page import Figure, Page, Sample, render
from prep.images import read_rgb
from prep.masks import rle
from prep.pages import html
from prep.records import Expression, Json

if TYPE_CHECKING:
    from prep.demo.run import DemoConfig

ALL = "all"


class ScoredRow(TypedDict):
    """The columns of ``samples.parquet`` that the page needs; the proposal is None unless it was a mask."""

    row_id: str
    point: bool
    peak_y: int
    peak_x: int
    proposal: int | None
    proposal_iou: float | None


@dataclass(frozen=True, slots=True)
class Hits:
    """An expression's kinds, and its share of hits by the model, a random object and the best proposal."""

    kinds: tuple[str, ...]
    model: float
    random_baseline: float
    oracle: float


def write_page(
    out: Path,
    data: Path,
    steps: Sequence[tuple[str, str, float]],
    metrics: Mapping[str, float | None],
    config: DemoConfig,
) -> list[Figure]:
    """Write ``out/index.html``; return the figures, one for each kind of expression."""
    import pyarrow.parquet as pq

    dataset = open_dataset(data, "refcoco")
    rows: list[ScoredRow] = pq.read_table(out / "evaluation" / "samples.parquet").to_pylist()
    scored = {row["row_id"]: row for row in rows}
    expressions = [row for row in dataset.expressions(["val"]) if row.row_id in scored]
    types = json.loads((data / "refer" / "refcoco" / "types.json").read_text(encoding="utf-8"))
    kinds = {row.row_id: _kinds(types.get(str(row.sent_id), {})) for row in expressions}
    store = open_store(out / "prepared")
    proposals = _proposals(store, {row.image for row in expressions if row.image})
    truth = Truth(dataset)
    objects = _objects(data)
    measured = [
        Hits(
            kinds[row.row_id],
            bool(scored[row.row_id]["point"]),
            1 / max(objects.get(row.image_id or 0, 1), 1),
            _reachable(truth.mask(row), proposals.get(row.image or "", [])),
        )
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
        f"mIoU {metrics.get('proposal_miou') or 0:.1f}% with the proposal under the peak as the mask (best "
        f"proposal {metrics.get('oracle_miou') or 0:.1f}%), {metrics['miou']:.1f}% with the map alone."
    )
    page = Page(
        "PCNet: referring segmentation on synthetic scenes",
        lead,
        figures,
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
    for number, name in enumerate(sorted(groups)):
        group = groups[name]
        share = min(count // len(groups) + (number < count % len(groups)), len(group))
        # Each kind starts at a different offset, so that they do not all show the same images.
        chosen += [group[int((step + number / len(groups)) * len(group) / share)] for step in range(share)]
    return sorted(chosen, key=lambda row: (row.image or "", row.row_id))


def _kinds(entry: Mapping[str, Json]) -> tuple[str, ...]:
    kind = str(entry.get("type", "expression"))
    return (kind, f"hard {kind}") if entry.get("hard") else (kind,)


def _figures(measured: Sequence[Hits]) -> list[Figure]:
    names = sorted(
        {kind for row in measured for kind in row.kinds}, key=lambda name: (name.split()[-1], len(name))
    )
    groups = {name: [row for row in measured if name == ALL or name in row.kinds] for name in [ALL, *names]}
    return [
        Figure(
            name,
            len(rows),
            model=100 * float(np.mean([row.model for row in rows])),
            random_baseline=100 * float(np.mean([row.random_baseline for row in rows])),
            oracle=100 * float(np.mean([row.oracle for row in rows])),
        )
        for name, rows in groups.items()
        if rows
    ]


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


def _proposals(store: Store, images: set[str]) -> dict[str, list[pictures.Mask]]:
    masks: dict[str, list[pictures.Mask]] = {}
    for batch in store.stage("proposals").reader().batches(columns=["image", "height", "width", "masks"]):
        for row in batch.to_pylist():
            if row["image"] in images:
                masks[row["image"]] = [
                    rle.decode_counts(mask["counts"], row["height"], row["width"]) for mask in row["masks"]
                ]
    return masks


def _phrases(store: Store, rows: set[str]) -> dict[str, list[str]]:
    table = store.stage("phrases").reader().read(columns=["row_id", "phrases"])
    pairs = zip(table["row_id"].to_pylist(), table["phrases"].to_pylist(), strict=True)
    return {row_id: phrases for row_id, phrases in pairs if row_id in rows}


def _sample(
    row: Expression,
    score: ScoredRow,
    kinds: tuple[str, ...],
    phrases: Mapping[str, list[str]],
    proposals: Mapping[str, list[pictures.Mask]],
    truth: Truth,
    out: Path,
) -> Sample | None:
    mask = truth.mask(row)
    if mask is None or row.image is None:
        return None
    masks = proposals.get(row.image, [])
    chosen = score.get("proposal")
    stages = out / "evaluation" / "stages" / f"{row.row_id}.npy"
    return Sample(
        text=row.text,
        kind=kinds[-1],
        phrases=phrases.get(row.row_id, []),
        pixels=np.asarray(read_rgb(truth.dataset.root / row.image)),
        proposals=masks,
        truth=mask,
        stages=list(np.load(stages, allow_pickle=False)) if stages.is_file() else [],
        prediction=masks[chosen] if chosen is not None and chosen < len(masks) else None,
        peak=(int(score["peak_y"]), int(score["peak_x"])),
        iou=score.get("proposal_iou"),
    )

"""Trains the components of the recipes on synthetic scenes and prints PointM and mIoU by kind of expression.

The proposals are the scenes' exact masks among parts, unions of two and patches of ground; every arm learns
from images, texts and these alone. Training uses one split, the table another (--report test uses the third).

.venv/bin/python benchmarks/ablation.py --steps 1500 --seeds 3 --arms one crm ras iad all plus   # hours on 2
cores .venv/bin/python benchmarks/ablation.py --steps 20 --seeds 1 --images 300                       # does
it run?
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pycocotools import mask as coco

from pcnet.evaluate import EvalSettings, Report, evaluate_checkpoint
from pcnet.train import TrainConfig, train
from prep import synthetic
from prep.cache.schema import PHRASES, PROPOSALS
from prep.cache.store import open_store
from prep.dataset import Dataset, open_dataset
from prep.phrases import decompose
from prep.proposals import propose
from prep.proposals.select import Selection

SIDE = 64
KINDS = ("attribute", "position", "relation", "hard position", "hard relation")
SPLITS = {"val": "val", "test": "testA"}


@dataclass(frozen=True)
class Arm:
    """One line of the table: a recipe with some weights and settings replaced."""

    recipe: str
    weights: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


OFF = {"ras": 0.0, "iad": 0.0}
ARMS = {
    # The paper's component table, by the paper's equations.
    "one": Arm("paper", OFF, {"comprehension": "none", "stages": 1}),
    "crm": Arm("paper", OFF),
    "ras": Arm("paper", {"iad": 0.0}),
    "iad": Arm("paper", {"ras": 0.0}),
    "all": Arm("paper"),
    # The same with the released code's operations. Its calibration needs CLIP and its RaS scores: both are
    # left out.
    "released-crm": Arm("released", {**OFF, "cbs": 0.0}),
    "released-iad": Arm("released", {"iad": 1.0, "cbs": 0.0}),
    # Ours, and what each part of it is worth.
    "plus": Arm("plus"),
    "plus-everywhere": Arm("plus", {}, {"pooling": "all"}),
    "plus-union": Arm("plus", {}, {"edge": 1.0}),
    "plus-attention": Arm("plus", {}, {"gain": 0.1}),
    "plus-one-stage": Arm("plus", {}, {"stages": 1}),
    "plus-soft-iad": Arm("plus", {"iad": 0.5}),
    "plus-previous-ras": Arm("plus", {"ras": 0.2}),
}


def proposals(truths: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Exact masks, halves of two objects, a union of two and two patches of ground, in random order."""
    found = list(truths)
    for mask in (truths[i] for i in rng.permutation(len(truths))[:2]):
        half = mask.copy()
        half[:, : int(np.argwhere(mask)[:, 1].mean())] = False
        found.append(half)
    if len(truths) > 1:
        one, other = rng.permutation(len(truths))[:2]
        found.append(truths[one] | truths[other])
    for _ in range(2):
        y, x = rng.integers(0, SIDE - 14, 2)
        patch = np.zeros((SIDE, SIDE), bool)
        patch[y : y + 14, x : x + 14] = True
        found.append(patch & ~np.any(truths, axis=0))
    found = [mask for mask in found if mask.any()]
    return [found[i] for i in rng.permutation(len(found))]


def make_store(data: Path, folder: Path, generator: str) -> str:
    """The rows that the two stages would write: the rules' phrases, and :func:`proposals` or segments."""
    dataset = open_dataset(data, "refcoco")
    store = open_store(folder, create=True)
    names = ("row_id", "dataset", "split_by", "split", "ref_id", "sent_id", "image_id", "image")
    fixed = {"llm": "rules", "key": "k", "violations": [], "rejected": [], "status": "ok"}
    with store.stage("phrases").writer({"llm": "rules"}) as writer:
        rows = [
            {**{n: getattr(e, n) for n in names}, "expression": e.text, **fixed}
            | {"phrases": list(decompose(e.text).phrases)}
            for e in dataset.expressions()
        ]
        writer.write(pa.Table.from_pylist(rows, schema=PHRASES))
    told = json.loads((data / "refer" / "refcoco" / "instances.json").read_text())
    truths: dict[int, list[np.ndarray]] = {}
    for annotation in told["annotations"]:
        truths.setdefault(annotation["image_id"], []).append(
            coco.decode(annotation["segmentation"]).astype(bool)
        )
    with store.stage("proposals").writer({"generator": generator}) as writer:
        table = [
            image_row(
                image.image,
                image.image_id or 0,
                proposals(truths[image.image_id or 0], np.random.default_rng(image.image_id))
                if generator == "exact"
                else segments(Path(image.path)),
            )
            for image in dataset.images()
        ]
        writer.write(pa.Table.from_pylist(table, schema=PROPOSALS))
    return store.uri


def segments(path: Path) -> list[np.ndarray]:
    """What ``pcnet-prep sam --generator segments --min-area 20`` finds in an image."""
    found = propose([path], "segments", Selection(min_area=20, max_overlap=0.8, max_masks=40))[0]
    coded = [{"size": [SIDE, SIDE], "counts": one.counts.encode()} for one in found]
    return [coco.decode(one).astype(bool) for one in coded]


def image_row(image: str, image_id: int, found: list[np.ndarray]) -> dict[str, Any]:
    """A row of the proposals stage."""
    masks = np.stack(found) if found else np.zeros((0, SIDE, SIDE), bool)
    coded = [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    grid = np.packbits(masks[:, ::2, ::2].reshape(len(masks), 1024), axis=1, bitorder="big")
    listed = [
        {"counts": c["counts"].decode(), "area": int(m.sum()), "bbox": [float(v) for v in coco.toBbox(c)]}
        for c, m in zip(coded, masks, strict=True)
    ]
    shape = {"image": image, "image_id": image_id, "height": SIDE, "width": SIDE}
    return {
        **shape,
        "masks": listed,
        "grid32": grid.tobytes(),
        "generator": "exact",
        "key": "k",
        "status": "ok",
    }


def run(
    arm: Arm, seed: int, data: Path, store: str, folder: Path, steps: int, split: str
) -> tuple[Report, float]:
    """Train one arm and score it; its report and its seconds of training."""
    config = TrainConfig(
        store=store, data=str(data), out=str(folder), encoder="tiny", recipe=arm.recipe, weights=arm.weights
    )
    done = train(
        TrainConfig(**{**vars(config), "settings": arm.settings, "steps": steps, "seed": seed, "quiet": True})
    )
    dataset: Dataset = open_dataset(data, "refcoco")
    settings = EvalSettings(threshold=0.5)
    report = evaluate_checkpoint(done.last, dataset, store=store, split=split, settings=settings, refine=True)
    return report, done.seconds


def bounds(data: Path, split: str) -> str:
    """Chance: the share of PointM that pointing at a random object of the image gives, by kind."""
    dataset = open_dataset(data, "refcoco")
    told = json.loads((data / "refer" / "refcoco" / "instances.json").read_text())
    types = json.loads((data / "refer" / "refcoco" / "types.json").read_text())
    objects = Counter(annotation["image_id"] for annotation in told["annotations"])
    shares: dict[str, list[float]] = {kind: [] for kind in ("all", *KINDS)}
    for expression in dataset.expressions([split]):
        kind = types[str(expression.sent_id)]
        for name in ("all", kind["type"], *([f"hard {kind['type']}"] if kind["hard"] else [])):
            shares[name].append(100 / objects[expression.image_id])
    means = [f"{statistics.mean(values) if values else 0:12.1f}  " for values in shares.values()]
    return f"{'a random object':18s}" + "".join(means)


def line(name: str, reports: Sequence[Report], seconds: Sequence[float]) -> str:
    """Mean and deviation over the seeds."""

    def cell(values: list[float]) -> str:
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        return f"{statistics.mean(values):6.1f} ±{spread:4.1f}"

    cells = [cell([r.metrics.pointm for r in reports])]
    cells += [cell([r.groups[kind].pointm if kind in r.groups else 0.0 for r in reports]) for kind in KINDS]
    cells.append(cell([r.metrics.proposal_miou or 0.0 for r in reports]))
    cells.append(cell([r.metrics.oracle_miou or 0.0 for r in reports]))
    cells.append(cell([r.metrics.miou for r in reports]))
    return f"{name:18s}" + "".join(f"{c:>14s}" for c in cells) + f"{statistics.mean(seconds):9.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="+", choices=[*ARMS], default=["one", "crm", "all", "plus"])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--report", choices=[*SPLITS], default="test", help="tune on val, report on test")
    parser.add_argument("--generator", choices=["exact", "segments"], default="exact")
    parser.add_argument("--out", type=Path, help="keep the figures of every run here, as JSON lines")
    given = parser.parse_args()
    columns = ("all", *KINDS, "mIoU prop.", "its bound", "mIoU 0.5")
    with tempfile.TemporaryDirectory() as name:
        data = synthetic.write(Path(name), images=given.images, seed=0)
        store = make_store(data, Path(name) / "store", given.generator)
        print(f"{'PointM, %':18s}" + "".join(f"{c:>14s}" for c in columns) + f"{'seconds':>9s}")
        print(bounds(data, SPLITS[given.report]), flush=True)
        for arm in given.arms:
            reports, seconds = [], []
            for seed in range(given.seeds):
                began = time.time()
                folder = Path(name) / f"{arm}-{seed}"
                found = run(ARMS[arm], seed, data, store, folder, given.steps, SPLITS[given.report])
                reports.append(found[0])
                seconds.append(found[1])
                if given.out:
                    told = {
                        "arm": arm,
                        "seed": seed,
                        "steps": given.steps,
                        "began": began,
                        **found[0].as_dict(),
                    }
                    with given.out.open("a", encoding="utf-8") as handle:
                        handle.write(json.dumps(told) + "\n")
            print(line(arm, reports, seconds), flush=True)


if __name__ == "__main__":
    main()

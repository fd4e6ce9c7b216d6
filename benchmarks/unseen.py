"""Trains without some pairs of colour and shape; prints PointM for targets of these pairs and of the others.

Each seed withholds one shape of every colour. Images that contain a withheld pair are not trained on, so
every colour and every shape is seen, but the pair is not. `named` counts expressions that name both. Results
are of the test split. --out is that of benchmarks/ablation.py, whose data and arms are used.

.venv/bin/python benchmarks/unseen.py --steps 3000 --jobs 2
.venv/bin/python benchmarks/unseen.py --steps 20 --seeds 1 --images 300 --out /tmp/unseen
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from random import Random

import numpy as np
import torch
from ablation import ARMS
from ablation_scenes import SEED, SPLITS, data_folder, store_folder

from pcnet.evaluation.dataset import Item, load_evalset
from pcnet.evaluation.evaluate import EvalSettings, evaluate_checkpoint
from pcnet.training.trainer import TrainConfig, train
from prep.cache.store import open_store
from prep.datasets.catalogue import open_dataset
from prep.demo.scenes import COLOURS, KINDS, scene

Pair = tuple[str, str]
GROUPS = ("unseen", "unseen, named", "seen", "seen, named")
Figures = dict[str, tuple[float, int]]  # group -> PointM in percent, and n


def withheld(seed: int) -> frozenset[Pair]:
    """One shape of every colour, no shape more than twice."""
    kinds = Random(seed).sample(2 * KINDS, len(COLOURS))
    return frozenset(zip(COLOURS, kinds, strict=True))


def number_of(image: str) -> int:
    """The number of the scene in the name of its image."""
    return int(Path(image).stem.split("_")[-1])


def pairs_in(number: int) -> set[Pair]:
    """The pairs of colour and shape in a scene."""
    return {(thing.colour, thing.kind) for thing in scene(Random(f"{SEED} {number - 1}"))}


def pair_of(item: Item) -> Pair:
    """The colour and the shape of the target: the thing of the scene that is nearest to its mask's centre."""
    y, x = np.argwhere(item.mask()).mean(axis=0)
    things = scene(Random(f"{SEED} {number_of(item.image) - 1}"))
    nearest = min(things, key=lambda thing: (thing.x - x) ** 2 + (thing.y - y) ** 2)
    return nearest.colour, nearest.kind


def perform(name: str, seed: int, steps: int, out: Path, threads: int) -> Figures:
    """Train an arm without the withheld pairs and score it, in its own process; its figures by group."""
    torch.set_num_threads(threads)
    arm, data, store = ARMS[name], out / "coco", str(out / "exact")
    folder = out / "runs" / f"unseen-{name}-{steps}-seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    pairs, dataset = withheld(seed), open_dataset(data, "refcoco")
    left_out = [one.image for one in dataset.images() if pairs_in(number_of(one.image)) & pairs]
    (folder / "withheld.txt").write_text("".join(f"{image}\n" for image in left_out), encoding="utf-8")
    done = train(
        TrainConfig(
            store=store,
            data=str(data),
            out=str(folder),
            exclude=str(folder / "withheld.txt"),
            encoder="tiny",
            recipe=arm.recipe,
            weights=arm.weights,
            settings=arm.settings,
            steps=steps,
            epoch="sentences",
            seed=seed,
            threads=threads,
            amp="off",
            quiet=True,
        )
    )
    hits: dict[str, list[float]] = {group: [] for group in GROUPS}
    for split in SPLITS["test"]:
        found = evaluate_checkpoint(
            done.last, dataset, store=store, split=split, settings=EvalSettings(threads=0)
        )
        point = {row["row_id"]: float(row["point"]) for row in found.rows}
        for item in load_evalset(dataset, open_store(store), split).items:
            pair = pair_of(item)
            group = "unseen" if pair in pairs else "seen"
            hits[group].append(point[item.row_id])
            if all(word in item.text for word in pair):
                hits[f"{group}, named"].append(point[item.row_id])
    return {group: (100 * statistics.mean(own), len(own)) for group, own in hits.items() if own}


def line(name: str, rows: list[Figures]) -> str:
    """A row of the table: mean and standard deviation over the seeds."""
    cells = []
    for group in GROUPS:
        values = [row[group][0] for row in rows if group in row]
        spread = f" ±{statistics.stdev(values):4.1f}" if len(values) > 1 else ""
        cells.append(f"{f'{statistics.mean(values):.1f}{spread}' if values else '-':>15s}")
    return f"{name:18s}" + "".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arms", nargs="+", choices=[*ARMS], default=["plus", "all", "one"], metavar="ARM")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--jobs", type=int, default=1, help="parallel runs, which share the cores")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="data and runs")
    given = parser.parse_args()
    store_folder(given.out, data_folder(given.out, given.images), "exact")
    threads = max(1, (os.cpu_count() or 1) // given.jobs)
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        waiting = {
            (name, seed): pool.submit(perform, name, seed, given.steps, given.out, threads)
            for seed in range(given.seeds)
            for name in given.arms
        }
        found = {}
        for (name, seed), future in waiting.items():
            found[name, seed] = future.result()
            with (given.out / "unseen.jsonl").open(
                "a", encoding="utf-8"
            ) as handle:  # kept if a later run fails
                row = {"arm": name, "seed": seed, "steps": given.steps, **found[name, seed]}
                handle.write(json.dumps(row) + "\n")
    print(f"{'PointM, %':18s}" + "".join(f"{group:>15s}" for group in GROUPS))
    for name in given.arms:
        print(line(name, [found[name, seed] for seed in range(given.seeds)]))
    counts = {group: n for group, (_, n) in found[given.arms[0], 0].items()}
    print(f"# seed 0 withholds {sorted(withheld(0))}; expressions of its groups: {counts}")


if __name__ == "__main__":
    main()

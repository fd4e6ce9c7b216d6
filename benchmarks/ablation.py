"""Trains the components of the recipes on synthetic scenes; prints PointM and mIoU by type of expression.

The proposals are the exact masks of the scenes plus distractors: parts of objects, unions of two, and patches
of background (or the output of the generator `segments`). Every arm is trained on images, expressions and
proposals alone. The tables use the test splits (--report val is for tuning). With --begin N, every arm is
initialised from N steps of the single-stage arm `one` with the same seed, as the paper starts from CLIP;
without it, arms are trained from scratch. --out keeps the data, checkpoints and results: finished runs are
not repeated, and --print trains nothing.

.venv/bin/python benchmarks/ablation.py --table paper --begin 1000 --steps 400 --jobs 2
.venv/bin/python benchmarks/ablation.py --steps 20 --seeds 1 --images 300 --out /tmp/ablation  # smoke test
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from ablation_scenes import FIGURES, GROUPS, SPLITS, Figures, bounds, data_folder, store_folder, write_scores

from pcnet.evaluation.evaluate import EvalSettings, evaluate_checkpoint
from pcnet.recipes import recipe
from pcnet.training.trainer import TrainConfig, train
from prep.datasets.catalogue import open_dataset

BEGUN_RATE = 1e-3  # half the rate for training the tiny encoder from scratch


@dataclass(frozen=True)
class Arm:
    """One row of the table: a recipe with some loss weights and settings overridden."""

    recipe: str
    weights: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


OFF = {"ras": 0.0, "iad": 0.0}
# The calibration loss needs the pretrained CLIP and photographs, so it is disabled. The scores by which the
# released RaS ranks proposals come from the checkpoint that the arms are initialised from.
RELEASED = {"cls": 5.0, "cbs": 0.0, **OFF}
ONE_STAGE = {"comprehension": "none", "stages": 1}
TABLES: dict[str, dict[str, Arm]] = {
    "paper": {
        "one": Arm("paper", OFF, ONE_STAGE),
        "crm": Arm("paper", OFF),
        "ras": Arm("paper", {"iad": 0.0}),
        "iad": Arm("paper", {"ras": 0.0}),
        "all": Arm("paper"),
    },
    # The paper's two losses, scaled to the gradient norm of the classification loss (benchmarks/losses.py).
    "balanced": {
        "ras-x20": Arm("paper", {"ras": 20.0, "iad": 0.0}),
        "iad-x0.05": Arm("paper", {"ras": 0.0, "iad": 0.05}),
    },
    "released": {
        "released-one": Arm("released", RELEASED, {"stages": 1}),
        "released-crm": Arm("released", RELEASED),
        "released-ras": Arm("released", {**RELEASED, "ras": 1.0}),
        "released-iad": Arm("released", {**RELEASED, "iad": 1.0}),
        "released-all": Arm("released", {**RELEASED, "ras": 1.0, "iad": 1.0}),
    },
    # Ours, and its ablations: each part removed, or added if it is not part of it.
    "plus": {
        "plus": Arm("plus"),
        "plus-one-stage": Arm("plus", {}, {"stages": 1}),
        "plus-no-opposites": Arm("plus", {"opp": 0.0}),
        "plus-no-inside": Arm("plus", {"ins": 0.0}),
        "plus-everywhere": Arm("plus", {}, {"pooling": "all"}),
        "plus-union": Arm("plus", {}, {"edge": 1.0}),
        "plus-attention": Arm("plus", {}, {"gain": 0.1}),
        "plus-soft-iad": Arm("plus", {"iad": 0.5}),
        "plus-ras": Arm("plus", {"ras": 0.2}),
    },
    # The weight of the direction contrast (0.1 in plus).
    "contrast": {f"plus-opp-{weight}": Arm("plus", {"opp": weight}) for weight in (0.05, 0.2, 0.4)},
}
ARMS = {name: arm for table in TABLES.values() for name, arm in table.items()}


@dataclass(frozen=True)
class Run:
    """The identity of one training run and its evaluation."""

    arm: str
    seed: int
    steps: int
    begin: int
    generator: str
    report: str
    images: int

    @property
    def name(self) -> str:
        """The name of its folder. It omits ``report``: evaluating another split needs no training."""
        return f"{self.arm}-{self.generator}-{self.begin}+{self.steps}-seed{self.seed}"

    @property
    def first(self) -> Run | None:
        """The run that this one is initialised from."""
        return replace(self, arm="one", steps=self.begin, begin=0) if self.begin else None


def perform(run: Run, out: Path, threads: int) -> dict[str, Any]:
    """Train and evaluate one run (in its own process); return its row of the results."""
    torch.set_num_threads(threads)
    arm, data = ARMS[run.arm], out / "coco"
    store = str(out / run.generator)
    done = train(
        TrainConfig(
            store=store,
            data=str(data),
            out=str(out / "runs" / run.name),
            begin_from=str(out / "runs" / run.first.name / "last.pt") if run.first else None,
            encoder="tiny",
            recipe=arm.recipe,
            weights=arm.weights,
            settings=arm.settings,
            lr=BEGUN_RATE if run.begin else None,
            steps=run.steps,
            epoch="sentences",  # the same data for every arm
            seed=run.seed,
            threads=threads,
            amp="off",  # the same precision on every machine
            quiet=True,
        )
    )
    figures = score(done.last, store, data, SPLITS[run.report])
    return {**asdict(run), "seconds": done.seconds, "figures": figures}


def score(checkpoint: Path, store: str, data: Path, splits: tuple[str, ...]) -> Figures:
    """The metrics of a checkpoint over several splits, with maps thresholded at half their maximum."""
    settings = EvalSettings(threshold=0.5, threads=0)
    parts: dict[str, list[dict[str, Any]]] = {}
    for split in splits:
        dataset = open_dataset(data, "refcoco")
        found = evaluate_checkpoint(
            checkpoint, dataset, store=store, split=split, settings=settings, refine=True
        )
        for group, metrics in {"all": found.metrics, **found.groups}.items():
            parts.setdefault(group, []).append(metrics.as_dict())
    figures: Figures = {}
    for group, own in parts.items():
        n = sum(part["n"] for part in own)
        means = {name: sum(part["n"] * part[name] for part in own) / n for name in FIGURES}
        figures[group] = {"n": n, "empty": sum(part["empty"] for part in own), **means}
    return figures


def missing(runs: list[Run], results: dict[Run, dict[str, Any]]) -> list[list[Run]]:
    """The runs still to train, in two rounds: those that initialise others, then the rest."""
    first = {run.first for run in runs if run.first is not None}
    rounds = [sorted(first, key=str), [run for run in runs if run not in first]]
    return [[run for run in one if run not in results] for one in rounds]


def read_results(path: Path) -> dict[Run, dict[str, Any]]:
    """The finished runs, with their metrics."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines]
    return {Run(**{name: row[name] for name in Run.__dataclass_fields__}): row for row in rows}


def train_all(runs: list[Run], out: Path, jobs: int, results: dict[Run, dict[str, Any]]) -> None:
    """Train the missing runs, ``jobs`` in parallel, and add each to the results as it completes."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    for left in missing(runs, results):
        for run in left:
            if recipe(ARMS[run.arm].recipe, ARMS[run.arm].weights).needs_clip_scores:
                if run.first is None:
                    raise SystemExit(
                        f"{run.arm} ranks proposals by the scores of a trained model: use --begin."
                    )
                first = replace(run.first, seed=0)
                write_scores(str(out / run.generator), out / "coco", out / "runs" / first.name / "last.pt")
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            waiting = {pool.submit(perform, run, out, threads): run for run in left}
            for future in as_completed(waiting):
                run, row = waiting[future], future.result()
                results[run] = row
                with (out / "results.jsonl").open("a", encoding="utf-8") as handle:
                    handle.write(json.dumps(row) + "\n")
                pointm = row["figures"]["all"]["pointm"]
                print(f"# {run.name}: PointM {pointm:.1f}, {row['seconds']:.0f} s", flush=True)


def line(name: str, figure: str, rows: list[Figures]) -> str:
    """A row of the table: mean and standard deviation over the seeds, by group."""

    def cell(group: str) -> str:
        values = [row[group][figure] for row in rows if group in row]
        if not values:
            return f"{'-':>13s}"
        spread = f" ±{statistics.stdev(values):4.1f}" if len(values) > 1 else ""
        return f"{f'{statistics.mean(values):.1f}{spread}':>15s}"

    empty = [row["all"]["empty"] for row in rows if "empty" in row["all"]]
    told = f"{statistics.mean(empty):9.1f}" if empty and figure == "pointm" else ""
    return f"{name:18s}" + "".join(cell(group) for group in GROUPS) + told


def table(runs: list[Run], results: dict[Run, dict[str, Any]], known: dict[str, Figures]) -> list[str]:
    """Three tables: PointM, refined mIoU, and mIoU of the map thresholded at half its maximum."""
    lines = []
    titles = ("PointM, %", "refined mIoU", "mIoU at 0.5")
    begun = [run.first for run in runs if run.first is not None]
    named = [(f"{run.arm} (init)", run.arm, run.begin) for run in begun[:1]]
    named += [(arm, arm, runs[0].begin) for arm in dict.fromkeys(run.arm for run in runs)]
    for figure, title in zip(FIGURES, titles, strict=True):
        told = f"{'empty':>9s}" if figure == "pointm" else ""
        lines.append(f"{title:18s}" + "".join(f"{group:>15s}" for group in GROUPS) + told)
        lines += [line(name, figure, [own]) for name, own in known.items() if figure in own["all"]]
        for name, arm, begin in named:
            own = [row for run, row in results.items() if (run.arm, run.begin) == (arm, begin)]
            if own:
                lines.append(line(name, figure, [row["figures"] for row in own]))
        lines.append("")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", nargs="+", choices=[*TABLES], default=[], help="all arms of a table")
    parser.add_argument("--arms", nargs="+", choices=[*ARMS], default=[], metavar="ARM", help=", ".join(ARMS))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument(
        "--begin", type=int, default=0, help="steps of `one` that every arm is initialised from"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--report", choices=[*SPLITS], default="test", help="tune on val, report on test")
    parser.add_argument("--generator", choices=["exact", "segments"], default="exact")
    parser.add_argument("--jobs", type=int, default=1, help="parallel runs, which share the cores")
    parser.add_argument("--print", action="store_true", help="train nothing, print the existing results")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="data, runs and results")
    given = parser.parse_args()
    names = [*dict.fromkeys([*(arm for name in given.table for arm in TABLES[name]), *given.arms])] or [
        "plus"
    ]
    data = data_folder(given.out, given.images)
    store = store_folder(given.out, data, given.generator)
    rest = (given.steps, given.begin, given.generator, given.report, given.images)
    # Seed by seed, so that an interrupted table has every arm.
    runs = [Run(name, seed, *rest) for seed in range(given.seeds) for name in names]
    results = read_results(given.out / "results.jsonl")
    if not given.print:
        train_all(runs, given.out, given.jobs, results)
    wanted = {*runs, *(run.first for run in runs)}
    done = {run: row for run, row in results.items() if run in wanted}
    print("\n".join(table(runs, done, bounds(data, store, SPLITS[given.report]))))


if __name__ == "__main__":
    main()

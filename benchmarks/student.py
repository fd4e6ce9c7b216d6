"""Trains students on the teachers of benchmarks/ablation.py; prints the masks of both, and the speed.

The student sees an image and a sentence at inference, no proposals and no phrases. Its teacher is the arm
`plus` of the same --out, which is trained first if it is missing. Results are of the test split (--report val
is for tuning).

.venv/bin/python benchmarks/student.py --teacher-steps 3000 --steps 3000
.venv/bin/python benchmarks/student.py --teacher-steps 30 --steps 20 --seeds 1 --images 300 --out /tmp/student
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from ablation import Run, perform
from ablation_scenes import SIDE, SPLITS, data_folder, store_folder

from pcnet.evaluation.evaluate import EvalSettings, evaluate_checkpoint
from pcnet.model.checkpoint import load_model
from pcnet.training.distill import DistillConfig, distill
from prep.datasets.catalogue import open_dataset

HARD = ("hard position", "hard relation")  # expressions whose attributes match several objects
NAMES = ("PointM", "mIoU", "oIoU", *HARD)


def figures(checkpoint: Path, given: argparse.Namespace, kind: str) -> dict[str, float]:
    """PointM, mIoU and oIoU of the masks ``kind`` over the splits, and PointM of hard types, in percent."""
    rows, hits, counts = [], dict.fromkeys(HARD, 0.0), dict.fromkeys(HARD, 0)
    for split in SPLITS[given.report]:
        found = evaluate_checkpoint(
            checkpoint,
            open_dataset(given.out / "coco", "refcoco"),
            store=str(given.out / given.generator),
            split=split,
            settings=EvalSettings(masks=(kind,)),
        )
        rows += found.rows
        for name in HARD:
            if own := found.groups.get(name):
                hits[name] += own.pointm * own.n
                counts[name] += own.n
    prefix = "proposal_" if kind == "proposal" else ""
    shared, union = (sum(row[f"{prefix}{name}"] or 0 for row in rows) for name in ("intersection", "union"))
    return {
        "PointM": 100 * statistics.mean(row["point"] for row in rows),
        "mIoU": 100 * statistics.mean(row[f"{prefix}iou"] or 0.0 for row in rows),
        "oIoU": 100 * shared / union,
        **{name: hits[name] / counts[name] if counts[name] else math.nan for name in HARD},
    }


@torch.inference_mode()
def images_per_second(checkpoint: Path, batch: int = 32, seconds: float = 5.0) -> float:
    """Images with one expression each per second, from normalised pixels and token ids to masks."""
    model = load_model(checkpoint)
    images = torch.randn(batch, 3, SIDE, SIDE)
    if model.tokenizer is None:
        raise SystemExit("The model has no tokenizer.")
    ids = model.tokenizer(["the small red circle to the left of the blue square"] * batch)
    model(images, ids, ids[:, None][:, :0])
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        _ = model(images, ids, ids[:, None][:, :0]) > 0
        done += batch
    return done / (time.perf_counter() - began)


def student_of(run: Run, given: argparse.Namespace) -> tuple[Path, Path, float]:
    """The checkpoints of a teacher and of its student, and the seconds that the student took."""
    teacher = given.out / "runs" / run.name / "last.pt"
    if not (teacher.with_name("best.pt")).exists():
        perform(run, given.out, given.threads)
    done = distill(
        DistillConfig(
            teacher=str(teacher),
            store=str(given.out / given.generator),
            data=str(given.out / "coco"),
            out=str(given.out / "runs" / f"{run.name}-student-{given.steps}"),
            steps=given.steps,
            seed=run.seed,
            threads=given.threads,
            quiet=True,
        )
    )
    return teacher, done.last, done.seconds


def one_seed(seed: int, given: argparse.Namespace) -> tuple[dict[str, dict[str, float]], Path, float]:
    """Train a teacher and its student in this process: their figures, the student and its seconds."""
    torch.set_num_threads(given.threads)
    run = Run("plus", seed, given.teacher_steps, 0, given.generator, given.report, given.images)
    teacher, student, seconds = student_of(run, given)
    masks = {
        "teacher, map": (teacher, "map"),
        "teacher, proposal under peak": (teacher, "proposal"),
        "student, map": (student, "map"),
        "student, proposal under peak": (student, "proposal"),
    }
    return {name: figures(one, given, kind) for name, (one, kind) in masks.items()}, student, seconds


def line(name: str, rows: list[dict[str, float]]) -> str:
    """A row of the table: mean and standard deviation over the seeds."""
    cells = []
    for figure in NAMES:
        values = [row[figure] for row in rows]
        spread = f" ±{statistics.stdev(values):4.1f}" if len(values) > 1 else ""
        cells.append(f"{f'{statistics.mean(values):.1f}{spread}':>15s}")
    return f"{name:32s}" + "".join(cells)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher-steps", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--report", choices=[*SPLITS], default="test")
    parser.add_argument("--generator", choices=["exact", "segments"], default="exact")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1, help="seeds in parallel")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    store_folder(given.out, data_folder(given.out, given.images), given.generator)
    rows: dict[str, list[dict[str, float]]] = {}
    with ProcessPoolExecutor(given.jobs, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(one_seed, seed, given) for seed in range(given.seeds)]
        for seed, future in enumerate(waiting):
            own, student, seconds = future.result()
            print(f"# seed {seed}: {seconds:.0f} s for {student}", flush=True)
            for name, one in own.items():
                rows.setdefault(name, []).append(one)
                print(f"#   {name}: {', '.join(f'{key} {one[key]:.1f}' for key in NAMES)}")
    print(f"# {images_per_second(student):.0f} images/s on the CPU")
    print(f"{'%':32s}" + "".join(f"{name:>15s}" for name in NAMES))
    for name, own in rows.items():
        print(line(name, own))


if __name__ == "__main__":
    main()

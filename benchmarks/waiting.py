"""Measures how threads should wait: training and SAM, alone and beside busy processes.

Runs `pcnet train` and `pcnet-prep sam` (ViT-B with random weights, one image) as a user does, with one thread
and with all, beside no other process and beside as many endless loops as there are cores. Waiting threads
`sleep` at once (OMP_WAIT_POLICY=PASSIVE), `spin` (ACTIVE), or do what the programs choose (`ours`: spin
briefly, then sleep). Prints the seconds of each command: wall time, and CPU of all its threads. The rules of
`pcnet-prep phrases` use one thread.

.venv/bin/python benchmarks/waiting.py
.venv/bin/python benchmarks/waiting.py --steps 2 --repeats 1 --loads 0 --jobs train
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from prep.demo import dataset as synthetic

CORES = len(os.sched_getaffinity(0))
WAITING = {"ours": {}, "sleep": {"OMP_WAIT_POLICY": "PASSIVE"}, "spin": {"OMP_WAIT_POLICY": "ACTIVE"}}
DECIDED = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # unset for the commands, so that they choose


@contextmanager
def load(processes: int) -> Iterator[None]:
    """So many processes that always compute; they end with this one, however it ends."""
    endless = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
    busy = [subprocess.Popen([sys.executable, "-c", endless]) for _ in range(processes)]
    try:
        yield
    finally:
        for one in busy:
            one.kill()
            one.wait()


def run(command: list[str], cwd: Path, **environment: str) -> tuple[float, float]:
    """Wall seconds and CPU seconds of a command of ours; its output is shown only if it fails."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    program = ["-c", f"import cli; cli.{command[0]}()", *command[1:]]
    done = subprocess.run(
        [sys.executable, *program],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name not in DECIDED} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def training(folder: Path, steps: int) -> list[str]:
    """A command that trains on scenes with phrases by rules and proposals of `segments`."""
    synthetic.write(folder, images=200, seed=0)
    data = ["--data", "coco", "--dataset", "refcoco", "--store", "prepared"]
    run(["prep_main", "phrases", "--llm", "rules", *data], folder)
    run(["prep_main", "sam", "--generator", "segments", *data], folder)
    return ["pcnet_main", "train", *data, "--encoder", "tiny", "--recipe", "plus", "--steps", str(steps)]


def proposals(folder: Path) -> list[str]:
    """A command that finds the masks of one image with ViT-B and 64 points."""
    import torch
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    torch.save(sam_model_registry["vit_b"]().state_dict(), folder / "sam.pth")
    (folder / "photos").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    Image.fromarray(noise).save(folder / "photos" / "noise.png")
    weights = ["--checkpoint", "sam.pth", "--model", "vit_b", "--points-per-side", "8"]
    return ["prep_main", "sam", "--images", "photos", *weights]


def main() -> None:
    """Run every job in every setting, in turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=80, help="of training")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--jobs", nargs="+", choices=["train", "sam"], default=["train", "sam"])
    parser.add_argument("--loads", nargs="+", type=int, default=[0, CORES], help="busy processes beside it")
    given = parser.parse_args()
    settings = [("1", "ours"), *((str(CORES), waiting) for waiting in WAITING)]
    print(f"{'':8}{'beside':>8}{'threads':>9}{'waiting':>10}{'wall s: min, median, max':>28}{'CPU s':>10}")
    for job in given.jobs:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            command = training(folder, given.steps) if job == "train" else proposals(folder)
            out = "--out" if job == "train" else "--store"
            for beside in given.loads:
                times: dict[tuple[str, str], list[tuple[float, float]]] = {one: [] for one in settings}
                for repeat in range(given.repeats):
                    for threads, waiting in settings:
                        target = f"{out[2:]}-{beside}-{threads}-{waiting}-{repeat}"
                        with load(beside):
                            environment = {"OMP_NUM_THREADS": threads, **WAITING[waiting]}
                            taken = run([*command, out, target], folder, **environment)
                        times[threads, waiting].append(taken)
                        print(f"# {target}: {taken[0]:.1f} s, {taken[1]:.1f} s of CPU", flush=True)
                for (threads, waiting), measured in times.items():
                    wall, cpu = ([round(one, 1) for one in column] for column in zip(*measured, strict=True))
                    shown = f"{min(wall)} {statistics.median(wall):.1f} {max(wall)}"
                    print(
                        f"{job:8}{beside:8}{threads:>9}{waiting:>10}{shown:>28}{statistics.median(cpu):>10.1f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()

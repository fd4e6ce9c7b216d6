"""Kills the real commands repeatedly while they run, and compares the result with an uninterrupted run.

    python benchmarks/chaos.py rules segments --kills 100
    python benchmarks/chaos.py sam --kills 100                  # a small SAM built from segment_anything
    python benchmarks/chaos.py segments --workers 2 --victim actor --kills 10
    python benchmarks/chaos.py llm --llm DIR --kills 10         # a local model directory, through vLLM

Each kill is a SIGKILL at a random moment of the run. It counts only if rows were still missing. After each
kill, the rows in ``*.parquet`` are checked: no row is duplicated, and no earlier row is lost. Once complete,
the rows must equal those of the uninterrupted run (for an LLM: the same row_ids, and no duplicate key in the
response cache). Then the next store is started.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from PIL import Image

PROGRAM = str(Path(sys.executable).with_name("pcnet-prep"))
KEYS = {"phrases": "row_id", "proposals": "image"}


@dataclass
class Job:
    """A command to kill: its arguments without --out, its table, and the expected number of rows."""

    name: str
    arguments: list[str]
    stage: str
    rows: int
    deterministic: bool = True


def expressions(folder: Path, count: int) -> Path:
    rng = random.Random(0)
    words = [
        "man",
        "woman",
        "dog",
        "red",
        "blue",
        "left",
        "right",
        "tall",
        "bench",
        "with",
        "a",
        "hat",
        "on",
        "the",
        "near",
        "holding",
        "umbrella",
        "second",
        "from",
    ]
    path = folder / "expressions.jsonl"
    with path.open("w") as file:
        for number in range(count):
            text = " ".join(rng.choices(words, k=rng.randint(2, 9)))
            file.write(json.dumps({"sent": text, "sent_id": number}) + "\n")
    return path


def photos(folder: Path, count: int, side: int) -> Path:
    """Images of a few coloured boxes on noise; one file in ten is not an image."""
    rng = np.random.default_rng(0)
    place = folder / "images"
    place.mkdir()
    for number in range(count):
        path = place / f"{number:05d}.jpg"
        if number % 10 == 9:
            path.write_bytes(b"not an image")
            continue
        pixels = rng.integers(0, 60, (side, side, 3), dtype=np.uint8)
        for _ in range(4):
            y, x = rng.integers(0, side * 3 // 4, 2)
            pixels[y : y + side // 4, x : x + side // 4] = rng.integers(60, 255, 3)
        Image.fromarray(pixels).save(path, quality=92)
    return place


def small_sam(checkpoint: str | None = None) -> object:
    """A SAM of one layer at 256 pixels with the width of a ViT-B, as which its file is loaded."""
    from segment_anything.modeling import (
        ImageEncoderViT,
        MaskDecoder,
        PromptEncoder,
        Sam,
        TwoWayTransformer,
    )

    return Sam(
        ImageEncoderViT(img_size=256, embed_dim=768, depth=1, num_heads=4, mlp_ratio=1.0, out_chans=32),
        PromptEncoder(
            embed_dim=32, image_embedding_size=(16, 16), input_image_size=(256, 256), mask_in_chans=16
        ),
        MaskDecoder(
            transformer_dim=32,
            transformer=TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=64, num_heads=4),
        ),
    )


def random_sam(folder: Path) -> Path:
    """Seeded random weights of :func:`small_sam`: the masks are meaningless, but the whole pipeline runs."""
    import torch

    torch.manual_seed(0)
    path = folder / "small_sam.pth"
    torch.save(small_sam().state_dict(), path)  # type: ignore[attr-defined]
    return path


def jobs(arguments: argparse.Namespace, folder: Path) -> dict[str, Callable[[], Job]]:
    def rules() -> Job:
        path = expressions(folder, arguments.rows or 50_000)
        return Job(
            "rules", ["phrases", "--llm", "rules", "--input", str(path)], "phrases", arguments.rows or 50_000
        )

    def segments() -> Job:
        count = arguments.rows or 300
        flags = ["--generator", "segments", "--min-area", "20", "--images", str(photos(folder, count, 96))]
        return Job("segments", ["sam", *flags], "proposals", count)

    def sam() -> Job:
        count = arguments.rows or 120
        flags = ["--checkpoint", str(random_sam(folder)), "--model", "vit_b", "--gpus", "0"]
        flags += ["--points-per-side", "4", "--pred-iou-thresh", "-100", "--stability-score-thresh", "0"]
        return Job("sam", ["sam", *flags, "--images", str(photos(folder, count, 64))], "proposals", count)

    def llm() -> Job:
        count = arguments.rows or 200
        flags = ["--llm", arguments.llm, "--input", str(expressions(folder, count))]
        return Job("llm", ["phrases", *flags], "phrases", count, deterministic=False)

    return {"rules": rules, "segments": segments, "sam": sam, "llm": llm}


def command(job: Job, out: Path, workers: int) -> list[str]:
    # One photo in ten is no image, on purpose.
    options = ["--out", str(out), "--workers", str(workers), "--max-failed", "100%"]
    return [PROGRAM, *job.arguments, *options]


def serve(pipe: Connection) -> None:
    """The launcher's process: runs commands in forks of itself, so that they start without imports.

    It runs the first command itself, so that everything is loaded and compiled.
    """
    from segment_anything import sam_model_registry

    import cli

    sam_model_registry["vit_b"] = small_sam

    def run(argv: list[str], log: str) -> int:
        sys.argv = argv
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        try:
            cli.prep_main()
        except SystemExit as left:
            return left.code if isinstance(left.code, int) else int(left.code is not None)
        return 0

    pipe.send(run(*pipe.recv()))
    while True:
        request = pipe.recv()
        if request is None:
            return
        if isinstance(request, int):
            _, status = os.waitpid(request, 0)
            pipe.send(os.waitstatus_to_exitcode(status))
            continue
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os._exit(run(*request))
        pipe.send(pid)


class Launcher:
    """Starts the command of a job; its constructor completes the first, uninterrupted run."""

    def __init__(self, job: Job, uninterrupted: Path, workers: int) -> None:
        self.job, self.workers = job, workers
        self.pipe, theirs = multiprocessing.Pipe()
        # Not a daemon: daemons may not have child processes, and vLLM starts one.
        self.server = multiprocessing.get_context("fork").Process(target=serve, args=(theirs,))
        self.server.start()
        self.pipe.send((command(job, uninterrupted, workers), str(uninterrupted) + ".log"))
        self.uninterrupted_code: int = self.pipe.recv()

    def close(self) -> None:
        """Stop the launcher's process."""
        self.pipe.send(None)
        self.server.join()

    def start(self, out: Path) -> int:
        """Start the command; return its process ID."""
        self.pipe.send((command(self.job, out, self.workers), str(out) + ".log"))
        return int(self.pipe.recv())

    def alive(self, pid: int) -> bool:
        """Whether the process is still running."""
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"

    def wait(self, pid: int) -> int:
        """Wait for its exit code, which is negative for a signal."""
        self.pipe.send(pid)
        return int(self.pipe.recv())


def keys_seen(job: Job, out: Path) -> list[str]:
    """The row keys visible to a reader of the folder."""
    if not any((out / job.stage).glob("*.parquet")):
        return []
    query = f"select {KEYS[job.stage]} from read_parquet('{out}/{job.stage}/**/*.parquet')"
    return [key for (key,) in duckdb.connect().execute(query).fetchall()]


def table(job: Job, out: Path) -> pa.Table:
    from prep.cache.store import open_store

    return open_store(out).stage(job.stage).reader().read().combine_chunks().sort_by(KEYS[job.stage])


def answered_twice(out: Path) -> int:
    """The number of duplicate keys in the response cache."""
    if not any((out / "cache").rglob("*.parquet")):
        return 0
    query = f"select count(*) - count(distinct key) from read_parquet('{out}/cache/**/*.parquet')"
    return int(duckdb.connect().execute(query).fetchone()[0])


def actors(driver: int) -> list[int]:
    """The worker processes of the Ray instance started by this driver."""
    found = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in found.splitlines()[1:]]
    parents = {int(pid): int(parent) for pid, parent, _ in rows}

    def belongs(pid: int) -> bool:
        while pid > 1:
            pid = parents.get(pid, 0)
            if pid == driver:
                return True
        return False

    return [int(pid) for pid, _, args in rows if args.startswith("ray::Worker") and belongs(int(pid))]


def last_commit(job: Job, out: Path) -> float:
    """When the last shard was written, or else when the run opened the table (seconds since the epoch)."""
    shards = [path.stat().st_mtime for path in (out / job.stage).glob("*.parquet")]
    opened = out / "_state" / job.stage / "writer.json"
    return max([opened.stat().st_mtime if opened.exists() else time.time(), *shards])


def kill_repeatedly(
    launcher: Launcher, uninterrupted: Path, kills: int, victim: str, rng: random.Random
) -> bool:
    job, folder, began = launcher.job, uninterrupted.parent, time.monotonic()
    if launcher.uninterrupted_code != 0:
        sys.exit((folder / f"{uninterrupted.name}.log").read_text())
    wanted = table(job, uninterrupted)
    assert wanted.num_rows == job.rows, f"{wanted.num_rows} rows, not {job.rows}"
    warm = folder / f"{job.name}-warm"
    launcher.wait(launcher.start(warm))
    span = json.loads((warm / "_state" / job.stage / "manifest.json").read_text())["runs"][-1]["seconds"]
    counted = late = stores = lost = twice = unequal = 0
    sizes: list[int] = []
    waits: list[float] = []
    while counted < kills:
        stores += 1
        out, before = folder / f"{job.name}-{stores}", set()
        alive, targets = False, []
        while True:
            run = launcher.start(out)
            while launcher.alive(run) and not (out / "_state" / job.stage / "writer.json").exists():
                time.sleep(0.005)
            if counted < kills:
                time.sleep(rng.uniform(0.0, 1.1 * span))
                targets = [run] if victim == "driver" else actors(run)[:1]
                alive = launcher.alive(run)
                for pid in targets if alive else ():
                    os.kill(pid, signal.SIGKILL)
                uncommitted = time.time() - last_commit(job, out)
            code = launcher.wait(run)
            keys = keys_seen(job, out)
            twice += sum(many - 1 for many in Counter(keys).values())
            lost += len(before - set(keys))
            before = set(keys)
            (out / "_state" / job.stage / "writer.json").unlink(missing_ok=True)
            if victim == "actor" and alive and targets:
                counted += 1
            elif code == -signal.SIGKILL and len(before) < job.rows:
                counted += 1
                sizes.append(len(before))
                waits.append(uncommitted)
            elif code == -signal.SIGKILL:
                late += 1
            if code == 0:
                break
            if code not in (0, -signal.SIGKILL):
                sys.exit((folder / f"{out.name}.log").read_text())
        lost += job.rows - len(before)
        got = table(job, out)
        same = got.equals(wanted) if job.deterministic else got["row_id"].equals(wanted["row_id"])
        unequal += not same
        if not job.deterministic:
            twice += answered_twice(out)
        shutil.rmtree(out)
        print(
            f"  {counted} kills, {lost} lost, {twice} duplicated, {unequal} unequal",
            file=sys.stderr,
            flush=True,
        )
    shutil.rmtree(uninterrupted)
    shutil.rmtree(warm)
    middle = ""
    if sizes:
        middle = (
            f"; median rows at a kill: {int(np.median(sizes))} of {job.rows}; seconds since the last commit "
            f"or the start: median {np.median(waits):.1f}, at most {max(waits):.1f}"
        )
    print(
        f"{job.name} ({launcher.workers} workers, {victim}): {counted} SIGKILLs while rows were missing"
        f" ({late} later) in {stores} stores of {job.rows} rows{middle}; rows lost {lost},"
        f" duplicated {twice}; stores that differ from the uninterrupted run {unequal};"
        f" {time.monotonic() - began:.0f} s",
        flush=True,
    )
    return not (lost or twice or unequal)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("jobs", nargs="+", choices=["rules", "segments", "sam", "llm"])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--rows", type=int, default=None, help="rows per store (default: depends on the job)")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--victim", choices=["driver", "actor"], default="driver")
    parser.add_argument("--llm", help="model directory for the llm job")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    # OpenMP's threads do not survive a fork, and the commands are forked from a process that has used torch.
    os.environ["OMP_NUM_THREADS"] = "1"
    good = True
    for name in arguments.jobs:
        with tempfile.TemporaryDirectory() as folder:
            job = jobs(arguments, Path(folder))[name]()
            rng = random.Random(arguments.seed)
            uninterrupted = Path(folder) / f"{name}-uninterrupted"
            with contextlib.closing(Launcher(job, uninterrupted, arguments.workers)) as launcher:
                good &= kill_repeatedly(launcher, uninterrupted, arguments.kills, arguments.victim, rng)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())

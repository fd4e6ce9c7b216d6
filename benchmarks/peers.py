"""Runs the rules over the same expressions with this project, datasets, Ray Data and datatrove, side by side.

Every contender runs in processes of its own and writes Parquet files. The tables give, as minimum, median and
maximum: rows per CPU second of all its processes, wall seconds, peak memory (PSS of all processes), and the
CPU seconds of one row (the start) and of the same command again. Then each is killed (SIGKILL to every
process) when a quarter, half and three quarters of its time are over, and run again: the share of the rows
that could be read after the kill, and how many are lost or doubled after the second run.

make peers
.venv-peers/bin/python benchmarks/peers.py --rows 2000 --repeats 1 --kills 1      # a short run
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

PARTS = 8  # files or blocks that the peers read, and after which they know what is done


def texts(number: int) -> Iterator[str]:
    """Distinct expressions with an attribute, a position, a relation or several of them."""
    things = ["man", "woman", "dog", "cup", "car", "chair", "horse", "table"]
    words = ["red", "blue", "green", "small", "tall", "old", "brown", "white", "striped", "wooden"]
    places = ["on the left", "in the middle", "holding a cup", "next to the {}", "behind the {} on the right"]
    for n in range(number):
        thing, word, place = things[n % 8], words[n // 8 % 10], places[n // 80 % 5]
        yield f"the {word} {thing} {place.format(things[n // 400 % 8])} with number {n}"


def write_input(folder: Path, rows: int) -> None:
    """``all.jsonl`` for this project, and the same rows in :data:`PARTS` files for the others."""
    (folder / "parts").mkdir(parents=True)
    parts = [(folder / "parts" / f"part-{n}.jsonl").open("w", encoding="utf-8") for n in range(PARTS)]
    with (folder / "all.jsonl").open("w", encoding="utf-8") as whole:
        for n, text in enumerate(texts(rows)):
            row = {"id": str(n), "image": "a.jpg", "sent": text}
            print(json.dumps(row), file=whole)
            print(json.dumps(row), file=parts[n * PARTS // rows])
    for part in parts:
        part.close()


# The peers. Each calls the rules' function for one expression.


def phrases_of(text: str) -> list[str]:
    """The phrases of one expression by the rules."""
    from prep.phrases import decompose

    return list(decompose(text).phrases)


def with_datasets(source: Path, out: Path, workers: int) -> None:
    """`datasets`: map into its Arrow cache, then write Parquet."""
    from datasets import load_dataset

    files = sorted(str(path) for path in (source / "parts").iterdir())
    rows = load_dataset("json", data_files=files, split="train", cache_dir=str(out / "cache"))
    done = rows.map(
        lambda batch: {"phrases": [phrases_of(text) for text in batch["sent"]]},
        batched=True,
        num_proc=workers if workers > 1 else None,
    )
    done.to_parquet(str(out / "rows.parquet"))


def with_ray_data(source: Path, out: Path, workers: int) -> None:
    """Ray Data with its checkpoint by row id, which it keeps until the next run here."""
    import pyarrow as pa
    import ray
    from ray.data import DataContext
    from ray.data.checkpoint import CheckpointConfig

    def process(batch: Any) -> Any:
        found = [phrases_of(text) for text in batch["sent"].to_pylist()]
        return batch.append_column("phrases", pa.array(found, pa.list_(pa.string())))

    # With one CPU, the reading and the mapping task wait for each other.
    ray.init(num_cpus=workers + 1, include_dashboard=False, log_to_driver=False, logging_level="error")
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.checkpoint_config = CheckpointConfig(
        id_column="id", checkpoint_path=str(out / "checkpoint"), delete_checkpoint_on_success=False
    )
    rows = ray.data.read_json(str(source / "parts"), override_num_blocks=PARTS)
    rows.map_batches(process, batch_format="pyarrow", concurrency=workers).write_parquet(str(out / "rows"))
    ray.shutdown()


def with_datatrove(source: Path, out: Path, workers: int) -> None:
    """datatrove: one task for each input file, finished tasks are skipped."""
    from datatrove.executor.local import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import ParquetWriter

    LocalPipelineExecutor(
        pipeline=[
            JsonlReader(str(source / "parts"), text_key="sent", id_key="id"),
            datatrove_step,
            ParquetWriter(str(out / "rows"), output_filename="${rank}.parquet"),
        ],
        tasks=PARTS,
        workers=workers,
        logging_dir=str(out / "logs"),
    ).run()


def datatrove_step(data: Iterator[Any], rank: int = 0, world_size: int = 1) -> Iterator[Any]:
    """The rules as a step of datatrove's pipeline."""
    for document in data:
        document.metadata["phrases"] = phrases_of(document.text)
        yield document


PEERS: dict[str, Callable[[Path, Path, int], None]] = {
    "datasets": with_datasets,
    "Ray Data": with_ray_data,
    "datatrove": with_datatrove,
}


def command_of(name: str, source: Path, out: Path, workers: int) -> list[str]:
    """The command of a contender; ours is the one that users type."""
    if name == "pcnet-prep":
        command = [sys.executable, "-m", "prep", "phrases", "--llm", "rules", "--quiet"]
        command += ["--input", str(source / "all.jsonl"), "--store", str(out)]
        return command + (["--workers", str(workers)] if workers > 1 else [])
    return [sys.executable, __file__, "--side", name, "--source", str(source), "--out", str(out),
            "--workers", str(workers)]  # fmt: skip


def expressions_in(out: Path) -> list[str]:
    """The expressions of all rows that a contender wrote."""
    folders = [out / "phrases", out / "rows"]
    files = [path for folder in folders for path in folder.glob("*.parquet")]
    found: list[str] = []
    for path in [*files, *([out / "rows.parquet"] if (out / "rows.parquet").exists() else [])]:
        with contextlib.suppress(Exception):  # a file that was cut off by a kill is read by nobody
            names = pq.read_schema(path).names
            column = next(name for name in ("expression", "sent", "text") if name in names)
            found += pq.read_table(path, columns=[column]).column(column).to_pylist()
    return found


# Measuring


class Watched:
    """A command and all processes that it started: their CPU seconds, and the peak of their memory."""

    def __init__(self, command: list[str]) -> None:
        environment = os.environ | {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "PYTHONPATH": str(ROOT)}
        # Packages that pip installed are compiled; so is our checkout, from the run before the first.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.root = psutil.Process(self.process.pid)
        self.known: dict[int, psutil.Process] = {self.process.pid: self.root}
        self.cpu: dict[int, float] = {}
        self.peak, self.wall, self._weighed = 0.0, 0.0, 0.0

    def look(self) -> None:
        """Read the counters of every process that is alive."""
        with contextlib.suppress(psutil.Error):
            self.known |= {child.pid: child for child in self.root.children(recursive=True)}
        memory, weigh = 0.0, time.perf_counter() - self._weighed > 0.2
        for pid, process in list(self.known.items()):
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                self.cpu[pid] = times.user + times.system
                memory += process.memory_full_info().pss / 2**20 if weigh else 0.0
        if weigh:
            self.peak, self._weighed = max(self.peak, memory), time.perf_counter()

    def wait(self, seconds: float = float("inf")) -> bool:
        """Watch until the command ends, at most ``seconds``; whether it ended."""
        while self.process.poll() is None and time.perf_counter() - self.began < seconds:
            self.look()
            time.sleep(0.02)
        self.wall = time.perf_counter() - self.began
        return self.process.poll() is not None

    def finish(self) -> Watched:
        """Watch to the end; a command that fails stops the benchmark."""
        self.wait()
        if self.process.returncode:
            raise SystemExit(f"{self.process.args} failed:\n{self.process.stderr.read().decode()[-2000:]}")  # type: ignore[union-attr]
        return self

    def kill(self) -> None:
        """SIGKILL to every process that was seen."""
        self.look()
        for process in self.known.values():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        self.process.wait()

    @property
    def seconds(self) -> float:
        """CPU seconds of all processes."""
        return sum(self.cpu.values())


def fresh(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def spread(values: list[float], digits: int = 1) -> str:
    """Minimum, median and maximum."""
    shown = [f"{value:,.{digits}f}" for value in (min(values), statistics.median(values), max(values))]
    return " / ".join(dict.fromkeys(shown))


def measure(name: str, workers: int, folder: Path, given: argparse.Namespace) -> None:
    """Print the two lines of one contender."""
    out, source, one = folder / "out", folder / "source", folder / "one"
    Watched(command_of(name, one, fresh(out), workers)).finish()
    started = [Watched(command_of(name, one, fresh(out), workers)).finish() for _ in range(given.repeats)]
    runs, again = [], []
    for _ in range(given.repeats):
        runs.append(Watched(command_of(name, source, fresh(out), workers)).finish())
        again.append(Watched(command_of(name, source, out, workers)).finish())
    found = expressions_in(out)
    wrong = f"; {len(found):,} rows after the second run" if len(found) != given.rows else ""
    print(
        f"{name}, {workers} worker{'s' * (workers > 1)}: rows per CPU second "
        f"{spread([given.rows / run.seconds for run in runs], 0)}; wall s {spread([r.wall for r in runs])}; "
        f"MiB {spread([run.peak for run in runs], 0)}; start, CPU s {spread([s.seconds for s in started])}; "
        f"again, CPU s {spread([one.seconds for one in again])}{wrong}",
        flush=True,
    )
    wall, head = statistics.median(r.wall for r in runs), statistics.median(s.wall for s in started)
    for share in (0.25, 0.5, 0.75) if given.kills else ():
        kept, lost, doubled = [], 0, 0
        for _ in range(given.kills):
            first = Watched(command_of(name, source, fresh(out), workers))
            ended = first.wait(head + share * (wall - head))
            first.kill()
            if not ended:
                kept.append(100 * len(set(expressions_in(out))) / given.rows)
            Watched(command_of(name, source, out, workers)).finish()
            rows = expressions_in(out)
            lost += given.rows - len(set(rows))
            doubled += len(rows) - len(set(rows))
        told = spread(kept, 0) if kept else "it had ended"
        print(
            f"  killed at {share:.0%}, {given.kills} times: kept, % {told}; lost {lost}, doubled {doubled}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kills", type=int, default=5, help="kills at each of three moments; 0 for none")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", choices=["pcnet-prep", *PEERS], default=["pcnet-prep", *PEERS])
    for name in ("--side", "--source", "--out"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        PEERS[given.side](Path(given.source), Path(given.out), given.workers[0])
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_input(folder / "source", given.rows)
        write_input(folder / "one", 1)
        for workers in given.workers:
            for contender in given.only:
                measure(contender, workers, folder, given)


if __name__ == "__main__":
    main()

"""Measures rows/s, memory and opening time of large stores, and the engine's overhead per unit.

python benchmarks/scale.py listing --rows 1000000    # images through a generator that opens no file
python benchmarks/scale.py rules --rows 10000000     # expressions through the rules
python benchmarks/scale.py changes --rows 1000000    # a JSONL file by rules: first, again, after an edit
python benchmarks/scale.py nodes                     # seconds per unit in process and on 1, 2 and 4 Ray nodes
python benchmarks/scale.py costs     # GPU hours and storage, by measured rates
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from prep.cache.keys import row_id
from prep.cache.schema import PROPOSALS
from prep.cache.store import open_store
from prep.engine.local import Engine
from prep.engine.plan import Pace, plan_at
from prep.engine.progress import duration
from prep.engine.runner import run_stage
from prep.records import Expression, ImageRef
from prep.stage import Resources, Stage


class FreeGenerator:
    """Produces the row of an image without reading the image."""

    resources = Resources(cpus=1.0)

    def open(self) -> None:
        """Nothing to load."""

    def load(self, unit: list[ImageRef]) -> list[ImageRef]:
        """Nothing to read."""
        return unit

    def process(self, unit: list[ImageRef]) -> pa.Table:
        """Rows without masks."""
        count = len(unit)
        same: dict[str, Any] = {"generator": "free", "status": "empty", "grid32": b"", "masks": []}
        columns = {name: [value] * count for name, value in same.items()}
        columns |= {"image": [ref.image for ref in unit], "key": [ref.image for ref in unit]}
        columns |= {"image_id": [ref.image_id for ref in unit]}
        arrays = [
            pa.array(columns[field.name], field.type)
            if field.name in columns
            else pa.nulls(count, field.type)
            for field in PROPOSALS
        ]
        return pa.Table.from_arrays(arrays, schema=PROPOSALS)


def listing(count: int) -> Iterator[ImageRef]:
    for number in range(count):
        name = f"train2014/COCO_train2014_{number:012d}.jpg"
        yield ImageRef(name, number, name)


def expressions(count: int) -> Iterator[Expression]:
    sides = ("left", "right", "top", "bottom")
    shirts = ("red", "blue", "green", "white", "black", "striped", "plaid")
    people = ("man", "woman", "boy", "girl", "player", "rider")
    pictures = itertools.cycle(itertools.product(people, shirts, sides))
    for number, (person, shirt, side) in zip(range(count), pictures, strict=False):
        image = f"train2014/COCO_train2014_{number // 10:012d}.jpg"
        text = f"{person} in {shirt} shirt holding bag {number % 1000} on the {side}"
        key = row_id("scale", "", number, number, image, text, 0)
        yield Expression(key, "scale", "", "train", number, number, number // 10, image, text)


class Memory:
    """This process's resident memory in MiB, sampled every second."""

    def __init__(self) -> None:
        self.samples: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stop.wait(1.0):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.samples.append(pages * resource.getpagesize() / 2**20)

    def quarters(self) -> str:
        """Resident memory after 1/4, 1/2, 3/4 and all of the run."""
        last = len(self.samples) - 1
        return ", ".join(f"{self.samples[last * k // 4]:.0f}" for k in (1, 2, 3, 4)) if last > 0 else "-"


OPEN = """
import json, sys, time
start = time.perf_counter()
from prep.cache.store import open_store
stage = open_store(sys.argv[1]).stage(sys.argv[2])
imported = time.perf_counter()
with stage.writer(json.loads(sys.argv[3])) as writer:
    opened = time.perf_counter()
    count = len(writer.done)
    wall = time.perf_counter() - opened
    print(f"{opened - imported:.2f} {wall:.2f} {time.process_time():.2f} {count}")
"""


def fill(
    name: str, stage: Stage, items: Iterator[Any], key: Callable[[Any], str], unit: int, count: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(Path(folder) / "prepared", create=True)
        settings, selection = {"scale": name}, {"count": count}
        with Memory() as memory, store.stage(name).writer(settings) as writer:
            cpu = time.process_time()
            summary = run_stage(
                Engine(stage), items, key=key, writer=writer, unit_size=unit, selection=selection
            )
            cpu = time.process_time() - cpu
        files = [path for path in Path(store.uri, name).iterdir() if path.is_file()]
        data = sum(path.stat().st_size for path in files if path.suffix == ".parquet")
        ledger = sum(path.stat().st_size for path in files if path.suffix == ".json")
        print(
            f"{name}: {summary.done:,} rows in {summary.seconds:.0f} s = {summary.rate:,.0f} rows/s"
            f" ({cpu / summary.done * 1e6:.0f} us of CPU per row); resident MiB after 1/4, 1/2, 3/4, 1:"
            f" {memory.quarters()}; {len(files)} files, {data / 2**20:.0f} MiB of shards, manifest"
            f" {ledger / 2**10:.0f} KiB"
        )
        command = [sys.executable, "-c", OPEN, store.uri, name, json.dumps(settings)]
        opened, keyed, cpu_seconds, keys = subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.split()
        again = time.perf_counter()
        with store.stage(name).writer(settings) as writer:
            nothing = run_stage(
                Engine(stage), iter(()), key=key, writer=writer, unit_size=unit, selection=selection
            )
        assert nothing.reused == count
        print(
            f"  opened in {opened} s; {int(keys):,} keys read in another {keyed} s ({cpu_seconds} s of CPU,"
            f" including imports); a re-run with nothing to do takes {time.perf_counter() - again:.2f} s"
        )


CHANGES = """
import resource, sys, time
from pathlib import Path
start, cpu = time.perf_counter(), time.process_time()
from prep.cache.store import open_store
from prep.datasets.catalogue import open_jsonl
from prep.phrases.run import run_phrases
summary = run_phrases(None, [open_jsonl(Path(sys.argv[1]))], open_store(sys.argv[2], create=True))[0]
changes = {name: count for name, count in summary.extra.items() if isinstance(count, int)}
mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
wall, cpu = time.perf_counter() - start, time.process_time() - cpu
print(f"{summary.done:,} rows made, {summary.reused:,} reused, {changes or 'no change'}: {wall:.1f} s")
print(f"  {cpu:.1f} s of CPU, at most {mib:.0f} MiB")
"""


def changes(count: int) -> None:
    """The command on a file of distinct expressions, again, and after an edit of three lines."""
    with tempfile.TemporaryDirectory() as folder:
        file, store = Path(folder, "mine.jsonl"), Path(folder, "prepared")

        def run(name: str) -> None:
            command = [sys.executable, "-c", CHANGES, str(file), str(store)]
            print(
                f"{name}: {subprocess.run(command, capture_output=True, text=True, check=True).stdout}",
                end="",
            )

        texts = expressions(count)
        lines = [
            json.dumps({"sent": f"{text.text} {number}", "image": text.image, "split": text.split})
            for number, text in enumerate(texts)
        ]
        file.write_text("\n".join(lines))
        run("first run")
        run("re-run")
        for changed in (0, count // 2):
            lines[changed] = lines[changed].replace('"train"', '"val"')
        del lines[7]
        file.write_text("\n".join(lines))
        run("after an edit")


def nodes(units: int, size: int) -> None:
    """Time per unit of a stage that does nothing, in process and on Ray nodes with one worker each."""
    import ray
    from ray.cluster_utils import Cluster

    def measure(**how: Any) -> float:
        work = (list(listing(size)) for _ in range(units))
        with Engine(FreeGenerator(), **how) as engine:
            results = engine.run(work)
            next(results)  # workers are up
            start = time.perf_counter()
            for _ in results:
                pass
            return (time.perf_counter() - start) / (units - 1)

    here = measure(workers=1)
    print(f"in process: {here * 1e3:.2f} ms per unit of {size} items")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False)
    there = 0
    for count in (1, 2, 4):
        while there < count:
            try:
                cluster.add_node(num_cpus=1)
            except Exception as error:  # on a busy machine, Ray gives up on a node after 30 s
                print(error)
                continue
            there += 1
        seconds = measure(workers=count, ray_address=cluster.address)
        print(
            f"{count} Ray nodes: {seconds * 1e3:.2f} ms per unit, {seconds / here:.1f}x the time in process",
            flush=True,
        )
    ray.shutdown()
    cluster.shutdown()


def costs(arguments: argparse.Namespace) -> None:
    """Time and storage of each stage on several GPUs at given rates, estimated as by ``--plan``."""
    phrases = Pace(
        arguments.expression_rate, arguments.engine_start, arguments.expression_bytes, rows=0, workers=1
    )
    images = Pace(arguments.image_rate, arguments.sam_start, arguments.image_bytes, rows=0, workers=1)
    for what, count, pace, gpus in (
        ("379,000 expressions", 379_000, phrases, (1, 8, 64)),
        ("28,000 photos", 28_000, images, (1, 8, 64)),
        ("10^9 images", 10**9, images, (64, 1024)),
    ):
        for number in gpus:
            made = plan_at(pace, count, number)
            print(
                f"{what} on {number} GPUs: {duration(made.seconds)}, {made.worker_hours:,.1f} GPU hours, "
                f"{made.storage_bytes / 2**30:,.2f} GiB, {2 * made.commits:,} PUTs, "
                f"{made.key_bytes / 2**20:,.0f} MiB of keys"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["listing", "rules", "changes", "nodes", "costs"])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--units", type=int, default=400)
    parser.add_argument("--expression-rate", type=float, default=465, help="expressions/s per GPU")
    parser.add_argument("--engine-start", type=float, default=120, help="seconds until vLLM is ready")
    parser.add_argument("--expression-bytes", type=float, default=62, help="bytes per stored row")
    parser.add_argument("--image-rate", type=float, default=4.86, help="images/s per GPU")
    parser.add_argument("--sam-start", type=float, default=20, help="seconds until SAM is loaded")
    parser.add_argument("--image-bytes", type=float, default=18_000, help="bytes per stored row")
    arguments = parser.parse_args()
    count = arguments.rows
    if arguments.what == "listing":
        fill("proposals", FreeGenerator(), listing(count), lambda ref: ref.image, 512, count)
    elif arguments.what == "rules":
        from prep.phrases.stage import RulesStage

        stage = RulesStage(Resources())
        fill("phrases", stage, expressions(count), lambda expression: expression.row_id, 4096, count)
    elif arguments.what == "changes":
        changes(count)
    elif arguments.what == "nodes":
        nodes(arguments.units, 256)
    else:
        costs(arguments)


if __name__ == "__main__":
    main()

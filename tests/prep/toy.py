"""A stage that costs nothing, and what it is to be held against; run as a program it fills a store."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa

from prep.cache.schema import SCORES
from prep.cache.store import open_store
from prep.engine.local import Engine
from prep.engine.runner import run_stage
from prep.errors import Interrupted
from prep.stage import Resources


def item(number: int) -> str:
    return sha256(str(number).encode()).hexdigest()[:32]


def row(key: str) -> dict:
    digest = sha256(key.encode()).digest()
    return {
        "row_id": key,
        "split_by": "unc",
        "image": f"{key[:4]}.jpg",
        "scores": [float(byte) for byte in digest[: digest[0] % 9]],
        "proposals_key": key[::-1],
        "model": "toy",
        "key": key,
    }


class ToyStage:
    """Rows of the scores stage, each a function of its key; ``seconds`` of sleep a unit."""

    resources = Resources(cpus=0.5)

    def __init__(self, seconds: float = 0.0, trace: str = "") -> None:
        self.seconds = seconds
        self.trace = trace

    def open(self) -> None:
        self.opened = True

    def load(self, unit: list[str]) -> list[str]:
        return unit

    def process(self, unit: list[str]) -> pa.Table:
        time.sleep(self.seconds)
        if self.trace:
            with open(self.trace, "a") as file:
                file.write("".join(f"{key}\n" for key in unit))
        return pa.Table.from_pylist([row(key) for key in unit], schema=SCORES)


def run(
    stage: Any, units: Iterable[list[str]], **options: Any
) -> Generator[tuple[list[str], pa.Table], None, None]:
    """The units with their rows, on workers that are let go at the end."""
    with Engine(stage, **options) as engine:
        yield from engine.run(units)


def expected(count: int) -> pa.Table:
    return pa.Table.from_pylist([row(item(n)) for n in range(count)], schema=SCORES).sort_by("row_id")


def main(out: str, count: int, unit: int, seconds: float, workers: int, trace: str) -> None:
    stage = open_store(out, create=True).stage("scores")
    with (
        stage.writer({"toy": 1}, commit_seconds=0.05) as writer,
        Engine(ToyStage(seconds, trace), workers=workers) as engine,
    ):
        print("open", flush=True)
        items, chosen = map(item, range(count)), {"count": count}
        run_stage(engine, items, key=str, writer=writer, unit_size=unit, selection=chosen)


if __name__ == "__main__":
    out, count, unit, seconds, workers = sys.argv[1:6]
    try:
        main(out, int(count), int(unit), float(seconds), int(workers), str(Path(out).parent / "trace"))
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stopped.exit_code)

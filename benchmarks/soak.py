"""Makes random journeys over a changing dataset, and compares each store with one made from scratch.

    python benchmarks/soak.py --journeys 300 --seed 0

A journey is 3 to 8 steps. A step changes the input (texts, splits, rows, images), the store (moved, linked
to another folder, compacted, a shard lost and repaired) or the way it is run (one split, a mistake in an
option, a second file of the same name, SIGKILL at a random moment). It ends with the two commands on the
whole input. The store then has to hold the rows of a store that is made of that input alone, and nothing
else; a step that is refused has to leave the store as it was.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

import cli
from prep.cache.store import open_store
from prep.cache.verify import verify
from prep.errors import PrepError

WORDS = (
    "red cup",
    "blue cup on the left",
    "man with a hat",
    "tall tree",
    "dog to the right of the chair",
    "second boat",
)
SPLITS = ("train", "val", "test")


def call(*words: object) -> str:
    """Run a command of pcnet-prep; the refusal as text, or an empty string."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = cli.prep_app([*map(str, words)], standalone_mode=False)
    except PrepError as error:
        return str(error)
    rows_failed = words[0] in ("phrases", "sam")  # the codes 1 and 3: some rows of a spoilt input are errors
    return "" if not code or rows_failed else f"exit code {code}"


class Journey:
    """One dataset, one store, and what happens to them; ``folder`` is removed by the caller."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random, self.folder = random.Random(seed), folder
        self.data, self.store, self.number = folder / "data", folder / "store", 0
        self.data.mkdir(parents=True)
        self.rows: list[dict[str, Any]] = []
        self.steps: list[str] = []
        for _ in range(self.random.randint(2, 6)):
            self.add_row()
        self.save()

    def picture(self, name: str) -> None:
        self.number += 1
        pixels = np.full((24, 32, 3), 20 + self.number * 7 % 200, np.uint8)
        pixels[5:15, 4:20] = (30, self.number * 13 % 256, 200)
        Image.fromarray(pixels).save(self.data / name)

    def add_row(self) -> None:
        name = f"{self.number}.png"
        self.picture(name)
        self.rows.append(
            {"sent": self.random.choice(WORDS), "image": name, "split": self.random.choice(SPLITS)}
        )

    def save(self, folder: Path | None = None) -> Path:
        path = (folder or self.data) / "mine.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")
        return path

    def commands(self, store: Path) -> list[list[object]]:
        given = ["--input", self.data / "mine.jsonl", "--image-root", self.data, "--out", store]
        return [
            ["phrases", "--llm", "rules", *given],
            ["sam", "--generator", "segments", "--min-area", "1", *given],
        ]

    def run(self, *more: object) -> None:
        for words in self.commands(self.store):
            refusal = call(*words, *more)
            assert not refusal, f"{words[0]}: {refusal}"

    # Changes of the input.

    def edit_text(self) -> None:
        self.random.choice(self.rows)["sent"] = self.random.choice(WORDS)

    def split_again(self) -> None:
        for row in self.rows:
            row["split"] = self.random.choice(SPLITS)

    def number_images(self) -> None:
        for number, row in enumerate(self.rows):
            row["image_id"] = self.random.choice([None, number, number + 100])

    def remove_row(self) -> None:
        if len(self.rows) > 1:
            self.rows.pop(self.random.randrange(len(self.rows)))

    def repeat_row(self) -> None:
        self.rows.append(dict(self.random.choice(self.rows)))

    def spoil_and_mend(self) -> None:
        row = self.random.choice(self.rows)
        row["ref_id"] = "x7" if row.get("ref_id") is None else None

    def edit_image(self) -> None:
        self.picture(self.random.choice(self.rows)["image"])

    def rename_image(self) -> None:
        old = self.random.choice(self.rows)["image"]
        new = f"n{self.number}.png"
        self.number += 1
        (self.data / old).rename(self.data / new)
        for row in self.rows:
            row["image"] = new if row["image"] == old else row["image"]

    # Changes of the store.

    def move_store(self) -> None:
        if self.store.exists():
            new = self.folder / f"store{len(self.steps)}"
            self.store.rename(new)
            self.store = new

    def link_table(self) -> None:
        table = self.store / self.random.choice(["phrases", "proposals"])
        if table.is_dir() and not table.is_symlink():
            disk = self.folder / f"disk{len(self.steps)}"
            shutil.move(table, disk)
            table.symlink_to(disk, target_is_directory=True)

    def compact(self) -> None:
        # A run that was killed early has left an empty folder, which is no store yet.
        if any((self.store / table).exists() for table in ("phrases", "proposals")):
            told = call("compact", self.store)
            assert told == "", told

    def lose_a_shard(self) -> None:
        shards = sorted(self.store.glob("phrases/part-*.parquet"))
        if shards:
            self.run()  # the repair makes the rows of the present input again
            shards = sorted(self.store.glob("phrases/part-*.parquet"))
            self.random.choice(shards).unlink()
            assert call("verify", self.store, "--repair") == ""

    # Ways to run.

    def run_all(self) -> None:
        self.save()
        self.run()

    def run_a_split(self) -> None:
        self.save()
        self.run("--split", self.random.choice([row["split"] for row in self.rows]))

    def mistake(self) -> None:
        self.save()
        before = self.content(self.store)
        words, wrong = self.random.choice(self.commands(self.store)), self.random.choice(
            [["--split", "trian"], ["--input", self.folder / "none.jsonl"], ["--replace", "--split", "vall"]]
        )  # fmt: skip
        assert call(*words, *wrong), f"{wrong} was taken"
        assert self.content(self.store) == before, f"{wrong} changed the store"

    def second_file(self) -> None:
        if not (self.store / "phrases").exists():
            return
        other = self.folder / "other"
        other.mkdir(exist_ok=True)
        path = other / "mine.jsonl"
        path.write_text(json.dumps({"sent": "something else", "image": "z.png"}) + "\n")
        before = self.content(self.store)
        refusal = call("phrases", "--llm", "rules", "--input", path, "--out", self.store)
        assert "same name" in refusal, refusal or "a second file was taken"
        assert self.content(self.store) == before

    def kill(self) -> None:
        self.save()
        words = self.random.choice(self.commands(self.store))
        code = f"import cli, sys; sys.argv = ['pcnet-prep', *{[*map(str, words)]!r}]; cli.prep_main()"
        root = Path(__file__).resolve().parents[1]
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self.random.uniform(0.5, 3.0))
        process.kill()
        process.wait()

    def content(self, store: Path) -> dict[str, list[dict[str, Any]]]:
        """Every row of both tables, without what depends on when it was made."""
        if not store.exists():
            return {}
        opened = open_store(store, create=True)
        tables = {name: opened.stage(name).reader() for name in ("phrases", "proposals")}
        return {
            name: sorted(reader.read().to_pylist(), key=repr)
            for name, reader in tables.items()
            if reader.exists
        }

    def travel(self) -> None:
        """Take the steps, run everything, and compare."""
        chosen = self.random.choices(STEPS, weights=WEIGHTS, k=self.random.randint(3, 8))
        for step in chosen:
            self.steps.append(step.__name__)
            step(self)
        self.steps.append("run_all")
        self.run_all()
        fresh = self.folder / "fresh"
        for words in self.commands(fresh):
            assert call(*words) == ""
        mine, other = self.content(self.store), self.content(fresh)
        for name in other:
            assert mine[name] == other[name], f"{name} differs from a store made from scratch"
        report = verify(open_store(self.store))
        assert report.ok, [str(problem) for problem in report.problems]


STEPS: list[Callable[[Journey], None]] = [
    Journey.edit_text, Journey.split_again, Journey.number_images, Journey.remove_row, Journey.repeat_row,
    Journey.spoil_and_mend, Journey.edit_image, Journey.rename_image, Journey.add_row, Journey.move_store,
    Journey.link_table, Journey.compact, Journey.lose_a_shard, Journey.run_all, Journey.run_a_split,
    Journey.mistake, Journey.second_file, Journey.kill,
]  # fmt: skip
WEIGHTS = [3 if step is Journey.run_all else 1 for step in STEPS]


def main() -> int:
    """Print a line for each journey that failed, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--journeys", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    failed, steps, started = 0, Counter[str](), time.monotonic()
    for seed in range(arguments.seed, arguments.seed + arguments.journeys):
        with tempfile.TemporaryDirectory() as folder:
            journey = Journey(Path(folder), seed)
            try:
                journey.travel()
            except Exception as error:  # whatever it is, the journey and its steps are told
                failed += 1
                print(f"seed {seed}: {' '.join(journey.steps)}: {type(error).__name__}: {str(error)[:600]}")
            steps.update(journey.steps)
    taken = ", ".join(f"{name} {count}" for name, count in sorted(steps.items()))
    print(
        f"{arguments.journeys} journeys, {failed} failed; {time.monotonic() - started:.0f} s; steps: {taken}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

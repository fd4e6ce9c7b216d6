"""Runs the whole pipeline on synthetic data with the public commands, and writes a page with the results."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prep.demo import EVALUATION, STUDENT_EVALUATION
from prep.demo.scenes import EASY, HARD, Canvas
from prep.errors import PrepError
from prep.files import write_whole

if TYPE_CHECKING:
    from prep.demo.page import Figure

# Written first and compared in the next run: a demo resumes only with the same settings.
MARKER = "demo.json"
# The student takes half of the steps, so that the demo stays below four minutes (docs/learning.md).
STUDENT_SHARE = 2


@dataclass(frozen=True, slots=True)
class DemoConfig:
    """The demo's settings: ``images`` scenes from ``seed``, ``steps`` optimiser steps, ``shown`` samples.

    ``hard`` scenes have 128 x 128 pixels and 4 to 12 shapes, instead of 64 x 64 and 2 to 6.
    """

    out: Path
    images: int = 3000
    steps: int = 1000
    seed: int = 0
    shown: int = 12
    hard: bool = False

    def __post_init__(self) -> None:
        if self.images < 2 or self.steps < 1 or self.shown < 1:
            raise PrepError(
                f"A demo of {self.images} images, {self.steps} steps and {self.shown} samples is too small.",
                "Give at least 2 images, 1 step and 1 sample.",
            )

    @property
    def canvas(self) -> Canvas:
        """The size of the scenes."""
        return HARD if self.hard else EASY


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The page's path, its figures, and the time of each step: (what, command, seconds)."""

    page: Path
    figures: list[Figure]
    metrics: dict[str, float | None]
    steps: list[tuple[str, str, float]]


def demo(config: DemoConfig, say: Callable[[str], None] = print) -> DemoResult:
    """Create the data, run the programs on it with visible output, and write ``out/index.html``.

    After an interruption, a second call resumes where it left off. Raises :class:`PrepError` if ``out``
    contains something else, or a command fails.
    """
    started = time.monotonic()
    out = config.out
    _claim(out, config)
    steps: list[tuple[str, str, float]] = []
    data = out / "data" / "coco"
    done = out / "data" / "complete"
    say(f"data: {config.images:,} scenes with expressions in {data}")
    if not done.exists():
        from prep.demo.dataset import write

        write(out / "data", images=config.images, seed=config.seed, canvas=config.canvas)
        write_whole(done, b"")
    steps.append(("data", f"{config.images:,} scenes, seed {config.seed}", time.monotonic() - started))
    for what, command in commands(config, data):
        steps.append((what, shlex.join(command), _run(command, say)))
    metrics, student = (
        json.loads((out / name / "metrics.json").read_text(encoding="utf-8"))
        for name in (EVALUATION, STUDENT_EVALUATION)
    )
    from prep.demo.samples import write_page

    page_started = time.monotonic()
    figures = write_page(out, data, steps, metrics, student, config)
    steps.append(("page", "", time.monotonic() - page_started))
    say("")
    for line in table(figures):
        say(line)
    say(f"student, without phrases and proposals: PointM {student['pointm']:.1f}, mIoU {student['miou']:.1f}")
    say(f"{out / 'index.html'}  ({time.monotonic() - started:.0f} s in all)")
    return DemoResult(out / "index.html", figures, metrics, steps)


def commands(config: DemoConfig, data: Path) -> list[tuple[str, list[str]]]:
    """The public commands in order, as a user would type them."""
    store, run = str(config.out / "prepared"), config.out / "run"
    source = ["--data", str(data), "--dataset", "refcoco"]
    # With so few steps, a smaller weight of the antonyms lets the model learn appearance.
    training = ["--weight", "opp=0.03", "--steps", str(config.steps), "--seed", str(config.seed)]
    training += ["--out", str(run), *(["--size", str(HARD.side)] if config.hard else [])]
    scored, student = config.out / EVALUATION, config.out / "student"
    evaluation = ["--split", "val", "--mask", "map", "--mask", "proposal", "--out", str(scored)]
    evaluation += ["--save-stages", str(scored / "stages")]
    distilling = ["--steps", str(-(-config.steps // STUDENT_SHARE)), "--seed", str(config.seed)]
    distilling += ["--out", str(student)]
    student_scored = config.out / STUDENT_EVALUATION
    judged = ["--split", "val", "--out", str(student_scored), "--save-pseudo", str(student_scored / "masks")]
    return [
        ("phrases", ["pcnet-prep", "phrases", "--llm", "rules", *source, "--out", store]),
        (
            "proposals",
            ["pcnet-prep", "sam", "--generator", "segments", "--min-area", "20", *source, "--out", store],
        ),
        (
            "train",
            ["pcnet", "train", "--encoder", "tiny", "--recipe", "plus", "--store", store, *source, *training],
        ),
        (
            "evaluate",
            ["pcnet", "eval", "--checkpoint", str(run / "best.pt"), "--store", store, *source, *evaluation],
        ),
        (
            "student",
            ["pcnet", "distill", "--from", str(run), "--store", store, *source, *distilling],
        ),
        (
            "evaluate the student",
            ["pcnet", "eval", "--checkpoint", str(student / "best.pt"), "--store", store, *source, *judged],
        ),
    ]


def table(figures: Sequence[Figure]) -> list[str]:
    """The figures as lines of text."""
    lines = [f"{'PointM, %':<16}{'n':>6}{'PCNet':>9}{'random':>9}{'oracle':>9}"]
    lines += [
        f"{row.kind:<16}{row.n:>6,}{row.model:>9.1f}{row.random_baseline:>9.1f}{row.oracle:>9.1f}"
        for row in figures
    ]
    return [
        *lines,
        "random: a random object of the image; oracle: the centre of the best proposal",
    ]


def _claim(out: Path, config: DemoConfig) -> None:
    """Mark the folder as this demo's, or raise if it contains anything else."""
    settings = {name: value for name, value in asdict(config).items() if name not in ("out", "shown", "hard")}
    settings |= {"hard": True} if config.hard else {}  # a folder of 0.1.0 does not have it
    marker = out / MARKER
    if marker.is_file():
        try:
            found = json.loads(marker.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != settings:
            raise PrepError(
                f"{out} contains a demo with {found}, not with {settings}.",
                "Choose another --output-dir, or delete the folder.",
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PrepError(
            f"{out} exists and does not contain a demo.",
            "Choose another --output-dir; existing files are never changed.",
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(marker, json.dumps(settings).encode())
    except OSError as error:
        raise PrepError(
            f"{out} cannot be written: {error.strerror or error}.", "Choose another --output-dir."
        ) from error


def _run(command: Sequence[str], say: Callable[[str], None]) -> float:
    """Run an installed program with visible output; return the seconds it took."""
    say(f"\n$ {shlex.join(command)}")
    started = time.monotonic()
    code = subprocess.run([_program(command[0]), *command[1:]], check=False).returncode
    if code:
        raise PrepError(f"{command[0]} {command[1]} failed with exit code {code}.", "See its message above.")
    return time.monotonic() - started


def _program(name: str) -> str:
    """The installed program: next to this interpreter, else on PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise PrepError(f"The program {name} is not installed.", "Install the project: pip install -e .")
    return found

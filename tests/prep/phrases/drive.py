"""A run of the phrases job in a process of its own, for a test to kill: MODEL_FOLDER STORE NUMBER."""

from __future__ import annotations

import sys
from pathlib import Path

from prep.cache.store import open_store
from prep.engine.local import Engine
from prep.phrases.job import run_llm
from prep.records import Expression
from tests.prep.phrases import tiny

UNIT = 8


def expressions(number: int) -> list[Expression]:
    """``number`` expressions, a quarter of them repeats, most of them unknown to the taught model."""
    known = [*tiny.LESSONS, *tiny.CORRECTIONS, *tiny.UNTAUGHT]
    texts = [f"{known[n % len(known)]} {n // len(known)}" if n % 4 else known[n % 7] for n in range(number)]
    return [
        Expression(f"{n:032x}", "toy", "none", "train", n, n, n, f"{n % 9}.jpg", text)
        for n, text in enumerate(texts)
    ]


def main(model: Path, store: Path, number: int) -> None:
    """Bring every expression's row into the store."""
    stage = tiny.vllm_stage(model)
    with (
        open_store(store, create=True).stage("phrases").writer(stage.settings(), commit_seconds=0.2) as writer
    ):
        engine, cache = Engine(stage), store / "cache"
        run_llm(expressions(number), engine=engine, writer=writer, cache=cache, unit_size=UNIT)
    stage.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))

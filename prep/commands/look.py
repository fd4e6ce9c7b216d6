"""`pcnet-prep doctor`, `report` and `demo`: what this machine can do, what a store holds, and a first try."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from prep.commands import options as shared
from prep.commands.output import emit

Load = Annotated[
    bool,
    typer.Option("--load", help="Also import torch, vLLM, SAM and CLIP to see that they load (slow)."),
]
ReportData = Annotated[
    Path | None, typer.Option("--data", help="Folder of the images, to draw the masks over them.")
]
ReportOut = Annotated[Path, typer.Option(help="The page to write.")]
Evaluation = Annotated[
    Path | None,
    typer.Option(help="Folder that `pcnet eval --out` wrote: shows predictions beside truth."),
]
DemoOut = Annotated[Path, typer.Option(help="Folder of the demo: data, store, run and index.html.")]
Scenes = Annotated[int, typer.Option(min=2, help="Synthetic scenes to make.")]
Steps = Annotated[int, typer.Option(min=1, help="Optimiser steps to train.")]
Seed = Annotated[int, typer.Option(help="Decides the scenes and the training.")]
Shown = Annotated[int, typer.Option(min=1, help="Samples on the page.")]


def doctor(
    data: shared.Data = shared.COCO,
    out: shared.Out = "prepared",
    load: Load = False,
    as_json: shared.Json = False,
) -> None:
    """Say what this machine can do, what it lacks, and what to type next.

    Looks at hardware, packages, weights, the dataset tree and the store; changes and downloads nothing.
    """
    from prep.machine.doctor import examine
    from prep.machine.screen import next_steps, screen

    findings = examine(data, out, load)
    steps = next_steps(findings, data, out)
    emit({"findings": findings, "next": steps}, [screen(findings, steps)], as_json)


def report(
    store: shared.StoreArgument = "prepared",
    data: ReportData = None,
    out: ReportOut = Path("report.html"),
    evaluation: Evaluation = None,
    as_json: shared.Json = False,
) -> None:
    """Write one page about a store: what was run, counts, failures, and a gallery to search."""
    from prep.pages.store import ReportConfig, write_report

    held = write_report(ReportConfig(store=store, out=out, data=data, evaluation=evaluation))
    texts = f"{held['expressions']:,} of {held['of']:,} expressions"
    line = f"{out}: {texts}, {held['pictures']:,} images with their masks"
    emit({"page": out, **held}, [line], as_json)


def demo(
    out: DemoOut = Path("demo"),
    images: Scenes = 3000,
    steps: Steps = 1000,
    seed: Seed = 0,
    shown: Shown = 12,
    as_json: shared.Json = False,
) -> None:
    """Run the whole chain on synthetic data: no GPU, no download.

    Makes a small referring dataset in the RefCOCO layout, runs the public commands on it and writes a page
    with pictures.
    """
    from prep.demo.run import DemoConfig
    from prep.demo.run import demo as run

    def say(line: str) -> None:
        # At once, so that lines stay in order with those of the programs that are run.
        print(line, flush=True, file=sys.stderr if as_json else sys.stdout)

    made = run(DemoConfig(out=out, images=images, steps=steps, seed=seed, shown=shown), say=say)
    emit({"page": made.page, "metrics": made.metrics, "figures": made.figures}, [], as_json)

"""`pcnet-prep doctor`, `report` and `demo`: checks this machine, reports on a store, and runs a demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prep.commands import options as shared
from prep.commands.output import emit, say

Load = Annotated[
    bool,
    typer.Option("--load", help="Also import torch, vLLM, SAM and CLIP to check that they load (slow)."),
]
DataFolder = Annotated[Path | None, typer.Argument(help="Data root, instead of --data.", show_default=False)]
ReportData = Annotated[
    Path | None, typer.Option("--data", help="Image folder, to draw the masks on the images.")
]
ReportOut = Annotated[Path, typer.Option("--out", "-o", help="HTML file to write.")]
Evaluation = Annotated[
    Path | None,
    typer.Option(help="Output folder of `pcnet eval --out`, to show predictions and ground truth."),
]
DemoOut = Annotated[
    Path,
    typer.Option("--output-dir", "--out", "-o", help="Output folder: data, store, run and index.html."),
]
Scenes = Annotated[int, typer.Option(min=2, help="Number of synthetic scenes.")]
Steps = Annotated[int, typer.Option(min=1, help="Number of optimiser steps.")]
Seed = Annotated[int, typer.Option(help="Random seed of the scenes and the training.")]
Hard = Annotated[
    bool,
    typer.Option("--hard", help="Scenes of 128 x 128 pixels with 4 to 12 shapes; takes four times as long."),
]
Shown = Annotated[int, typer.Option(min=1, help="Number of samples on the page.")]


def doctor(
    folder: DataFolder = None,
    data: shared.Data = shared.COCO,
    out: shared.Out = "prepared",
    load: Load = False,
    as_json: shared.Json = False,
) -> None:
    """Show what this machine can do, what is missing, and what to run next.

    Checks hardware, packages, weights, the dataset tree (counts, files, missing images) and the store;
    changes and downloads nothing.
    """
    from prep.machine.doctor import examine
    from prep.machine.screen import next_steps, screen

    root = data if folder is None else folder
    findings = examine(root, out, load)
    steps = next_steps(findings, root, out)
    emit({"findings": findings, "next": steps}, [screen(findings, steps)], as_json)


def report(
    store: shared.StoreArgument = None,
    named: shared.StoreOption = None,
    data: ReportData = None,
    out: ReportOut = Path("report.html"),
    evaluation: Evaluation = None,
    as_json: shared.Json = False,
) -> None:
    """Write an HTML report on a store: runs, counts, failures, and a searchable gallery."""
    from prep.pages.store import ReportConfig, write_report

    chosen = shared.chosen_store(store, named)
    held = write_report(ReportConfig(store=chosen, out=out, data=data, evaluation=evaluation))
    texts = f"{held['expressions']:,} of {held['of']:,} expressions"
    line = f"{out}: {texts}, {held['pictures']:,} images with masks"
    lines = [line]
    if data is not None and held["pictures"] and not held["photos"]:
        lines.append(f"No photo of the store was found in {data}: the pictures show masks on grey.")
    emit({"page": out, **held}, lines, as_json)


def demo(
    out: DemoOut = Path("demo"),
    images: Scenes = 3000,
    steps: Steps = 1000,
    seed: Seed = 0,
    shown: Shown = 12,
    hard: Hard = False,
    as_json: shared.Json = False,
) -> None:
    """Run the whole pipeline on synthetic data, without a GPU or downloads.

    Generates a small referring dataset in the RefCOCO layout, runs the public commands on it, and writes an
    HTML page with samples.
    """
    from prep.demo.run import DemoConfig
    from prep.demo.run import demo as run

    config = DemoConfig(out=out, images=images, steps=steps, seed=seed, shown=shown, hard=hard)
    made = run(config, say=lambda line: say(line, to_stderr=as_json))
    figures = [figure.to_json() for figure in made.figures]
    emit({"page": made.page, "metrics": made.metrics, "figures": figures}, [], as_json)

"""`pcnet report`: one page about a training run, or two side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prep.commands import options as shared
from prep.commands.output import emit

Run = Annotated[Path, typer.Argument(help="Folder of a run, with its evaluations below it.")]
OtherRun = Annotated[
    Path | None, typer.Argument(help="Another run, to be shown beside the first.", metavar="[RUN2]")
]
ReportData = Annotated[
    Path | None, typer.Option("--data", help="Data root: shows the images and their true masks.")
]
ReportStore = Annotated[
    str | None,
    typer.Option("--store", help="Store of the proposals. Default: the one that was evaluated with."),
]
ReportOut = Annotated[Path | None, typer.Option(help="The page to write. Default: RUN/report.html.")]


def report(
    run: Run,
    other: OtherRun = None,
    data: ReportData = None,
    store: ReportStore = None,
    out: ReportOut = None,
    as_json: shared.Json = False,
) -> None:
    """Write one page about a training run, or two side by side.

    Reads losses.csv and what `pcnet eval --out` wrote below RUN: curves, figures, best and worst cases.
    """
    from pcnet.report.page import ReportConfig, write_report

    page = out or run / "report.html"
    runs = [run, *([other] if other else [])]
    held = write_report(ReportConfig(runs=runs, out=page, data=data, store=store))
    line = (
        f"{page}: {held['evaluations']:,} evaluations, {held['expressions']:,} expressions, "
        f"{held['pictures']:,} pictures"
    )
    emit({"page": page, **held}, [line], as_json)

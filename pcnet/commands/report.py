"""`pcnet report`: writes a page about one training run, or two side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prep.commands import options as shared
from prep.commands.output import emit

Run = Annotated[Path, typer.Argument(help="Run folder, with its evaluations in subfolders.")]
OtherRun = Annotated[Path | None, typer.Argument(help="Another run to compare with.", metavar="[RUN2]")]
ReportData = Annotated[
    Path | None, typer.Option("--data", help="Data root, to show the images and their ground-truth masks.")
]
ReportStore = Annotated[
    str | None,
    typer.Option("--store", help="Store with the proposals. Default: the one used by the evaluation."),
]
ReportOut = Annotated[
    Path | None, typer.Option("--out", "-o", help="HTML file to write. Default: RUN/report.html.")
]


def report(
    run: Run,
    other: OtherRun = None,
    data: ReportData = None,
    store: ReportStore = None,
    out: ReportOut = None,
    as_json: shared.Json = False,
) -> None:
    """Write an HTML report on one training run, or two side by side.

    Reads losses.csv, and what `pcnet eval --output-dir` wrote in RUN or beside it: curves, metrics, best and
    worst cases.
    """
    from pcnet.report.page import ReportConfig, write_report

    page = out or run / "report.html"
    runs = [run, *([other] if other else [])]
    held = write_report(ReportConfig(runs=runs, out=page, data=data, store=store))
    line = (
        f"{page}: {held['evaluations']:,} evaluations, {held['expressions']:,} expressions, "
        f"{held['pictures']:,} images"
    )
    lines = [line]
    if data is not None and held["pictures"] and not held["photos"]:
        lines.append(f"No photo of the expressions was found in {data}: the pictures show masks on grey.")
    if not held["evaluations"]:
        command = held["evaluate"] or "`pcnet eval --checkpoint FILE --output-dir DIR`"
        lines.append(f"No evaluation was found in or beside the run. Make one with:\n{command}")
    emit({"page": page, **held}, lines, as_json)

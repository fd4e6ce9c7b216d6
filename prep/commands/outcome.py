"""Decides how a run went: its exit code, from the rows that failed, and what is said about them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from prep.commands.output import say
from prep.errors import PrepError

if TYPE_CHECKING:
    from prep.cache.store import Store
    from prep.engine.runner import Summary

NOTHING_USABLE, SOME_FAILED = 1, 3
# From fewer answers nothing is concluded about a model.
MIN_ANSWERS = 10
MaxFailed = Annotated[
    str,
    typer.Option(
        "--max-failed",
        metavar="N|P%",
        help="Exit with 0 if no more rows of the table than this have an error; with 3 otherwise.",
    ),
]


def check_limit(limit: str) -> str:
    """``limit`` if it is a number of rows or a percentage; raises :class:`PrepError` otherwise."""
    if not re.fullmatch(r"\d+|\d+(\.\d+)?%", limit):
        raise PrepError(
            f"--max-failed {limit} is neither a number of rows nor a percentage.",
            "Use, for example, --max-failed 10 or --max-failed 1%.",
        )
    return limit


def exit_code(failed: int, rows: int, limit: str) -> int:
    """The exit code of a run whose table has ``failed`` rows with an error among ``rows``."""
    if rows and failed == rows:
        return NOTHING_USABLE
    allowed = rows * float(limit[:-1]) / 100 if limit.endswith("%") else int(limit)
    return SOME_FAILED if failed > allowed else 0


def end_run(summaries: Sequence[Summary], store: Store, limit: str) -> None:
    """Say what failed, and end the command with the exit code for it.

    Rows that an earlier run left with an error count as well: a repeated command does not make them better.
    """
    stage = summaries[0].stage if summaries else "scores"
    reader = store.stage(stage).reader()
    if "status" not in reader.stage.schema.names:
        return
    failed = sum(
        entry["counts"]
        for batch in reader.batches(["status"])
        for entry in batch.column(0).value_counts().to_pylist()
        if entry["values"] == "error"
    )
    code, here = exit_code(failed, reader.num_rows, limit), sum(summary.failed for summary in summaries)
    if failed:
        before = f", {failed - here:,} of them from earlier runs" if failed > here else ""
        say(f"{failed:,} of {reader.num_rows:,} rows of {stage} have an error{before}", to_stderr=True)
    if unkept := _unkept(summaries):
        code = NOTHING_USABLE if unkept == 1 else code
        say(
            f"Only {1 - unkept:.0%} of the model's answers were kept: see docs/phrases.md for its fit.",
            to_stderr=True,
        )
    if code:
        raise typer.Exit(code)


def _unkept(summaries: Sequence[Summary]) -> float:
    """The share of a model's answers that were not kept, if it is more than half; else 0."""
    asked = kept = 0
    for summary in summaries:
        report = summary.extra.get("report", {})
        asked += report.get("rungs", {}).get("llm", {}).get("tried", 0)
        kept += sum(report.get("sources", {}).get(source, 0) for source in ("llm", "retry", "repaired"))
    return 1 - kept / asked if asked >= MIN_ANSWERS and kept < asked / 2 else 0.0

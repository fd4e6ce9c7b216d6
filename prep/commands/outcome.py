"""Decides how a run went: its exit code, from what failed, and what is said about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from prep.commands.output import say
from prep.errors import PrepError

if TYPE_CHECKING:
    from prep.engine.runner import Summary

NOTHING_USABLE, SOME_FAILED = 1, 3
# From fewer answers nothing is concluded about a model.
MIN_ANSWERS = 10
MaxFailed = Annotated[
    str,
    typer.Option(
        "--max-failed",
        metavar="N|P%",
        help="Exit with 0 if no more than this of what the run was asked for has an error; with 3 otherwise.",
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
    """The exit code of a run of which ``failed`` of ``rows`` have an error."""
    if rows and failed == rows:
        return NOTHING_USABLE
    allowed = rows * float(limit[:-1]) / 100 if limit.endswith("%") else int(limit)
    return SOME_FAILED if failed > allowed else 0


def end(failed: int, rows: int, limit: str, told: str) -> None:
    """Say that ``failed`` of ``rows`` were ``told``, if any, and end the command with the code for it."""
    if failed:
        say(f"{failed:,} of {rows:,} {told}", to_stderr=True)
    if code := exit_code(failed, rows, limit):
        raise typer.Exit(code)


def end_run(summaries: Sequence[Summary], limit: str) -> None:
    """Say what failed, and end the command with the exit code for it.

    What counts are the rows that the run was asked for. Those that an earlier run left with an error count as
    well: a repeated command does not make them better. Other rows of the table do not.
    """
    before = sum(summary.failed_before for summary in summaries)
    failed = before + sum(summary.failed for summary in summaries)
    earlier = f", {before:,} of them from earlier runs" if before else ""
    if unkept := _unkept(summaries):
        share = f"Only {1 - unkept:.0%}" if unkept < 1 else "None"
        say(f"{share} of the model's answers were kept: see docs/phrases.md for its fit.", to_stderr=True)
    told = f"rows of {' and '.join(dict.fromkeys(one.stage for one in summaries))} have an error{earlier}"
    try:
        end(failed, sum(summary.total for summary in summaries), limit, told)
    finally:
        if unkept == 1:
            raise typer.Exit(NOTHING_USABLE)


def _unkept(summaries: Sequence[Summary]) -> float:
    """The share of a model's answers that were not kept, if it is more than half; else 0.

    If every request was refused, it is 1, however few there were.
    """
    asked = kept = sent = refused = 0
    for summary in summaries:
        report = summary.extra.get("report", {})
        sent += report.get("engine", {}).get("asked", 0)
        refused += report.get("engine", {}).get("refused", 0)
        asked += report.get("rungs", {}).get("llm", {}).get("tried", 0)
        kept += sum(report.get("sources", {}).get(source, 0) for source in ("llm", "retry", "repaired"))
    if sent and refused == sent:
        return 1.0
    return 1 - kept / asked if asked >= MIN_ANSWERS and kept < asked / 2 else 0.0

"""What the commands that fill a stage of the store have in common: shared flags, plans, and results."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from prep.commands.output import emit
from prep.commands.replay import check_settings
from prep.engine.progress import duration

if TYPE_CHECKING:
    from prep.engine.runner import Summary

# What says where, when or how a command is run, not what it makes: a manifest does not keep it.
NOT_RECORDED = ("replace", "as_json", "plan", "from_manifest")


def recorded_arguments(context: typer.Context) -> dict[str, Any]:
    """A command and its flags as plain JSON values, for the manifest; flags not given are left out."""
    names = [option.name for option in context.command.params if option.name not in NOT_RECORDED]
    flags = {name: _plain(context.params[name]) for name in names if name in context.params}
    if flags.get("ray_address") == os.environ.get("RAY_ADDRESS"):
        flags.pop("ray_address", None)  # a place of this job, not a part of the run
    given = {name: value for name, value in flags.items() if value is not None and value is not False}
    return {"command": context.info_name, **{name: value for name, value in given.items() if value != []}}


def _plain(value: Any) -> Any:
    """A flag's value as JSON has it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def run_options(context: typer.Context) -> dict[str, Any]:
    """The shared flags of a command as the runs of the stages take them, by keyword."""
    params = context.params
    passed_on: dict[str, Any] = {
        name: params[name] for name in ("replace", "cache", "ray_address") if name in params
    }
    return {
        **passed_on,
        "splits": list(params["split"] or []) or None,
        "arguments": recorded_arguments(context),
    }


def check_recorded(context: typer.Context, settings: Mapping[str, Any]) -> None:
    """With --from-manifest: stop where the rows would not be those of the recorded run."""
    path = context.params["from_manifest"]
    if path is not None:
        check_settings(Path(path), settings)


def only_planned(
    context: typer.Context,
    stage: str,
    settings: Mapping[str, Any],
    keys: Callable[[], Iterable[str]],
    workers: int,
) -> bool:
    """With --plan: print what is left to do of ``stage`` and what it would take; whether that was all.

    ``keys`` gives the keys of the rows to make.
    """
    params = context.params
    if not params["plan"]:
        return False
    from prep.cache.files import open_files
    from prep.cache.store import Store
    from prep.engine.plan import describe, plan_run

    store = Store(open_files(params["out"]))
    made = plan_run(store, stage, dict(settings), keys(), workers, replace=params["replace"])
    emit({"stage": stage, **asdict(made)}, describe(made, stage), params["as_json"])
    return True


def emit_summaries(summaries: Sequence[Summary], as_json: bool) -> None:
    """Say how a run went: rows done, reused, failed and why, the rate, and where the results are."""
    emit(summaries, _summary_lines(summaries), as_json)


def _summary_lines(summaries: Sequence[Summary]) -> Iterator[str]:
    for summary in summaries:
        yield (
            f"{summary.stage}: {summary.total:,} rows = {summary.done:,} done + {summary.reused:,} reused; "
            f"{summary.failed:,} with an error; {duration(summary.seconds)}, {summary.rate:,.1f}/s"
        )
        for reason, count in sorted(summary.reasons.items(), key=lambda pair: -pair[1]):
            yield f"  {count:,} x {reason}"
        for line in report_lines(summary.stage, summary.extra.get("report", {})):
            yield f"  {line}"
        for name, value in summary.extra.items():
            if name != "report" and value:
                yield f"  {name}: {value}"
    if summaries:
        yield f"in {summaries[0].where}"


def report_lines(stage: str, report: dict[str, Any]) -> list[str]:
    """What a run of a stage reports, in words."""
    from prep.phrases import report as phrases
    from prep.proposals.sam import fidelity as proposals

    lines = proposals.lines if stage == "proposals" else phrases.lines
    return lines(report)

"""Shared code of the commands that write a table: common flags, plans and results."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from prep.commands.output import emit, say
from prep.commands.replay import NOT_RECORDED, check_settings
from prep.display import tell, without_secrets
from prep.engine.progress import duration
from prep.errors import PrepError

if TYPE_CHECKING:
    from prep.cache.store import Store
    from prep.engine.runner import Summary
    from prep.engine.sources import Source


def recorded_arguments(context: typer.Context) -> dict[str, object]:
    """A command and its flags as plain JSON values, for the manifest; flags not given are omitted, and so are
    credentials in URIs.
    """
    options = {option.name: option for option in context.command.params if option.name not in NOT_RECORDED}
    flags = {name: _plain(context.params[name]) for name in options if name in context.params}
    # A switch that is off by default need not be recorded; any other was switched off.
    off = [name for name, value in flags.items() if value is False and options[name].default is False]
    given = {name: value for name, value in flags.items() if value is not None and name not in off}
    command = {"command": context.info_name, "folder": os.getcwd()}
    return {**command, **{name: value for name, value in given.items() if value != []}}


def _plain(value: object) -> object:
    """The value of a flag as a JSON value."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return without_secrets(str(value)) if isinstance(value, Path | str) else value


def run_options(context: typer.Context) -> dict[str, Any]:
    """The shared flags of a command as keyword arguments of the functions that run a stage."""
    params = context.params
    passed_on: dict[str, object] = {
        name: params[name]
        for name in ("limit", "replace", "keep_missing", "cache", "ray_address")
        if name in params
    }
    return {
        **passed_on,
        "splits": list(params["split"] or []) or None,
        "arguments": recorded_arguments(context),
    }


def check_recorded(context: typer.Context, settings: Mapping[str, object]) -> None:
    """With --from-manifest, check that the run reproduces the rows of the recorded run."""
    path = context.params["from_manifest"]
    if path is not None:
        check_settings(Path(path), settings)


def only_planned(
    context: typer.Context,
    stage: str,
    settings: Mapping[str, object],
    keys: Callable[[], Iterable[str]],
    workers: int,
) -> bool:
    """With --plan, print the remaining work of ``stage`` and its estimated cost; return whether it did.

    ``keys`` returns the keys of the rows to produce.
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


def announce(stage: str, maker: str, sources: Sequence[Source], context: typer.Context, workers: int) -> None:
    """Print what a run begins with: what makes the rows, of which input, and where they go."""
    splits = context.params.get("split") or []
    of = ", ".join(f"{one.name}{f' {one.split_by}' if one.split_by else ''}" for one in sources)
    chosen = f" ({', '.join(splits)})" if splits else ""
    limit = context.params.get("limit")
    chosen += f", the first {limit:,}" if limit else ""
    hands = f"{workers} workers" if workers > 1 else "1 worker"
    tell(f"{stage} by {maker}: {of}{chosen}; {hands}; to {context.params['out']}/{stage}")


def _update_card(store: Store) -> None:
    """Bring the store's README.md up to date; say if that is not possible, as the rows are there anyway."""
    from prep.cache.card import CARD, write_card

    try:
        if not write_card(store):
            say(
                f"{store.files.where(CARD)} was not written by pcnet-prep and is left as it is.",
                to_stderr=True,
            )
    except PrepError as error:
        say(f"No data card: {error.message}", to_stderr=True)


def emit_summaries(summaries: Sequence[Summary], store: Store, as_json: bool) -> None:
    """Print the results of a run: rows done, reused and failed, with reasons, the rate, and the location.

    The store's data card is brought up to date first.
    """
    _update_card(store)
    emit(summaries, _summary_lines(summaries), as_json)


def _summary_lines(summaries: Sequence[Summary]) -> Iterator[str]:
    for summary in summaries:
        yield (
            f"{summary.stage}: {summary.total:,} rows = {summary.done:,} done + {summary.reused:,} reused; "
            f"{summary.failed:,} failed; {duration(summary.seconds)}, {summary.rate:,.1f}/s"
        )
        for reason, count in sorted(summary.reasons.items(), key=lambda pair: -pair[1]):
            yield f"  {reason}: {count:,}"
        for error in summary.first_failed if set(summary.first_failed) != set(summary.reasons) else ():
            yield f"    {error}"
        for line in report_lines(summary.stage, summary.extra.get("report", {})):
            yield f"  {line}"
        for name, value in summary.extra.items():
            if name != "report" and value:
                counted = isinstance(value, Mapping)
                told = ", ".join(f"{n:,} ({why})" for why, n in value.items()) if counted else value
                yield f"  {name}: {told}"
    if summaries:
        yield f"stored in {summaries[0].where}"


def report_lines(stage: str, report: Mapping[str, object]) -> list[str]:
    """The report of a stage's run as lines of text."""
    from prep.phrases import report as phrases
    from prep.proposals.sam import fidelity as proposals

    lines = proposals.lines if stage == "proposals" else phrases.lines
    return lines(report)

"""`pcnet-prep status`, `card`, `verify` and `compact`: inspects, describes, checks and compacts a store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prep.commands import options as shared
from prep.commands.output import emit, say
from prep.commands.replay import rehearse, repeat
from prep.commands.stage_run import report_lines
from prep.errors import PrepError

if TYPE_CHECKING:
    from prep.cache.compact import CompactReport
    from prep.cache.maintain import StoreStatus
    from prep.cache.verify import VerifyReport

Repair = Annotated[bool, typer.Option(help="Remove damaged rows and regenerate only those.")]
VerifyData = Annotated[
    Path | None, typer.Option("--data", help="Image folder: hash every image again and compare.")
]


def status(
    store: shared.StoreArgument = None, named: shared.StoreOption = None, as_json: shared.Json = False
) -> None:
    """Show the contents of a store: rows, errors, settings, runs."""
    from prep.cache.maintain import status as read_status
    from prep.cache.store import open_store

    found = read_status(open_store(shared.chosen_store(store, named)))
    emit(found, _status_lines(found), as_json)


def _status_lines(found: StoreStatus) -> Iterator[str]:
    yield found.uri
    for stage in found.stages:
        if stage.holder:
            yield (
                "{}: being written by pid {pid} on {host} since {started}".format(stage.stage, **stage.holder)
            )
        counts = ", ".join(f"{count:,} {name}" for name, count in sorted(stage.statuses.items()))
        yield (
            f"{stage.stage}: {stage.rows:,} rows ({counts or 'no status'}) in {stage.shards:,} shards, "
            f"{stage.bytes / 2**20:,.1f} MiB; created {stage.created}"
        )
        if stage.set_aside:
            yield f"  {stage.set_aside:,} rows set aside, as the input no longer has them"
        for name, value in stage.settings.items():
            yield f"  {name}: {json.dumps(value, ensure_ascii=False)}"
        for run in stage.runs[-3:]:
            yield f"  run {run['at']}: {run['rows']:,} rows, {run['rate']:,.1f}/s, {run['failed']:,} failed"
            for line in report_lines(stage.stage, run.get("report", {})):
                yield f"    {line}"
    for cache in found.caches:
        yield f"{cache.name}: {cache.shards:,} shards, {cache.bytes / 2**20:,.1f} MiB"


def card(
    store: shared.StoreArgument = None, named: shared.StoreOption = None, as_json: shared.Json = False
) -> None:
    """Write a store's data card, README.md, as the end of a run does.

    It holds what each table has, where it comes from, and how to load it. What you add above or below its
    part stays, and so do the entries of its head (``license:``) but ``configs:``.
    """
    from prep.cache.card import require_card
    from prep.cache.store import open_store

    where = require_card(open_store(shared.chosen_store(store, named)))
    emit({"card": where}, [f"wrote {where}"], as_json)


def verify(
    context: typer.Context,
    store: shared.StoreArgument = None,
    named: shared.StoreOption = None,
    repair: Repair = False,
    data: VerifyData = None,
    as_json: shared.Json = False,
) -> None:
    """Check every byte and row of a store against its manifests."""
    from itertools import chain

    from prep.cache import maintain
    from prep.cache.row_checks import CHECKS
    from prep.cache.store import open_store
    from prep.cache.verify import verify as check
    from prep.proposals.stale_images import image_faults

    opened, checks = open_store(shared.chosen_store(store, named)), dict(CHECKS)
    if data is not None:
        decodes, unchanged = CHECKS["proposals"], image_faults(data)
        checks["proposals"] = lambda rows: chain(decodes(rows), unchanged(rows))
    found = check(opened, checks)
    emit(found, _verify_lines(found), as_json and not repair)
    if found.ok or not repair:
        raise typer.Exit(0 if found.ok else 1)
    lost = maintain.lost_with(opened, found)
    whole = opened.files.address if len({table for table, _ in lost}) == 1 else None
    for table, arguments in lost:
        try:
            rehearse(context, arguments, whole)
        except PrepError as error:
            raise PrepError(
                f"The damaged rows of {table} cannot be made again: {error.message} Nothing was changed.",
                error.remedy,
            ) from error
    for report in maintain.repair(opened, checks, found):
        say(f"{report.stage}: {report.lost_rows:,} rows to regenerate")
        for arguments in report.commands:
            repeat(context, arguments, opened.files.address)
    raise typer.Exit(0 if check(opened, checks).ok else 1)


def _verify_lines(found: VerifyReport) -> Iterator[str]:
    for stage in found.stages:
        yield f"{stage.stage}: {stage.rows:,} rows, {stage.shards:,} shards, {len(stage.problems):,} problems"
        for problem in stage.problems[:50]:
            yield f"  {problem}"


def compact(
    store: shared.StoreArgument = None, named: shared.StoreOption = None, as_json: shared.Json = False
) -> None:
    """Merge many small shards into few; no row or cached response changes."""
    from prep.cache.compact import compact as rewrite
    from prep.cache.store import open_store

    reports = rewrite(open_store(shared.chosen_store(store, named)))
    emit(reports, _compact_lines(reports), as_json)


def _compact_lines(reports: Sequence[CompactReport]) -> Iterator[str]:
    for report in reports:
        yield (
            f"{report.stage}: {report.shards_before:,} -> {report.shards_after:,} shards, "
            f"{report.bytes_before / 2**20:,.1f} -> {report.bytes_after / 2**20:,.1f} MiB; "
            f"{len(report.removed):,} stray files removed"
        )

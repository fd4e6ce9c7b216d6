"""Runs any stage: leaves out what is done, cuts the rest into units, and commits each row once."""

from __future__ import annotations

import contextlib
import itertools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar

from prep.cache.keyset import hash_keys
from prep.engine.local import Engine
from prep.engine.progress import progress
from prep.engine.signals import Stop, interrupted, stoppable

if TYPE_CHECKING:
    import pyarrow as pa

    from prep.cache.manifest_fields import RunEntry
    from prep.cache.writer import StageWriter
    from prep.engine.progress import Bar
    from prep.engine.signals import Stoppable
    from prep.stage import Stage

Item = TypeVar("Item")


class RunOptions(TypedDict, total=False):
    """The options of :func:`run_stage` that describe a run: its label, and what it is recorded as."""

    label: str
    total: int | None
    selection: Mapping[str, object] | None
    arguments: Mapping[str, object] | None


MAX_REASONS, MAX_EXAMPLES = 20, 5
# What differs between errors of one kind: quoted names and numbers.
_VARYING = re.compile(r"'[^']*'|\b\d+(?:\.\d+)?\b")


@dataclass
class Summary:
    """Row counts of a run: ``total`` = ``done`` (now) + ``reused`` (before); ``failed`` of ``done`` and
    ``failed_before`` of ``reused`` have an error.

    ``reasons`` counts the errors (:data:`MAX_REASONS` different ones, without numbers and quoted names);
    ``first_failed`` are the first :data:`MAX_EXAMPLES` as they stand in the rows. ``rate`` is done rows per
    second, ``first_rows`` existed after ``first_seconds`` (loading the models and one unit), ``where`` is the
    location of the shards. ``extra`` belongs to the caller.
    """

    stage: str
    total: int = 0
    done: int = 0
    reused: int = 0
    failed: int = 0
    failed_before: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    first_failed: list[str] = field(default_factory=list)
    seconds: float = 0.0
    first_seconds: float = 0.0
    first_rows: int = 0
    rate: float = 0.0
    where: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._started = time.monotonic()

    @property
    def so_far(self) -> str:
        """Where the rows of an interrupted run are, as text."""
        return f"{self.done} rows of this run are in {self.where}"

    def count(self, rows: pa.Table) -> None:
        """Add one unit's rows, and the errors among them."""
        if not self.done:
            self.first_seconds, self.first_rows = time.monotonic() - self._started, rows.num_rows
        self.done += rows.num_rows
        if "status" not in rows.column_names:
            return
        for status, error in zip(rows["status"].to_pylist(), rows["error"].to_pylist(), strict=True):
            if status == "error":
                self.failed += 1
                said = str(error).split("\n", 1)[0]
                if len(self.first_failed) < MAX_EXAMPLES:
                    self.first_failed.append(said)
                reason = _VARYING.sub(lambda match: "'...'" if match[0][0] == "'" else "N", said)
                # Reasons may still contain names: beyond a limit, new ones are counted together.
                known = reason in self.reasons or len(self.reasons) < MAX_REASONS
                reason = reason if known else "(other reasons)"
                self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def close(self, seen: int, reused: int, failed_before: int) -> None:
        """Set the final values."""
        self.total, self.reused, self.failed_before = seen, reused, failed_before
        self.seconds = time.monotonic() - self._started
        self.rate = self.done / self.seconds if self.seconds > 0 else 0.0

    def figures(self) -> RunEntry:
        """The entry for this run in the manifest."""
        return {
            "rows": self.done,
            "failed": self.failed,
            "reused": self.reused,
            "first_rows": self.first_rows,
            "seconds": round(self.seconds, 3),
            "first_seconds": round(self.first_seconds, 3),
            "rate": round(self.rate, 3),
        }


class Work:
    """How the rows of a run are made. Here: the stage receives the items and returns their rows.

    A subclass may collect statistics, or give the stage something else than the items: the phrases job sends
    one question for many equal expressions, and makes their rows from its answer.
    """

    block = 1024  # the number of items that are looked up at once, if a unit is not larger

    def requests(self, items: list[Any]) -> tuple[list[Any], pa.Table | None]:
        """What the stage receives for new items, and the rows that can be written without the stage."""
        return items, None

    def rows(self, unit: list[Any], results: pa.Table) -> pa.Table:
        """The rows to write, from what the stage returned for a unit. No signal interrupts this."""
        return results

    def written(self, unit: list[Any]) -> None:
        """Called after the rows of a unit are written."""

    def step(self, name: str) -> None:
        """Called when the driver starts to ``read`` or ``look up`` items, wait (``engine``) or ``write``."""

    def report(self) -> dict[str, object] | None:
        """Statistics (JSON values) for ``summary.extra["report"]`` and the manifest."""
        return None


def run_stage(
    engine: Engine[Stage],
    items: Iterable[Item],
    *,
    key: Callable[[Item], str | tuple[str, ...]],
    writer: StageWriter,
    unit_size: int,
    work: Work | None = None,
    label: str = "",
    total: int | None = None,
    selection: Mapping[str, object] | None = None,
    arguments: Mapping[str, object] | None = None,
) -> Summary:
    """Make sure that every item has its rows in the store; existing rows are kept.

    ``key`` is the key of an item's row, or the keys of its rows: an item whose rows are all committed or in
    progress is skipped; where only some are, the caller has to leave those out. ``selection`` identifies the
    items (the inputs' hashes, dataset, splits): once all its rows are committed, a rerun returns at once
    without iterating ``items``. ``arguments`` are stored in the manifest with the run's figures. ``engine``
    is not opened if there is nothing to process, and left open: the caller closes it. SIGINT and SIGTERM end
    the run with :class:`Interrupted` after committing what is finished.
    """
    summary = Summary(stage=writer.stage.name, where=writer.uri)
    if selection is not None and (before := writer.finished(selection)) is not None:
        summary.total, summary.failed_before = before
        summary.reused = summary.total
        return summary
    work = work or Work()
    with stoppable() as stop:
        try:
            with progress(label or summary.stage, total) as bar:
                run = _Run(iter(items), key, writer, unit_size, work, summary, stop, bar)
                run.process(engine)
            with stop.later():
                summary.close(run.seen, run.reused, run.failed_before)
                record = summary.figures()
                record["workers"], record["arguments"] = engine.workers, dict(arguments or {})
                if (report := work.report()) is not None:
                    summary.extra["report"] = record["report"] = report
                writer.record_run(record)
                writer.flush()
                if selection is not None:
                    writer.finish(selection, summary.total, summary.failed + summary.failed_before)
        except Stop as signalled:
            stop.ignore()
            writer.flush()
            raise interrupted(signalled.signum, summary.so_far) from None
    return summary


def prepare(
    stage: Stage, items: Iterable[Item], *, workers: int = 1, ray_address: str | None = None, **options: Any
) -> Summary:
    """:func:`run_stage` with workers for this run alone, as it was called in 0.1; kept for one release."""
    with Engine(stage, workers=workers, ray_address=ray_address) as engine:
        return run_stage(engine, items, **options)


@dataclass
class _Run(Generic[Item]):
    """The driver's state: the items still to read, and the keys of the rows in progress."""

    items: Iterator[Item]
    key: Callable[[Item], str | tuple[str, ...]]
    writer: StageWriter
    size: int
    work: Work
    summary: Summary
    stop: Stoppable
    bar: Bar
    claimed: set[str] = field(default_factory=set)
    seen: int = 0
    reused: int = 0
    failed_before: int = 0

    def process(self, engine: Engine[Stage]) -> None:
        """Give every unit to the engine, and write its rows."""
        with contextlib.closing(engine.run(self.units())) as results:
            for unit, table in results:
                with self.stop.later():
                    self.write(self.work.rows(unit, table))
                self.work.written(unit)
                self.work.step("engine")

    def units(self) -> Iterator[list[object]]:
        """Cut the requests for new items into units; a block is claimed before any of it is yielded."""
        waiting: list[object] = []
        self.work.step("read")
        while block := list(itertools.islice(self.items, max(self.size, self.work.block))):
            self.work.step("look up")
            requests, ready = self.work.requests(self.new(block))
            if ready is not None:
                with self.stop.later():
                    self.write(ready)
            waiting += requests
            self.work.step("engine")
            while len(waiting) >= self.size:
                unit, waiting = waiting[: self.size], waiting[self.size :]
                yield unit
            self.work.step("read")
        self.work.step("engine")
        if waiting:
            yield waiting

    def new(self, block: list[Item]) -> list[Item]:
        """The items of a block of which a row is missing; claims their keys."""
        owned = [(own,) if isinstance(own := self.key(item), str) else own for item in block]
        keys = [key for its_keys in owned for key in its_keys]
        hashes = hash_keys(keys)
        done = self.writer.done.contains_hashes(hashes).tolist()
        self.failed_before += int(self.writer.failed.contains_hashes(hashes).sum())
        missing = {key for key, is_done in zip(keys, done, strict=True) if not is_done} - self.claimed
        self.claimed |= missing
        self.seen += len(keys)
        self.reused += len(keys) - len(missing)
        fresh = []
        for item, its_keys in zip(block, owned, strict=True):
            if not missing.isdisjoint(its_keys):
                missing.difference_update(its_keys)
                fresh.append(item)
        return fresh

    def write(self, rows: pa.Table) -> None:
        """Write finished rows and release their keys."""
        self.work.step("write")
        self.writer.write(rows)
        self.claimed.difference_update(rows.column(self.writer.stage.key_column).to_pylist())
        self.summary.count(rows)
        self.bar.update(done=self.summary.done, reused=self.reused)

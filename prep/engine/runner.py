"""Runs one stage: splits the remaining items into units, processes them and commits their rows."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from prep.engine.local import Engine
from prep.engine.progress import progress
from prep.engine.signals import Stop, interrupted, stoppable
from prep.stage import Stage

if TYPE_CHECKING:
    import pyarrow as pa

    from prep.cache.writer import StageWriter

Item = TypeVar("Item")

MAX_REASONS = 20
BLOCK = 1024


@dataclass
class Summary:
    """Row counts of a run: ``total`` = ``done`` (now) + ``reused`` (before); ``failed`` of ``done`` have an
    error.

    ``reasons`` counts the errors (:data:`MAX_REASONS` different ones), ``rate`` is done rows per second,
    ``first_rows`` existed after ``first_seconds`` (loading the models and one unit), ``where`` is the
    location of the shards. ``extra`` belongs to the caller.
    """

    stage: str
    total: int = 0
    done: int = 0
    reused: int = 0
    failed: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
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
                reason = str(error).split("\n", 1)[0]
                # Reasons may contain file names: beyond a limit, new ones are counted together.
                known = reason in self.reasons or len(self.reasons) < MAX_REASONS
                reason = reason if known else "(other reasons)"
                self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def close(self, seen: int, reused: int, seconds: float) -> None:
        """Set the final values."""
        self.total, self.reused, self.seconds = seen, reused, seconds
        self.rate = self.done / seconds if seconds > 0 else 0.0

    def figures(self) -> dict[str, Any]:
        """The entry for this run in the manifest."""
        counts = {"rows": self.done, "failed": self.failed, "reused": self.reused}
        counts["first_rows"] = self.first_rows
        times = {"seconds": self.seconds, "first_seconds": self.first_seconds, "rate": self.rate}
        return {**counts, **{name: round(value, 3) for name, value in times.items()}}


def prepare(
    stage: Stage,
    items: Iterable[Item],
    *,
    key: Callable[[Item], str],
    writer: StageWriter,
    unit_size: int,
    workers: int = 1,
    ray_address: str | None = None,
    engine: Engine | None = None,
    label: str = "",
    total: int | None = None,
    selection: Mapping[str, Any] | None = None,
    on_rows: Callable[[pa.Table], None] | None = None,
    report: Callable[[], Mapping[str, Any]] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Summary:
    """Make sure that every item has a row in the store; existing rows are kept.

    ``key`` is an item's row key; items whose row is committed, and duplicates, are skipped. ``selection``
    identifies the items (the inputs' hashes, dataset, splits): once all its rows are committed, a rerun
    returns at once without iterating ``items``. ``on_rows`` receives each unit's rows before they are written
    (for an answer cache, for example). ``report`` is called at the end for the stage's statistics (JSON
    values), for ``summary.extra["report"]`` and the manifest. ``arguments`` are stored in the manifest with
    the run's figures. ``engine`` holds the stage's workers if they outlive this run; otherwise ``workers``
    are created for it alone. SIGINT and SIGTERM end the run with :class:`Interrupted` after committing what
    is finished.
    """
    summary = Summary(stage=writer.stage.name, where=writer.uri)
    started = time.monotonic()
    if selection is not None and writer.finished(selection):
        summary.total = summary.reused = writer.manifest.finished_rows(selection) or 0
        return summary
    todo = _Todo(items, key, writer, unit_size)
    own = Engine(stage, workers=workers, ray_address=ray_address)
    engine = engine or own
    with own, stoppable() as stop:
        try:
            results = engine.run(todo.units())
            with progress(label or summary.stage, total) as bar, contextlib.closing(results):
                for unit, rows in results:
                    with stop.later():
                        if on_rows is not None:
                            on_rows(rows)
                        writer.write(rows)
                        todo.returned(unit)
                    summary.count(rows)
                    bar.update(done=summary.done, reused=todo.reused)
            with stop.later():
                summary.close(todo.seen, todo.reused, time.monotonic() - started)
                run = {**summary.figures(), "workers": engine.workers, "arguments": dict(arguments or {})}
                if report is not None:
                    summary.extra["report"] = run["report"] = dict(report())
                writer.record_run(run)
                writer.flush()
                if selection is not None:
                    writer.finish(selection, summary.total)
        except Stop as signalled:
            stop.ignore()
            writer.flush()
            raise interrupted(signalled.signum, summary.so_far) from None
    return summary


class _Todo:
    """The items that still need a row, in units; tracks the ones in progress."""

    def __init__(
        self, items: Iterable[Any], key: Callable[[Any], str], writer: StageWriter, size: int
    ) -> None:
        self._items, self._key, self._writer, self._size = iter(items), key, writer, size
        self._claimed: set[str] = set()
        self.seen = self.reused = 0

    def units(self) -> Iterator[list[Any]]:
        """Split the remaining items into units; a whole block is claimed before any of it is yielded."""
        waiting: list[Any] = []
        while block := list(itertools.islice(self._items, max(self._size, BLOCK))):
            self.seen += len(block)
            keys = [self._key(item) for item in block]
            done = self._writer.done.contains(keys)
            for item, key, is_done in zip(block, keys, done.tolist(), strict=True):
                if is_done or key in self._claimed:
                    self.reused += 1
                else:
                    self._claimed.add(key)
                    waiting.append(item)
            while len(waiting) >= self._size:
                unit, waiting = waiting[: self._size], waiting[self._size :]
                yield unit
        if waiting:
            yield waiting

    def returned(self, unit: list[Any]) -> None:
        """Record that a unit's rows are written."""
        self._claimed.difference_update(map(self._key, unit))

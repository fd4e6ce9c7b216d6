"""The Ray engine: one actor per worker, a bounded number of units in flight, dead actors replaced."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import ray

from prep.engine.ray_connect import connect, logs_folder, unusable
from prep.errors import PrepError
from prep.stage import Stage, stage_failure

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.actor import ActorHandle


# After this many failed actor starts without a finished unit in between, the run fails with the actor's
# error.
MAX_FAILED_STARTS = 3
# A unit that was in flight on this many dying workers is assumed to have killed them.
MAX_UNIT_DEATHS = 3
# Near the end, an idle worker repeats a unit that exceeds this multiple of the usual time, and this minimum.
SLOW_FACTOR = 4.0
SLOW_SECONDS = 20.0
WAIT_NOTICE_SECONDS = 60.0
# Units an actor holds at once: it loads one while it processes the other.
IN_FLIGHT = 2

log = logging.getLogger(__name__)


class Worker:
    """An actor. ``load`` runs in its request threads, ``open`` and ``process`` in a dedicated thread."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="process")
        self._opened = False

    def open(self) -> None:
        """Load the stage's model."""
        self._thread.submit(self._stage.open).result()

    def work(self, unit: list[object]) -> pa.Table:
        """The rows of one unit. This one is loaded while another unit is processed."""
        loaded = self._stage.load(unit)
        return self._thread.submit(self._stage.process, loaded).result()


@dataclass
class _Unit:
    items: list[object]
    deaths: int = 0
    done: bool = False
    started: float = 0.0
    holders: int = 0


@dataclass
class _Actor:
    handle: ActorHandle
    opening: ray.ObjectRef
    ready: bool = False
    calls: dict[ray.ObjectRef, _Unit] = field(default_factory=dict)


class Cluster:
    """The Ray backend of ``prep.engine.local.Engine``: connects to Ray, or starts it and stops it."""

    def __init__(self, stage: Stage, *, workers: int, address: str | None) -> None:
        self._address = address
        self._started = connect(stage.resources, workers, address)
        self._pool = _Pool(stage, workers)

    def run(self, units: Iterable[list[Any]]) -> Generator[tuple[list[Any], pa.Table], None, None]:
        """Every unit with its rows, as they complete; the actors are kept for the next call."""
        try:
            yield from self._pool.results(iter(units))
        except ray.exceptions.RayError as error:
            raise unusable(self._address, str(error)) from error

    def close(self) -> None:
        """Stop every actor, and Ray if it was started here."""
        self._pool.close()
        if self._started:
            ray.shutdown()


class _Pool:
    """The driver's state: actors, the units assigned to each, and the units still to assign."""

    def __init__(self, stage: Stage, workers: int) -> None:
        self._units: Iterator[list[object]] = iter(())
        self._exhausted = True
        self._queue: deque[_Unit] = deque()
        self._workers = workers
        self._stage = ray.put(stage)
        resources = stage.resources
        self._class = ray.remote(Worker).options(
            num_cpus=resources.cpus, num_gpus=resources.gpus, max_restarts=0, max_concurrency=IN_FLIGHT + 1
        )
        self._actors: list[_Actor] = []
        self._failed_starts = 0
        self._durations: deque[float] = deque(maxlen=100)

    def results(self, units: Iterator[list[Any]]) -> Generator[tuple[list[Any], pa.Table], None, None]:
        """Assign ``units`` and yield each with its rows; an abandoned iteration makes the pool unusable."""
        self._units, self._exhausted = units, False
        waiting_since, told = time.monotonic(), False
        while True:
            self._staff()
            self._hand_out()
            pending = self._pending()
            if not pending:
                return
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=1.0)
            if not ready and not told and not any(actor.ready for actor in self._actors):
                told = time.monotonic() - waiting_since > WAIT_NOTICE_SECONDS
                if told:
                    log.warning(
                        "No worker has started yet: Ray has no free resources for one (see `ray status`)."
                    )
            for reference in ready:
                actor = pending[reference]
                if actor not in self._actors:
                    continue  # it died with another call of this round
                finished = self._collect(actor, reference)
                if finished is not None:
                    yield finished

    def close(self) -> None:
        """Stop every actor; units in progress are dropped."""
        for actor in self._actors:
            with contextlib.suppress(ray.exceptions.RayError):  # the cluster itself may be gone
                ray.kill(actor.handle)
        self._actors = []

    def _staff(self) -> None:
        """Keep as many actors as there is work for. Those without free resources wait to be placed."""
        while not self._exhausted and len(self._queue) < self._workers:
            self._fetch()
        while len(self._actors) < min(self._workers, self._busy() + len(self._queue)):
            handle = self._class.remote(self._stage)
            self._actors.append(_Actor(handle, handle.open.remote()))

    def _busy(self) -> int:
        return sum(bool(actor.calls) for actor in self._actors)

    def _fetch(self) -> None:
        for items in itertools.islice(self._units, 1):
            self._queue.append(_Unit(items))
            return
        self._exhausted = True

    def _next(self) -> _Unit | None:
        if not self._queue and not self._exhausted:
            self._fetch()
        while self._queue:
            unit = self._queue.popleft()
            if not unit.done:
                return unit
        return None

    def _slow(self) -> _Unit | None:
        """A unit on a single worker that takes far longer than usual."""
        if not self._exhausted or not self._durations:
            return None
        limit = max(SLOW_SECONDS, SLOW_FACTOR * median(self._durations))
        now = time.monotonic()
        late = [
            u for a in self._actors for u in a.calls.values() if u.holders == 1 and now - u.started > limit
        ]
        return min(late, key=lambda unit: unit.started, default=None)

    def _hand_out(self) -> None:
        """Distribute units evenly: one per actor before any actor gets a second."""
        for load in range(IN_FLIGHT):
            for actor in self._actors:
                if not actor.ready or len(actor.calls) != load:
                    continue
                unit = self._next() or (self._slow() if load == 0 else None)
                if unit is None:
                    return
                unit.started = time.monotonic()
                unit.holders += 1
                actor.calls[actor.handle.work.remote(unit.items)] = unit

    def _pending(self) -> dict[ray.ObjectRef, _Actor]:
        """The references to wait for: calls, and actor starts while there is work for them."""
        more = bool(self._queue) or not self._exhausted
        calls = [(call, unit, actor) for actor in self._actors for call, unit in actor.calls.items()]
        pending = {call: actor for call, unit, actor in calls if more or not unit.done}
        if more:
            pending.update({actor.opening: actor for actor in self._actors if not actor.ready})
        return pending

    def _collect(self, actor: _Actor, reference: ray.ObjectRef) -> tuple[list[object], pa.Table] | None:
        """Take one result: the rows of a unit that no other worker has finished, or nothing."""
        unit = actor.calls.pop(reference, None)
        try:
            value = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, PrepError):
                raise cause from error
            if unit is not None:
                raise stage_failure(unit.items, cause) from error
            self._bury(actor, cause)
            return None
        except ray.exceptions.RayError as error:
            if unit is not None:
                actor.calls[reference] = unit
            self._bury(actor, error)
            return None
        if unit is None:
            actor.ready = True
            return None
        unit.holders -= 1
        self._failed_starts = 0
        self._durations.append(time.monotonic() - unit.started)
        if unit.done:
            return None
        unit.done = True
        return unit.items, value

    def _bury(self, actor: _Actor, error: BaseException) -> None:
        """Handle a dead actor: reassign its units, and keep the error if it never started."""
        self._actors.remove(actor)
        ray.kill(actor.handle)
        if not actor.ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                logs = f"; the workers' logs are in {folder}" if (folder := logs_folder()) else ""
                raise PrepError(
                    f"Workers failed to start {self._failed_starts} times, the last time with "
                    f"{type(error).__name__}: {str(error).rstrip('.')}.",
                    f"Committed rows are kept. Fix the cause{logs}. Then run the same command again.",
                ) from error
        for unit in actor.calls.values():
            unit.holders -= 1
            unit.deaths += 1
            if unit.deaths >= MAX_UNIT_DEATHS:
                raise stage_failure(unit.items, error) from error
            if not unit.done and not unit.holders:
                self._queue.append(unit)

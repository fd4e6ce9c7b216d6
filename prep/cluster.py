"""The engine on Ray: an actor per worker, a bounded number of units with each, the dead ones replaced."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import ray

from prep.devices import cpu_cores
from prep.engine import Resources, Stage, stage_failure
from prep.errors import PrepError

# An actor that fails to start this often, with no unit finished in between, ends the run with its own error.
MAX_FAILED_STARTS = 3
# A unit that was with this many workers as they died is taken to kill them.
MAX_UNIT_DEATHS = 3
# Near the end an idle worker repeats a unit that has taken this many times the usual, and at least this long.
SLOW_FACTOR = 4.0
SLOW_SECONDS = 20.0
WAIT_NOTICE_SECONDS = 60.0

log = logging.getLogger(__name__)


class Worker:
    """An actor. ``load`` runs in its request threads, ``open`` and ``process`` in one of their own."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="process")
        self._opened = False

    def open(self) -> None:
        """Load the stage's model."""
        self._thread.submit(self._stage.open).result()

    def work(self, unit: list[Any]) -> Any:
        """The rows of one unit. While another unit is processed, this one is loaded."""
        loaded = self._stage.load(unit)
        return self._thread.submit(self._stage.process, loaded).result()


@dataclass
class _Unit:
    items: list[Any]
    deaths: int = 0
    done: bool = False
    started: float = 0.0
    holders: int = 0


@dataclass
class _Actor:
    handle: Any
    opening: Any
    ready: bool = False
    calls: dict[Any, _Unit] = field(default_factory=dict)


def run_on_ray(
    stage: Stage, units: Iterable[list[Any]], *, workers: int, address: str | None, in_flight: int
) -> Generator[tuple[list[Any], Any], None, None]:
    """``prep.engine.run`` on Ray actors. Starts Ray, or joins it, and leaves it as it was."""
    started = _connect(stage.resources, workers, address)
    try:
        with contextlib.closing(_Pool(stage, iter(units), workers, in_flight)) as pool:
            yield from pool.results()
    except ray.exceptions.RayError as error:
        raise _unusable(address, str(error)) from error
    finally:
        if started:
            ray.shutdown()


def _connect(resources: Resources, workers: int, address: str | None) -> bool:
    """Join the Ray at ``address``, or start one on this machine; whether that was done here."""
    started = not ray.is_initialized()
    if started and address is not None:
        _reach(address)
        _initialise(address)
    elif started:
        # Workers may share cores: so many of them are what --workers asked for.
        cpus = max(cpu_cores(), math.ceil(workers * resources.cpus))
        try:
            _initialise("local", num_cpus=cpus, include_dashboard=False)
        except PrepError:
            # Ray gives its own processes 30 s to come up, which a busy machine may exceed once.
            ray.shutdown()
            _initialise("local", num_cpus=cpus, include_dashboard=False)
    gpus = ray.cluster_resources().get("GPU", 0.0)
    if address is None and gpus < resources.gpus:  # a cluster may grow, this machine does not
        if started:
            ray.shutdown()
        raise PrepError(
            f"A worker of this stage needs {resources.gpus:g} GPU; Ray sees {gpus:g} on this machine.",
            "Give --gpus 0 to run on the CPU, or --ray-address to use a cluster that has GPUs.",
        )
    return started


def _initialise(address: str, **options: Any) -> None:
    """``ray.init``, quietly, with its many kinds of errors made one and our SIGTERM handler kept."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **options)
    except Exception as error:
        raise _unusable(address, str(error).strip() or type(error).__name__) from error
    finally:
        # Ray takes SIGTERM over, to exit at once; whoever runs us has said what is to happen then.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _reach(address: str) -> None:
    """Knock at ``host:port`` first: Ray itself waits for minutes for a cluster that is not there."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise _unusable(address, error.strerror or str(error)) from error


def _unusable(address: str | None, reason: str) -> PrepError:
    where = "on this machine" if address in (None, "local") else f"at {address}"
    return PrepError(
        f"Ray {where} cannot be used: {reason}",
        "Start it with `ray start --head`, check --ray-address, or leave that out to use this machine.",
    )


class _Pool:
    """The driver's side: which actors there are, which unit is where, and what is still to hand out."""

    def __init__(self, stage: Stage, units: Iterator[list[Any]], workers: int, in_flight: int) -> None:
        self._units = units
        self._exhausted = False
        self._queue: deque[_Unit] = deque()
        self._in_flight = in_flight
        self._workers = workers
        self._stage = ray.put(stage)
        resources = stage.resources
        self._class = ray.remote(Worker).options(
            num_cpus=resources.cpus, num_gpus=resources.gpus, max_restarts=0, max_concurrency=in_flight + 1
        )
        self._actors: list[_Actor] = []
        self._failed_starts = 0
        self._durations: deque[float] = deque(maxlen=100)

    def results(self) -> Generator[tuple[list[Any], Any], None, None]:
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
                        "No worker has started yet: Ray has not found room for one (see `ray status`)."
                    )
            for reference in ready:
                actor = pending[reference]
                if actor not in self._actors:
                    continue  # it died with another call of this round
                finished = self._collect(actor, reference)
                if finished is not None:
                    yield finished

    def close(self) -> None:
        """Stop every actor; what they were doing is dropped."""
        for actor in self._actors:
            with contextlib.suppress(ray.exceptions.RayError):  # the cluster itself may be gone
                ray.kill(actor.handle)
        self._actors = []

    def _staff(self) -> None:
        """Keep as many actors as there is work for. Those that Ray has no room for yet wait to be placed."""
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
        """A unit that only one worker has and that takes far longer than they usually do."""
        if not self._exhausted or not self._durations:
            return None
        limit = max(SLOW_SECONDS, SLOW_FACTOR * median(self._durations))
        now = time.monotonic()
        late = [
            u for a in self._actors for u in a.calls.values() if u.holders == 1 and now - u.started > limit
        ]
        return min(late, key=lambda unit: unit.started, default=None)

    def _hand_out(self) -> None:
        """Fill the actors evenly, one unit each before anyone gets a second."""
        for load in range(self._in_flight):
            for actor in self._actors:
                if not actor.ready or len(actor.calls) != load:
                    continue
                unit = self._next() or (self._slow() if load == 0 else None)
                if unit is None:
                    return
                unit.started = time.monotonic()
                unit.holders += 1
                actor.calls[actor.handle.work.remote(unit.items)] = unit

    def _pending(self) -> dict[Any, _Actor]:
        """What is worth waiting for: calls, and actors' starts while there is something for them to do."""
        more = bool(self._queue) or not self._exhausted
        calls = [(call, unit, actor) for actor in self._actors for call, unit in actor.calls.items()]
        pending = {call: actor for call, unit, actor in calls if more or not unit.done}
        if more:
            pending.update({actor.opening: actor for actor in self._actors if not actor.ready})
        return pending

    def _collect(self, actor: _Actor, reference: Any) -> tuple[list[Any], Any] | None:
        """Take one answer: the rows of a unit that nobody else has finished, or nothing."""
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
        """An actor is dead: its units go to others, and the reason is kept if it never started."""
        self._actors.remove(actor)
        ray.kill(actor.handle)
        if not actor.ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise PrepError(
                    f"Workers failed to start {self._failed_starts} times, the last time with "
                    f"{type(error).__name__}: {error}",
                    "What is committed is kept. Put the cause right, then run the same command again.",
                ) from error
        for unit in actor.calls.values():
            unit.holders -= 1
            unit.deaths += 1
            if unit.deaths >= MAX_UNIT_DEATHS:
                raise stage_failure(unit.items, error) from error
            if not unit.done and not unit.holders:
                self._queue.append(unit)

"""What the driver hands to its actors and takes back, with Ray replaced by a script of what happens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import ray

from prep.engine import ray_pool
from prep.engine.ray_pool import _Pool
from prep.errors import PrepError
from prep.stage import Resources


class Stage:
    resources = Resources()


@dataclass(eq=False)
class Call:
    """A call of an actor: ``what`` is "open" or the unit's items."""

    actor: int
    what: Any
    outcome: Any = None


class Script:
    """Ray as the pool uses it; ``events`` are (actor, unit or "open", "dies" or its result), in order.

    An actor whose start is no event starts when nothing else can happen.
    """

    exceptions = ray.exceptions

    def __init__(self, events: list[tuple[int, Any, Any]]) -> None:
        self.events = events
        self.actors = 0
        self.idle = 0

    def put(self, value: object) -> object:
        return value

    def remote(self, kind: object) -> Script:
        return self

    def options(self, **_: object) -> Any:
        return type("Class", (), {"remote": staticmethod(self.start)})

    def start(self, stage: object) -> Any:
        self.actors += 1
        number = self.actors

        def calling(what: Callable[..., Any]) -> Any:
            return type("Method", (), {"remote": staticmethod(lambda *given: Call(number, what(*given)))})

        return type("Handle", (), {"open": calling(lambda: "open"), "work": calling(tuple)})

    def kill(self, handle: object) -> None: ...

    def wait(self, calls: list[Call], **_: object) -> tuple[list[Call], list[Call]]:
        actor, what, outcome = self.events[0]
        for call in calls:
            if (call.actor, call.what) == (actor, what):
                call.outcome = outcome
                del self.events[0]
                return [call], []
        told = {actor for actor, what, _ in self.events if what == "open"}
        for call in calls:
            if call.what == "open" and call.actor not in told:
                return [call], []
        self.idle += 1
        assert self.idle < 20, f"the pool never waits for {self.events[0]}"
        return [], calls

    def get(self, call: Call) -> Any:
        if call.outcome == "dies":
            raise ray.exceptions.RayActorError
        return call.outcome


def played(
    monkeypatch: pytest.MonkeyPatch, workers: int, units: list[list[str]], events: list[tuple[int, Any, Any]]
) -> list[Any]:
    """The results of the pool in their order, once every event has happened."""
    script = Script(events)
    monkeypatch.setattr(ray_pool, "ray", script)
    results = [value for _, value in _Pool(Stage(), workers).results(iter(units))]  # type: ignore[arg-type]
    assert script.events == []
    return results


def test_a_slow_unit_is_done_twice_and_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second worker is idle and repeats the unit of the first, whose own result comes too late."""
    monkeypatch.setattr(ray_pool, "SLOW_SECONDS", 0.0)
    monkeypatch.setattr(ray_pool, "SLOW_FACTOR", 0.0)
    events = [
        (1, "open", None), (2, "open", None), (3, "open", None),  # each takes two units
        (2, ("c",), "c"), (2, ("d",), "d"),
        (2, ("a",), "a, by the second"),
        (3, ("e",), "dies"),  # so that there is work again, and the first worker is waited for
        (1, ("a",), "a, by the first"),
        (2, ("b",), "b"), (1, ("e",), "e"), (2, ("f",), "f"),
    ]  # fmt: skip
    done = played(monkeypatch, 3, [[name] for name in "abcdef"], events)
    assert done == ["c", "d", "a, by the second", "b", "e", "f"]


def test_failed_starts_are_forgotten_once_a_unit_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice two starts fail: no more than two without a finished unit in between."""
    events = [
        (1, "open", "dies"), (2, "open", "dies"), (3, "open", None), (3, ("a",), "a"), (3, ("b",), "dies"),
        (4, "open", "dies"), (5, "open", "dies"), (6, "open", None), (6, ("b",), "b"),
    ]  # fmt: skip
    assert played(monkeypatch, 1, [["a"], ["b"]], events) == ["a", "b"]


def test_three_failed_starts_in_a_row_end_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    events = [(number, "open", "dies") for number in (1, 2, 3)]
    with pytest.raises(PrepError, match="Workers failed to start 3 times"):
        played(monkeypatch, 1, [["a"]], events)

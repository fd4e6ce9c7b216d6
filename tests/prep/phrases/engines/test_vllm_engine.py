"""The engine's thread when vLLM fails while it takes requests: every batch hears of it, and none waits on."""

from __future__ import annotations

import itertools
import queue
import threading
from importlib.util import find_spec
from typing import Any

import pytest

from prep.phrases.engines.base import Sampling
from prep.phrases.engines.vllm_engine import Batch, Engine, Request, _refusals, _sampling_params
from prep.phrases.tasks import PHRASES

# They import vLLM, which takes seconds; to look for it does not.
pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")]


class FailingCore:
    """The part of vLLM's engine that the thread uses: it refuses or fails at chosen requests."""

    def __init__(self, errors: dict[int, Exception]) -> None:
        self.errors, self.count = errors, itertools.count()

    def add_request(self, number: str, prompt: Any, parameters: Any) -> None:
        if error := self.errors.get(next(self.count)):
            raise error

    def step(self) -> list[Any]:
        raise AssertionError("no request was to be answered")


def engine_with(errors: dict[int, Exception]) -> Engine:
    engine = object.__new__(Engine)
    engine.llm = type("LLM", (), {"llm_engine": FailingCore(errors)})()
    engine.dead = engine._closing = False
    engine._inbox, engine._state, engine._open = queue.SimpleQueue(), threading.Lock(), {}
    engine._first, engine._again = _sampling_params(Sampling(), PHRASES.answer_schema)
    engine._refusals = _refusals()
    return engine


def asked(engine: Engine, *sizes: int) -> list[Batch]:
    batches = [Batch([]) for _ in sizes]
    for batch, size in zip(batches, sizes, strict=True):
        engine.submit([Request(batch, number, False, [1, 2]) for number in range(size)])
    return batches


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_at_any_request_reaches_every_batch(failing: int) -> None:
    engine = engine_with({failing: ImportError("cannot import name 'gone'")})
    batches = asked(engine, 3, 2)
    engine._run()
    assert [batch.finished.get(timeout=1) for batch in batches] == [None, None]
    assert engine.dead
    assert engine.cause == "ImportError: cannot import name 'gone'"
    late = asked(engine, 1)[0]
    assert late.finished.get(timeout=1) is None


def test_a_refusal_costs_one_request() -> None:
    from vllm import exceptions

    newer = getattr(exceptions, "VLLMClientError", ValueError)
    engine = engine_with({0: ValueError("too long"), 1: newer("bad")})
    engine._inbox.put(None)  # the thread ends once both are refused
    (batch,) = asked(engine, 2)
    engine._inbox.put(engine._inbox.get())  # the end comes behind the requests
    engine._run()
    refused = [batch.finished.get(timeout=1) for _ in range(2)]
    assert [(one[0].number, str(one[1])) for one in refused if one] == [(0, "too long"), (1, "bad")]
    assert not engine.dead

"""Runs one vLLM engine in a thread that submits prompts and distributes the outputs."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from prep.phrases.engines.base import Answer, Sampling
from prep.phrases.engines.vllm_boot import Guard, VllmOptions, boot, engine_arguments, load_chat
from prep.phrases.gguf import unpacked
from prep.phrases.models import Model
from prep.phrases.prompt import Prompt
from prep.phrases.tasks import Task

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from vllm import RequestOutput, SamplingParams
    from vllm.v1.engine.llm_engine import LLMEngine


class Request(NamedTuple):
    """One prompt in the engine: its question, and whether it is the retry."""

    batch: Batch
    number: int
    retry: bool
    ids: list[int]


# A prompt with its output, or with the reason why vLLM rejected it.
Finished: TypeAlias = "tuple[Request, RequestOutput | ValueError]"


@dataclass(slots=True)
class Batch:
    """A unit submitted to the engine: its answers so far, and the pending ones by (number, is retry)."""

    answers: list[Answer]
    waiting: dict[tuple[int, bool], Request] = field(default_factory=dict)
    finished: queue.SimpleQueue[Finished | None] = field(default_factory=queue.SimpleQueue)
    engine: Engine | None = None


class Engine:
    """One vLLM engine, stepped by its own thread, the only one to access it once it runs."""

    def __init__(
        self,
        model: Model,
        prompt: Prompt,
        task: Task,
        sampling: Sampling,
        options: VllmOptions,
        log: Path | None = None,
    ) -> None:
        model = unpacked(model)
        self.chat = load_chat(model, prompt, task)
        arguments = engine_arguments(model, len(self.chat.prefix), sampling, options)
        self._guard = Guard()
        self.llm, children = boot(model, arguments, options, self._guard, log)
        self.max_model_len = int(self.llm.llm_engine.model_config.max_model_len)
        self.dead = self._closing = False
        self.cause = ""
        self._inbox: queue.SimpleQueue[list[Request] | None] = queue.SimpleQueue()
        self._state = threading.Lock()
        self._open: dict[str, Request] = {}
        self._first, self._again = _sampling_params(sampling, task.answer_schema)
        self._refusals = _refusals()
        self._warm()
        self._thread = threading.Thread(target=self._run, name="vllm", daemon=True)
        self._thread.start()
        threading.Thread(target=self._watch, args=(children,), name="vllm watch", daemon=True).start()

    def submit(self, requests: list[Request]) -> None:
        """Submit prompts; batches receive ``(request, output)`` in ``finished``, or ``None`` on a crash."""
        with self._state:
            if not self.dead:
                self._inbox.put(requests)
                return
        for batch in {id(r.batch): r.batch for r in requests}.values():
            batch.finished.put(None)

    def close(self) -> None:
        """Stop the engine process and the thread."""
        self._closing = True
        self._inbox.put(None)
        self._thread.join(timeout=30)
        self._guard.release()
        self.llm.llm_engine.engine_core.shutdown()

    def _warm(self) -> None:
        """Fill the prefix cache with the prompt's fixed part before many requests need it."""
        from vllm import SamplingParams

        self.llm.generate(
            [{"prompt_token_ids": self.chat.questions(["a"])[0]}],
            SamplingParams(temperature=0.0, max_tokens=1),
            use_tqdm=False,
        )

    def _run(self) -> None:
        engine = self.llm.llm_engine
        numbers = itertools.count()
        taken: list[Request] = []
        try:
            while True:
                while not self._inbox.empty() or not self._open:
                    requests = self._inbox.get()
                    if requests is None:
                        return
                    taken = requests
                    for request in requests:
                        self._add(engine, f"q{next(numbers)}", request)
                for output in engine.step():
                    if output.finished:
                        request = self._open.pop(output.request_id)
                        request.batch.finished.put((request, output))
        except Exception as error:  # any error here means that this engine is unusable
            self._die(error, taken)

    def _watch(self, children: Sequence[BaseProcess]) -> None:
        """Wake the thread if the engine process is killed; vLLM itself would wait forever."""
        from multiprocessing.connection import wait

        if children and wait([child.sentinel for child in children]) and not self._closing:
            codes = [child.exitcode for child in children if child.exitcode is not None]
            error = RuntimeError(f"the engine's process ended with exit code {codes}")
            self.llm.llm_engine.engine_core.outputs_queue.put_nowait(error)

    def _add(self, engine: LLMEngine, number: str, request: Request) -> None:
        from vllm.inputs import tokens_input

        parameters = self._again if request.retry else self._first
        try:
            engine.add_request(number, tokens_input(request.ids), parameters)
            self._open[number] = request
        except self._refusals as error:  # vLLM rejects this one request and continues
            request.batch.finished.put((request, ValueError(str(error))))

    def _die(self, error: Exception, taken: Sequence[Request]) -> None:
        """Tell every batch with a request in the engine, in the inbox or among those ``taken`` from it."""
        batches = {id(r.batch): r.batch for r in [*self._open.values(), *taken]}
        with self._state:
            self.dead = True
            self.cause = f"{type(error).__name__}: {error}".split("\n", 1)[0]
            while not self._inbox.empty():
                for request in self._inbox.get() or []:
                    batches[id(request.batch)] = request.batch
        for batch in batches.values():
            batch.finished.put(None)


def _refusals() -> tuple[type[Exception], ...]:
    """The errors with which vLLM rejects one request: a ValueError, and since 0.3x a VLLMClientError."""
    from vllm import exceptions

    newer = getattr(exceptions, "VLLMClientError", None)
    return (ValueError,) if newer is None else (ValueError, newer)


def _sampling_params(
    sampling: Sampling, answer_schema: dict[str, object]
) -> tuple[SamplingParams, SamplingParams]:
    """The sampling parameters of first questions and of retries, the latter with the JSON schema."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    common = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed if sampling.temperature > 0 else None,
        "max_tokens": sampling.max_tokens,
        # Answers are detokenised in bulk when complete, to keep the engine's thread free.
        "detokenize": False,
        "output_kind": RequestOutputKind.FINAL_ONLY,
    }
    schema = StructuredOutputsParams(json=answer_schema, disable_any_whitespace=True)
    return SamplingParams(**common), SamplingParams(**common, structured_outputs=schema)

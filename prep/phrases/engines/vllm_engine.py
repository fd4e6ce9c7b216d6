"""One running vLLM engine: its arguments, its process, and the thread that feeds it and takes its answers."""

from __future__ import annotations

import itertools
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from prep.errors import PrepError
from prep.phrases.engines.base import Answer, Sampling
from prep.phrases.engines.chat import BLOCK, ChatTokens
from prep.phrases.models import NO_MODEL_NEEDED, Model
from prep.phrases.prompt import ANSWER_SCHEMA, Prompt

# Room for an expression beside the fixed prompt, where --max-model-len does not say.
EXPRESSION_TOKENS = 256


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """How the engine is set up; ``None`` batch limits are chosen by the device (:func:`engine_arguments`).

    ``max_model_len`` 0 is as long as the prompt, an expression and an answer need. ``dtype`` ``auto`` is
    the model's own. ``retry`` says whether failing answers are asked again, ``extra`` holds further
    arguments of ``vllm.LLM``, for measurements. What changes the answers is in :meth:`settings`; nothing
    else enters the content key.
    """

    tensor_parallel: int = 1
    quantization: str | None = None
    dtype: str = "auto"
    max_model_len: int = 0
    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float = 0.9
    batch_invariant: bool = False
    prefix_caching: bool = True
    retry: bool = True
    load_format: str = "auto"
    extra: tuple[tuple[str, Any], ...] = ()

    def settings(self) -> dict[str, Any]:
        """The options that change answers."""
        return {
            "quantization": self.quantization,
            "dtype": None if self.dtype == "auto" else self.dtype,
            "batch_invariant": self.batch_invariant,
            "no_retry": not self.retry,
        }


class Request(NamedTuple):
    """One prompt on its way through the engine: whose it is, and which of a question's two it is."""

    batch: Batch
    number: int
    retry: bool
    ids: list[int]


@dataclass(slots=True)
class Batch:
    """A unit handed to the engine: its answers so far, and the awaited ones by (number, is retry)."""

    answers: list[Answer]
    waiting: dict[tuple[int, bool], Request] = field(default_factory=dict)
    finished: queue.SimpleQueue[tuple[Request, Any] | None] = field(default_factory=queue.SimpleQueue)
    engine: Engine | None = None


class Engine:
    """One vLLM engine, stepped by a thread of its own, which alone touches it once it runs."""

    def __init__(self, model: Model, prompt: Prompt, sampling: Sampling, options: VllmOptions) -> None:
        self.chat = _chat(model, prompt)
        arguments = engine_arguments(model, len(self.chat.prefix), sampling, options)
        self.llm, children = _boot(model, arguments, options)
        self._guard = _Guard(children)
        self.max_model_len = int(self.llm.llm_engine.model_config.max_model_len)
        self.dead = False
        self.cause = ""
        self._inbox: queue.SimpleQueue[list[Request] | None] = queue.SimpleQueue()
        self._state = threading.Lock()
        self._open: dict[str, Request] = {}
        self._first, self._again = _sampling_params(sampling)
        self._warm()
        self._thread = threading.Thread(target=self._run, name="vllm", daemon=True)
        self._thread.start()

    def submit(self, requests: list[Request]) -> None:
        """Hand prompts over; batches get ``(request, output)`` in ``finished``, or ``None`` once dead."""
        with self._state:
            if not self.dead:
                self._inbox.put(requests)
                return
        for batch in {id(r.batch): r.batch for r in requests}.values():
            batch.finished.put(None)

    def close(self) -> None:
        """End the engine's process and the thread."""
        self._inbox.put(None)
        self._thread.join(timeout=30)
        self._guard.release()
        self.llm.llm_engine.engine_core.shutdown()

    def _warm(self) -> None:
        """Put the prompt's fixed part into the prefix cache before many requests want it at once."""
        from vllm import SamplingParams

        self.llm.generate(
            [{"prompt_token_ids": self.chat.questions(["a"])[0]}],
            SamplingParams(temperature=0.0, max_tokens=1),
            use_tqdm=False,
        )

    def _run(self) -> None:
        engine = self.llm.llm_engine
        numbers = itertools.count()
        try:
            while True:
                while not self._inbox.empty() or not self._open:
                    requests = self._inbox.get()
                    if requests is None:
                        return
                    for request in requests:
                        self._add(engine, f"q{next(numbers)}", request)
                for output in engine.step():
                    if output.finished:
                        request = self._open.pop(output.request_id)
                        request.batch.finished.put((request, output))
        except (
            Exception
        ) as error:  # whatever it is, this engine answers no more; the stage decides what follows
            self._die(error)

    def _add(self, engine: Any, number: str, request: Request) -> None:
        from vllm.inputs import tokens_input

        self._open[number] = request
        engine.add_request(number, tokens_input(request.ids), self._again if request.retry else self._first)

    def _die(self, error: Exception) -> None:
        batches = {id(r.batch): r.batch for r in self._open.values()}
        with self._state:
            self.dead = True
            self.cause = f"{type(error).__name__}: {error}".split("\n", 1)[0]
            while not self._inbox.empty():
                for request in self._inbox.get() or []:
                    batches[id(request.batch)] = request.batch
        for batch in batches.values():
            batch.finished.put(None)


def engine_arguments(
    model: Model, prefix_tokens: int, sampling: Sampling, options: VllmOptions
) -> dict[str, Any]:
    """The arguments of ``vllm.LLM`` for this model and prompt, every limit explicit.

    On GPUs 1,024 sequences and 16,384 tokens a step, which keeps a GPU of 70 GB and more busy; on a CPU
    128 and 4,096. Raises PrepError for a ``max_model_len`` without room for an expression.
    """
    import torch

    gpu = torch.cuda.is_available()
    needed = prefix_tokens + sampling.max_tokens
    length = options.max_model_len or -(-(needed + EXPRESSION_TOKENS) // 64) * 64
    if length < needed + 16:
        raise PrepError(
            f"--max-model-len {length} leaves no room: the prompt has {prefix_tokens} tokens, an answer "
            f"up to {sampling.max_tokens}.",
            f"Give at least {needed + EXPRESSION_TOKENS}, or leave it out.",
        )
    local = os.path.isdir(model.source)
    return {
        "model": model.source,
        "revision": None if local else model.commit,
        "tokenizer_revision": None if local else model.commit,
        "tokenizer_mode": "hf",
        "tensor_parallel_size": options.tensor_parallel,
        # Inside a Ray actor vLLM would otherwise ask Ray for a second placement of its own.
        "distributed_executor_backend": "mp" if options.tensor_parallel > 1 else None,
        "quantization": options.quantization,
        "dtype": options.dtype,
        "load_format": options.load_format,
        "seed": sampling.seed,
        "max_model_len": length,
        "max_num_seqs": options.max_num_seqs or (1024 if gpu else 128),
        "max_num_batched_tokens": max(options.max_num_batched_tokens or (16384 if gpu else 4096), 512),
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "enable_prefix_caching": options.prefix_caching,
        "enforce_eager": not gpu,
        "block_size": None if gpu else BLOCK,
        "disable_log_stats": True,
        **dict(options.extra),
    }


def _environment(options: VllmOptions) -> None:
    """What vLLM reads from the environment; what the user has set stays."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; only read on a CPU
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if options.batch_invariant:
        os.environ["VLLM_BATCH_INVARIANT"] = "1"


def _boot(model: Model, arguments: dict[str, Any], options: VllmOptions) -> tuple[Any, list[int]]:
    """A running ``vllm.LLM`` and the process ids it started."""
    import multiprocessing

    _environment(options)
    try:
        from vllm import LLM
    except ImportError as error:
        raise PrepError(
            f"vLLM is not installed ({error}).",
            f"pip install 'pcnet-prep[vllm]' on a machine with NVIDIA GPUs; {NO_MODEL_NEEDED}",
        ) from error
    before = {child.pid for child in multiprocessing.active_children()}
    try:
        llm = LLM(**arguments)
    except Exception as error:
        raise PrepError(
            f"vLLM cannot load {model.source}: {_first_line(error)}",
            f"The log above says why (memory, a gated download, an unknown architecture). {NO_MODEL_NEEDED}",
        ) from error
    children = [c.pid for c in multiprocessing.active_children() if c.pid and c.pid not in before]
    return llm, children


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.split("\n", 1)[0][:300]


def _chat(model: Model, prompt: Prompt) -> ChatTokens:
    """The model's tokenizer and chat template, applied to the prompt."""
    try:
        from transformers import AutoTokenizer

        local = os.path.isdir(model.source)
        tokenizer = AutoTokenizer.from_pretrained(model.source, revision=None if local else model.commit)
        return ChatTokens(tokenizer, prompt)
    except Exception as error:  # as many kinds as there are ways for a tokenizer to be missing or broken
        raise PrepError(
            f"The tokenizer of {model.source} cannot be used: {_first_line(error)}",
            f"The model needs tokenizer.json and a chat template for user and assistant. {NO_MODEL_NEEDED}",
        ) from error


def _sampling_params(sampling: Sampling) -> tuple[Any, Any]:
    """The parameters of first questions and of retries, the latter held to the answer's JSON schema."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    common = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed if sampling.temperature > 0 else None,
        "max_tokens": sampling.max_tokens,
        # Answers are decoded in bulk when they are whole; the engine's thread has better things to do.
        "detokenize": False,
        "output_kind": RequestOutputKind.FINAL_ONLY,
    }
    schema = StructuredOutputsParams(json=ANSWER_SCHEMA, disable_any_whitespace=True)
    return SamplingParams(**common), SamplingParams(**common, structured_outputs=schema)


class _Guard:
    """Ends the engine's processes if this one dies without a word, so that no orphan holds a GPU's memory.

    A shell waits on a pipe whose other end only this process has; when the pipe closes it kills the ids
    it knows.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._shell: subprocess.Popen[bytes] | None = None
        if pids:
            script = 'read -r _; kill -9 "$@" 2>/dev/null'
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", script, "guard", *map(str, pids)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def release(self) -> None:
        """Stand down: the processes are ended in the ordinary way."""
        if self._shell is not None:
            self._shell.send_signal(signal.SIGKILL)
            self._shell.wait()
            if self._shell.stdin is not None:
                self._shell.stdin.close()
            self._shell = None

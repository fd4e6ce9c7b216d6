"""Starts vLLM: its options and arguments, the model's tokenizer, and cleanup of its child processes."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prep.errors import PrepError
from prep.phrases.engines.base import Sampling
from prep.phrases.engines.chat import BLOCK, ChatTokens
from prep.phrases.models import NO_MODEL_NEEDED, Model
from prep.phrases.prompt import Prompt
from prep.phrases.tasks import Task

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from vllm import LLM

# Tokens reserved after the fixed prompt, for an expression, its first answer and what is wrong with it, if
# --max-model-len is not given.
EXPRESSION_TOKENS = 448


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """Engine options; batch limits of ``None`` depend on the device (:func:`engine_arguments`).

    ``max_model_len`` 0 is as long as the prompt, an expression and an answer need. ``dtype`` ``auto`` is the
    model's own. ``retry`` enables retries of failing answers; ``extra`` holds further arguments of
    ``vllm.LLM``, for benchmarks. :meth:`settings` returns what changes the answers; nothing else enters the
    content key.
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
    extra: tuple[tuple[str, object], ...] = ()

    def settings(self) -> dict[str, object]:
        """The options that change answers."""
        return {
            "quantization": self.quantization,
            "dtype": None if self.dtype == "auto" else self.dtype,
            "batch_invariant": self.batch_invariant,
            "no_retry": not self.retry,
        }


def engine_arguments(
    model: Model, prefix_tokens: int, sampling: Sampling, options: VllmOptions
) -> dict[str, object]:
    """The arguments of ``vllm.LLM`` for this model and prompt, every limit explicit.

    On GPUs 1,024 sequences and 16,384 tokens per step, enough to keep a GPU of 70 GB or more busy; on a CPU
    128 and 4,096. Raises PrepError for a ``max_model_len`` too small for an expression.
    """
    import torch

    gpu = torch.cuda.is_available()
    needed = prefix_tokens + sampling.max_tokens
    length = options.max_model_len or -(-(needed + EXPRESSION_TOKENS) // 64) * 64
    if length < needed + 16:
        raise PrepError(
            f"--max-model-len {length} leaves no room: the prompt has {prefix_tokens} tokens, an answer up "
            f"to {sampling.max_tokens}.",
            f"Give at least {needed + EXPRESSION_TOKENS}, or omit the option.",
        )
    local = os.path.isdir(model.source)
    arguments = {
        "model": model.source,
        "revision": None if local else model.commit,
        "tokenizer_revision": None if local else model.commit,
        "tokenizer_mode": "hf",
        "trust_remote_code": False,
        "tensor_parallel_size": options.tensor_parallel,
        # Inside a Ray actor, vLLM would otherwise request another placement group from Ray.
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
    return {name: value for name, value in arguments.items() if value is not None}


def _environment(options: VllmOptions) -> None:
    """The environment variables that vLLM reads; those set by the user are kept."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB; only used on a CPU
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if options.batch_invariant:
        os.environ["VLLM_BATCH_INVARIANT"] = "1"


def boot(
    model: Model, arguments: dict[str, object], options: VllmOptions, guard: Guard, log: Path | None = None
) -> tuple[LLM, list[BaseProcess]]:
    """Create a ``vllm.LLM``; ``guard`` covers the processes it starts from the beginning.

    ``log`` is where its output goes, for the error.
    """
    import multiprocessing

    _environment(options)
    try:
        from vllm import LLM
    except ImportError as error:
        raise PrepError(
            f"vLLM is not installed ({error}).",
            f"Run pip install 'pcnet-prep[vllm]' on a machine with NVIDIA GPUs. {NO_MODEL_NEEDED}",
        ) from error
    booted = threading.Event()
    before = {child.pid for child in multiprocessing.active_children()}

    def cover() -> list[BaseProcess]:
        children = [child for child in multiprocessing.active_children() if child.pid not in before]
        guard.cover(child.pid for child in children if child.pid)
        return children

    def cover_while_booting() -> None:
        while not booted.wait(0.2):
            cover()

    threading.Thread(target=cover_while_booting, name="vllm boot", daemon=True).start()
    try:
        llm = LLM(**arguments)
    except Exception as error:
        guard.release()
        raise PrepError(
            f"vLLM cannot load {model.source}: {_first_line(error).rstrip('.')}.",
            f"See {'the log above' if log is None else log} for the cause (memory, a gated download, an "
            f"unknown architecture). {NO_MODEL_NEEDED}",
        ) from error
    finally:
        booted.set()
    return llm, cover()


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.split("\n", 1)[0][:300]


def load_chat(model: Model, prompt: Prompt, task: Task) -> ChatTokens:
    """The model's tokenizer and chat template, applied to the prompt."""
    try:
        from transformers import AutoTokenizer

        local = os.path.isdir(model.source)
        tokenizer = AutoTokenizer.from_pretrained(
            model.source, revision=None if local else model.commit, trust_remote_code=False
        )
        return ChatTokens(tokenizer, prompt, model.template, task)
    except PrepError as error:
        raise PrepError(f"{model.name}: {error.message}", error.remedy) from error
    except Exception as error:  # a missing or broken tokenizer raises many different errors
        raise PrepError(
            f"The tokenizer of {model.source} cannot be loaded: {_first_line(error).rstrip('.')}.",
            f"Use a model with tokenizer.json and a chat template for user and assistant. {NO_MODEL_NEEDED}",
        ) from error


class Guard:
    """Kills the engine's processes if this process dies, so that no orphan holds GPU memory.

    A shell reads process IDs from a pipe whose write end only this process holds, and kills them all when the
    pipe closes.
    """

    def __init__(self) -> None:
        script = 'while read -r pid; do all="$all $pid"; done; [ -z "$all" ] || kill -9 $all 2>/dev/null'
        self._known: set[int] = set()
        self._lock = threading.Lock()
        self._shell: subprocess.Popen[bytes] | None = subprocess.Popen(
            ["/bin/sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def cover(self, pids: Iterable[int]) -> None:
        """Add processes to guard."""
        with self._lock:
            for pid in pids:
                if self._shell is not None and self._shell.stdin is not None and pid not in self._known:
                    self._known.add(pid)
                    self._shell.stdin.write(f"{pid}\n".encode())
                    self._shell.stdin.flush()

    def release(self) -> None:
        """Stop guarding: the processes are stopped in the normal way."""
        with self._lock:
            if self._shell is not None:
                self._shell.kill()
                self._shell.communicate()
                self._shell = None

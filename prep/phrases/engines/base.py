"""Defines the interface of the engines: sampling settings, an answer per key, the table of a unit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import NamedTuple

import pyarrow as pa

from prep.cache.keys import canonical_json
from prep.phrases.prompt import Prompt
from prep.phrases.tasks import PHRASES, Task

# One row per key. An error is not an answer: it is reported in the rows concerned and retried in the next
# run.
ANSWERS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("first", pa.string()),
        pa.field("retry", pa.string()),
        pa.field("finish", pa.string()),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("cached_tokens", pa.int32(), nullable=False),
        pa.field("output_tokens", pa.int32(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
    ]
)

# The metadata key of a unit that counts crashes of the engine process.
DEATHS = "deaths"

MAX_QUOTED_ANSWER = 400


class Question(NamedTuple):
    """An expression to decompose: its content key and its normalised text."""

    key: str
    text: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters: greedy at ``temperature`` 0. ``max_tokens`` bounds one answer."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    max_tokens: int = 96


@dataclass(slots=True)
class Answer:
    """An engine's result for one question: the first answer, the retry's if any, the cost."""

    question: Question
    first: str | None = None
    retry: str | None = None
    finish: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None


def answer_settings(
    model: dict[str, str],
    prompt: Prompt,
    sampling: Sampling,
    *,
    task: Task = PHRASES,
    schema: dict[str, object] | None = None,
    **engine: object,
) -> dict[str, object]:
    """Everything that an answer depends on except the expression; its fingerprint begins every content key.

    ``schema`` constrains the retry (None: the task's ``answer_schema``); ``engine`` holds what changes the
    model's numerics (quantization, batch invariance, a data type other than the model's own); values that are
    ``None`` or ``False`` are left out, so that a new option does not change old keys.
    """
    turn = [*task.wording, task.answer_schema if schema is None else schema]
    retry = hashlib.sha256(canonical_json(turn).encode()).hexdigest()
    drawn = asdict(sampling)
    if sampling.temperature == 0:
        drawn = {"temperature": 0.0, "max_tokens": sampling.max_tokens}
    return {
        **model,
        "prompt_version": prompt.version,
        "prompt_sha256": prompt.sha256,
        "retry_sha256": retry,
        "sampling": drawn,
        **({} if task.name == PHRASES.name else {"task": task.name}),
        **{name: value for name, value in engine.items() if value},
    }


def whole_lines(raw: str, finish: str | None) -> str:
    """``raw`` without its last line if the token limit truncated that line."""
    if finish == "length" and "\n" in raw.strip():
        return raw.rstrip("\n").rsplit("\n", 1)[0]
    return raw


def quoted_answer(raw: str) -> str:
    """The first answer as repeated in the retry's conversation: bounded, never empty."""
    return raw.strip()[:MAX_QUOTED_ANSWER].strip() or "-"


def answers_table(answers: Iterable[Answer], *, deaths: int = 0) -> pa.Table:
    """A unit's answers in the columns of :data:`ANSWERS`.

    ``deaths``, crashes of the engine process during the unit, are stored in the table's metadata.
    """
    rows = [
        {
            "key": a.question.key,
            "text": a.question.text,
            "first": a.first,
            "retry": a.retry,
            "finish": a.finish,
            "prompt_tokens": a.prompt_tokens,
            "cached_tokens": a.cached_tokens,
            "output_tokens": a.output_tokens,
            "status": "error" if a.error else "ok",
            "error": a.error,
        }
        for a in answers
    ]
    return pa.Table.from_pylist(rows, schema=ANSWERS.with_metadata({DEATHS: str(deaths)}))

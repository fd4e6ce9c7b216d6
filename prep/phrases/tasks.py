"""Defines what a model is asked for: phrases, or an entity and its relations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from prep.phrases import fallback, prompt, reasons, triplet_reasons, triplets
from prep.records import PhraseSet, TripletSet

if TYPE_CHECKING:
    import pyarrow as pa

Result: TypeAlias = PhraseSet | TripletSet

_PHRASES_OBJECT: dict[str, object] = {
    "type": "object",
    "properties": {"phrases": {"type": "array", "items": {"type": "string"}}},
    "required": ["phrases"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of question, and how its answers are judged and stored.

    ``name`` is also that of the table. ``prompt`` is the default prompt file; ``max_tokens`` bounds an
    answer. A retry is constrained by ``answer_schema``, at an endpoint by ``object_schema``, whose root is an
    object; its turn is ``second_turn(text, raw)``, made of ``wording``. ``settle(text, raws)`` makes the
    result from the answers, and ``columns`` the task's own columns of a row from the result (None: an error).
    """

    name: str
    prompt: Path
    max_tokens: int
    answer_schema: dict[str, object]
    object_schema: dict[str, object]
    wording: tuple[object, ...]
    needs_retry: Callable[[str, str], bool]
    second_turn: Callable[[str, str], str]
    settle: Callable[[str, Sequence[str]], Result]
    columns: Callable[[Any], dict[str, object]]

    @property
    def schema(self) -> pa.Schema:
        """The columns of the task's table."""
        from prep.cache.schema import STAGES

        return STAGES[self.name][0]


def _phrases_columns(found: PhraseSet | None) -> dict[str, object]:
    return {"phrases": [] if found is None else list(found.phrases)}


def _triplets_columns(found: TripletSet | None) -> dict[str, object]:
    if found is None:
        return {"entity": None, "relations": []}
    names = ("subject", "predicate", "object")
    return {
        "entity": found.entity,
        "relations": [dict(zip(names, relation, strict=True)) for relation in found.relations],
    }


PHRASES = Task(
    "phrases",
    prompt.DEFAULT,
    96,
    prompt.ANSWER_SCHEMA,
    _PHRASES_OBJECT,
    (reasons.HEAD, reasons.FAULTS, reasons.TAIL),
    fallback.needs_retry,
    reasons.second_turn,
    fallback.settle,
    _phrases_columns,
)
TRIPLETS = Task(
    "triplets",
    prompt.DEFAULT.with_name("triplets.txt"),
    192,
    triplets.ANSWER_SCHEMA,
    triplets.OBJECT_SCHEMA,
    (triplet_reasons.HEAD, triplet_reasons.FAULTS, triplet_reasons.TAIL),
    triplets.needs_retry,
    triplet_reasons.second_turn,
    triplets.settle,
    _triplets_columns,
)
TASKS = {task.name: task for task in (PHRASES, TRIPLETS)}

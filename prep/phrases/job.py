"""Runs the phrases job: sends each distinct expression to the model once and writes every row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Unpack

import pyarrow as pa

from prep.cache.answers import AnswerCache
from prep.cache.keys import answer_key, canonical_json, fingerprint, normalise_text
from prep.cache.keyset import KeySet
from prep.engine.local import Engine
from prep.engine.runner import Summary, Work, run_stage
from prep.errors import PrepError
from prep.phrases.engines.base import ANSWERS, DEATHS, Question
from prep.phrases.fallback import unusable
from prep.phrases.report import Clock, Report
from prep.phrases.stage import row
from prep.records import Expression
from prep.stage import Stage

if TYPE_CHECKING:
    from prep.cache.writer import StageWriter
    from prep.engine.runner import RunOptions
    from prep.phrases.models import Model
    from prep.phrases.prompt import Prompt
    from prep.phrases.tasks import Result, Task

# Expressions looked up per block.
BLOCK = 4096
# Results of recent answers to keep, for expressions that repeat.
REMEMBERED = 1 << 16
# The folder of a cache that holds the engines' answers.
ANSWER_STAGE = "answers"


class AnswerStage(Stage, Protocol):
    """A stage that answers :class:`Question` items with rows of ``engines.base.ANSWERS``."""

    model: Model
    prompt: Prompt
    task: Task

    @property
    def unit_size(self) -> int:
        """The preferred number of questions per unit."""

    def settings(self) -> dict[str, object]:
        """Everything an answer depends on except the expression."""

    def close(self) -> None:
        """Free what ``open`` allocated."""


def run_llm(
    expressions: Iterable[Expression],
    *,
    engine: Engine[AnswerStage],
    writer: StageWriter,
    cache: str | Path,
    unit_size: int | None = None,
    keep_raw: bool = False,
    **options: Unpack[RunOptions],
) -> Summary:
    """Write every expression's row to the store, using the answers of a model.

    ``writer`` has the settings ``engine.stage.settings()``; ``cache`` is the location of the answer cache,
    which other stores and runs may share. Expressions that are equal after normalisation are sent once; the
    first committed answer of a key is kept. Answers are committed before the rows made of them, so a killed
    run never repeats a committed request. Memory does not grow with ``expressions``. ``options`` and signals
    are those of :func:`prep.engine.runner.run_stage`. ``summary.extra["report"]``, also stored in the
    manifest, holds the figures of :class:`prep.phrases.report.Report`.
    """
    return run_stage(
        engine,
        expressions,
        key=lambda expression: expression.row_id,
        writer=writer,
        unit_size=unit_size or engine.stage.unit_size,
        work=_Answers(engine.stage, cache, keep_raw),
        **options,
    )


class _Answers(Work):
    """Sends one question for all expressions with the same answer key, and makes their rows from the answer.

    The answer cache is opened at the first look-up.
    """

    block = BLOCK

    def __init__(self, stage: AnswerStage, cache: str | Path, keep_raw: bool) -> None:
        self._stage, self._where, self._keep_raw = stage, cache, keep_raw
        self._fingerprint = fingerprint(stage.settings())
        self._waiting: dict[str, list[Expression]] = {}
        self._keys = KeySet()
        self._settled: dict[str, Result] = {}
        self._counts, self._clock = Report(), Clock("read")

    @cached_property
    def _cache(self) -> AnswerCache:
        # Answers are committed unit by unit, before the rows made of them.
        return AnswerCache(self._where, ANSWER_STAGE, self._fingerprint, ANSWERS, commit_seconds=0.0)

    def requests(self, items: list[Expression]) -> tuple[list[Question], pa.Table | None]:
        """The new questions, and the rows that have a cached answer or an error."""
        fresh: list[tuple[Expression, str]] = []
        rows: list[dict[str, object]] = []
        for expression in items:
            key = answer_key(self._fingerprint, expression.text)
            reason = expression.problem or unusable(expression.text)
            if reason:
                rows.append(self._row(expression, key, None, error=reason))
            else:
                fresh.append((expression, key))
        new_keys = len(self._keys)
        self._keys.add(key for _, key in fresh)
        self._counts.repeats += len(fresh) - (len(self._keys) - new_keys)
        known = self._cache.get_many(list({key for _, key in fresh if key not in self._waiting}))
        questions = []
        for expression, key in fresh:
            if key in self._waiting:
                self._waiting[key].append(expression)
                self._counts.reused += 1
            elif key in known:
                rows.append(self._row(expression, key, known[key]))
                self._counts.reused += 1
            else:
                self._waiting[key] = [expression]
                questions.append(Question(key, normalise_text(expression.text)))
        return questions, pa.Table.from_pylist(rows, schema=self._stage.task.schema) if rows else None

    def rows(self, unit: list[Question], results: pa.Table) -> pa.Table:
        """Commit a unit's answers; the rows that waited for them."""
        self.step("commit answers")
        columns = results.to_pydict()
        self._counts.add_answers(columns, int((results.schema.metadata or {}).get(DEATHS.encode(), b"0")))
        self._cache.put(results)
        answers = self._cache.get_many(columns["key"])
        self.step("settle")
        rows = []
        for number, key in enumerate(columns["key"]):
            answer = answers.get(key) or {name: values[number] for name, values in columns.items()}
            rows += [self._row(e, key, answer) for e in self._waiting.pop(key, ())]
        return pa.Table.from_pylist(rows, schema=self._stage.task.schema)

    def written(self, unit: list[Question]) -> None:
        missing = [question.key for question in unit if question.key in self._waiting]
        if missing:
            raise PrepError(f"The engine left {len(missing)} of {len(unit)} questions without an answer row.")

    def step(self, name: str) -> None:
        self._clock.to(name)

    def report(self) -> dict[str, object]:
        return self._counts.figures(self._clock)

    def _row(
        self, expression: Expression, key: str, answer: Mapping[str, object] | None, error: str = ""
    ) -> dict[str, object]:
        """One expression's row: from an answer, or with the reason for the error."""
        found = None if answer is None else self._settle(key, expression.text, answer)
        self._counts.add_row(None if error else found)
        raw = canonical_json([answer["first"], answer["retry"]]) if self._keep_raw and answer else None
        return row(
            expression,
            self._stage.task,
            found,
            llm=self._stage.model.name,
            prompt_version=self._stage.prompt.version,
            key=key,
            error=error,
            raw=raw,
        )

    def _settle(self, key: str, text: str, answer: Mapping[str, Any]) -> Result:
        """What an answer says; a request that the engine rejected counts as a rejected level."""
        known = self._settled.get(key)
        if known is None:
            raws = [raw for raw in (answer["first"], answer["retry"]) if raw is not None]
            known = self._stage.task.settle(normalise_text(text), raws)
            if answer["error"]:
                refused = ("llm", (answer["error"].split(":", 1)[0],))
                known = replace(known, rejected=(refused, *known.rejected))
            if len(self._settled) >= REMEMBERED:
                self._settled.clear()
            self._settled[key] = known
        return known

"""Runs the phrases job: sends each distinct expression to the model once and writes every row."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from prep.cache.answers import AnswerCache
from prep.cache.keys import answer_key, canonical_json, fingerprint, normalise_text
from prep.cache.keyset import KeySet
from prep.cache.schema import PHRASES
from prep.engine.local import Engine
from prep.engine.progress import progress
from prep.engine.runner import Summary
from prep.engine.signals import Stop, interrupted, stoppable
from prep.errors import PrepError
from prep.phrases.engines.base import ANSWERS, DEATHS, Question
from prep.phrases.fallback import settle, unusable
from prep.phrases.report import Clock, Report
from prep.phrases.stage import row
from prep.records import Expression, PhraseSet
from prep.stage import Stage

if TYPE_CHECKING:
    from prep.cache.writer import StageWriter
    from prep.phrases.models import Model
    from prep.phrases.prompt import Prompt

# Expressions looked up per block.
BLOCK = 4096
# Phrase sets of recent answers to keep, for expressions that repeat.
REMEMBERED = 1 << 16
# The folder of a cache that holds the engines' answers.
ANSWER_STAGE = "answers"


class AnswerStage(Stage, Protocol):
    """A stage that answers :class:`Question` items with rows of ``engines.base.ANSWERS``."""

    model: Model
    prompt: Prompt

    @property
    def unit_size(self) -> int:
        """The preferred number of questions per unit."""

    def settings(self) -> dict[str, Any]:
        """Everything an answer depends on except the expression."""

    def close(self) -> None:
        """Free what ``open`` allocated."""


def run_llm(
    expressions: Iterable[Expression],
    *,
    stage: AnswerStage,
    writer: StageWriter,
    cache: str | Path,
    workers: int = 1,
    ray_address: str | None = None,
    engine: Engine | None = None,
    unit_size: int | None = None,
    keep_raw: bool = False,
    label: str = "phrases",
    total: int | None = None,
    selection: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Summary:
    """Write every expression's row to the store, using the answers of a model.

    ``writer`` has the settings ``stage.settings()``; ``cache`` is the location of the answer cache, which
    other stores and runs may share. Expressions that are equal after normalisation are sent once; the first
    committed answer of a key is kept. Answers are committed before the rows made of them, so a killed run
    never repeats a committed request. Memory does not grow with ``expressions``. ``selection``,
    ``arguments``, ``engine`` and signals work as in :func:`prep.engine.runner.prepare`.
    ``summary.extra["report"]``, also stored in the manifest, holds the figures of
    :class:`prep.phrases.report.Report`. The engine is not started if there is no question to send, and is
    left open: the caller closes it.
    """
    summary = Summary(stage=writer.stage.name, where=writer.uri)
    started = time.monotonic()
    if selection is not None and writer.finished(selection):
        summary.total = summary.reused = writer.manifest.finished_rows(selection) or 0
        return summary
    own = Engine(stage, workers=workers, ray_address=ray_address)
    engine = engine or own
    with own, stoppable() as stop, progress(label, total) as bar:
        size = unit_size or stage.unit_size
        job = _Job(expressions, stage, writer, cache, size, keep_raw, summary, stop, bar)
        try:
            job.ask(engine)
            with stop.later():
                summary.close(job.seen, job.done_before, time.monotonic() - started)
                report = job.report.figures(job.clock)
                summary.extra["report"] = report
                figures = {**summary.figures(), "workers": engine.workers, "report": report}
                writer.record_run({**figures, "arguments": dict(arguments or {})})
                writer.flush()
                if selection is not None:
                    writer.finish(selection, summary.total)
        except Stop as signalled:
            stop.ignore()
            writer.flush()
            raise interrupted(signalled.signum, summary.so_far) from None
    return summary


class _Job:
    """One run: looks expressions up, sends the new ones to the model, writes their rows."""

    def __init__(
        self,
        expressions: Iterable[Expression],
        stage: AnswerStage,
        writer: StageWriter,
        cache: str | Path,
        unit_size: int,
        keep_raw: bool,
        summary: Summary,
        stop: Any,
        bar: Any,
    ) -> None:
        self.expressions = iter(expressions)
        self.stage, self.writer, self.unit_size, self.keep_raw = stage, writer, unit_size, keep_raw
        self.summary, self.stop, self.bar = summary, stop, bar
        self.fingerprint = fingerprint(stage.settings())
        # Answers are committed unit by unit, before the rows made of them.
        self.cache = AnswerCache(cache, ANSWER_STAGE, self.fingerprint, ANSWERS, commit_seconds=0.0)
        self.waiting: dict[str, list[Expression]] = {}
        self.claimed: set[str] = set()
        self.keys = KeySet()
        self.settled: dict[str, PhraseSet] = {}
        self.seen = self.done_before = 0
        self.report, self.clock = Report(), Clock("read")

    def ask(self, engine: Engine) -> None:
        """Run everything. No engine is opened if there is no question."""
        results = engine.run(self.units())
        with contextlib.closing(results):
            for unit, table in results:
                self.answered(unit, table)
                self.clock.to("engine")

    def units(self) -> Iterator[list[Question]]:
        """Yield units of questions; write the rows of cached answers along the way."""
        questions: list[Question] = []
        while True:
            self.clock.to("read")
            block = list(itertools.islice(self.expressions, BLOCK))
            if not block:
                break
            self.clock.to("look up")
            questions += self.look_up(block)
            while len(questions) >= self.unit_size:
                unit, questions = questions[: self.unit_size], questions[self.unit_size :]
                self.clock.to("engine")
                yield unit
        if questions:
            self.clock.to("engine")
            yield questions
        self.clock.to("engine")

    def look_up(self, block: list[Expression]) -> list[Question]:
        """Sort a block into finished rows, rows that can be written now, and new questions."""
        self.seen += len(block)
        done = self.writer.done.contains([expression.row_id for expression in block])
        fresh: list[tuple[Expression, str]] = []
        rows: list[dict[str, Any]] = []
        for expression, is_done in zip(block, done.tolist(), strict=True):
            if is_done or expression.row_id in self.claimed:
                self.done_before += 1
                continue
            self.claimed.add(expression.row_id)
            key = answer_key(self.fingerprint, expression.text)
            reason = expression.problem or unusable(expression.text)
            if reason:
                rows.append(self.row(expression, key, None, error=reason))
            else:
                fresh.append((expression, key))
        new_keys = len(self.keys)
        self.keys.add(key for _, key in fresh)
        self.report.repeats += len(fresh) - (len(self.keys) - new_keys)
        known = self.cache.get_many(list({key for _, key in fresh if key not in self.waiting}))
        questions = []
        for expression, key in fresh:
            if key in self.waiting:
                self.waiting[key].append(expression)
                self.report.reused += 1
            elif key in known:
                rows.append(self.row(expression, key, known[key]))
                self.report.reused += 1
            else:
                self.waiting[key] = [expression]
                questions.append(Question(key, normalise_text(expression.text)))
        with self.stop.later():
            self.write(rows)
        return questions

    def answered(self, unit: list[Question], table: Any) -> None:
        """Commit a unit's answers, then write the rows that waited for them."""
        self.clock.to("commit answers")
        columns = table.to_pydict()
        self.report.add_answers(columns, int((table.schema.metadata or {}).get(DEATHS.encode(), b"0")))
        with self.stop.later():
            self.cache.put(table)
            answers = self.cache.get_many(columns["key"])
            self.clock.to("settle")
            rows = []
            for number, key in enumerate(columns["key"]):
                answer = answers.get(key) or {name: values[number] for name, values in columns.items()}
                rows += [self.row(e, key, answer) for e in self.waiting.pop(key, ())]
            self.write(rows)
        missing = [question.key for question in unit if question.key in self.waiting]
        if missing:
            raise PrepError(f"The engine left {len(missing)} of {len(unit)} questions without an answer row.")

    def row(
        self, expression: Expression, key: str, answer: Mapping[str, Any] | None, error: str = ""
    ) -> dict[str, Any]:
        """One expression's row: from an answer, or with the reason for the error."""
        phrase_set = None if answer is None else self.settle(key, expression.text, answer)
        self.report.add_row(None if error else phrase_set)
        raw = None
        if self.keep_raw and answer is not None:
            raw = canonical_json([answer["first"], answer["retry"]])
        return row(
            expression,
            phrase_set,
            llm=self.stage.model.name,
            prompt_version=self.stage.prompt.version,
            key=key,
            error=error,
            raw=raw,
        )

    def settle(self, key: str, text: str, answer: Mapping[str, Any]) -> PhraseSet:
        """The phrases of an answer; a request that the engine rejected counts as a rejected level."""
        known = self.settled.get(key)
        if known is None:
            raws = [raw for raw in (answer["first"], answer["retry"]) if raw is not None]
            known = settle(normalise_text(text), raws)
            if answer["error"]:
                refused = ("llm", (answer["error"].split(":", 1)[0],))
                known = PhraseSet(known.phrases, known.source, known.violations, (refused, *known.rejected))
            if len(self.settled) >= REMEMBERED:
                self.settled.clear()
            self.settled[key] = known
        return known

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Write finished rows."""
        import pyarrow as pa

        if not rows:
            return
        self.clock.to("write")
        table = pa.Table.from_pylist(rows, schema=PHRASES)
        self.writer.write(table)
        self.claimed.difference_update(entry["row_id"] for entry in rows)
        self.summary.count(table)
        self.bar.update(done=self.summary.done, reused=self.done_before)

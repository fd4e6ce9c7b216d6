"""The rules as a stage: takes expressions, returns rows of the phrases or triplets table."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from prep.cache.keys import answer_key, fingerprint
from prep.phrases.fallback import unusable
from prep.phrases.rules.decompose import RULES_VERSION
from prep.phrases.tasks import PHRASES, Result, Task
from prep.records import Expression
from prep.stage import Resources

if TYPE_CHECKING:
    import pyarrow as pa

LLM = "rules"
# Expressions repeat (28% of RefCOCO's); results are cached for up to this many texts.
_REMEMBERED = 1 << 16


def rules_settings() -> dict[str, str]:
    """What the phrases of the rules depend on besides the text."""
    return {"llm": LLM, "version": RULES_VERSION}


def row(
    item: Expression,
    task: Task,
    found: Result | None,
    *,
    llm: str,
    prompt_version: str | None,
    key: str,
    error: str = "",
    raw: str | None = None,
) -> dict[str, object]:
    """One row of the task's table; with ``found`` None (or ``error``) its status is ``"error"``."""
    kept = None if error else found
    return {
        "row_id": item.row_id,
        "dataset": item.dataset,
        "split_by": item.split_by,
        "split": item.split,
        "ref_id": item.ref_id,
        "sent_id": item.sent_id,
        "image_id": item.image_id,
        "image": item.image,
        "expression": item.text,
        **task.columns(kept),
        "source": None if kept is None else kept.source,
        "llm": llm,
        "prompt_version": prompt_version,
        "key": key,
        "violations": [] if kept is None else list(kept.violations),
        "repairs": [] if kept is None else list(kept.repairs),
        "rejected": []
        if kept is None
        else [{"source": source, "violations": list(names)} for source, names in kept.rejected],
        "status": "error" if kept is None else "ok",
        "error": error or None,
        "raw": raw,
    }


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Disable the cyclic garbage collector during a unit: it creates many live objects and no cycles."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _table(rows: list[dict[str, object]], schema: pa.Schema) -> pa.Table:
    """Rows as a table, column by column, which is faster than row by row."""
    import pyarrow as pa

    return pa.Table.from_pydict({name: [one[name] for one in rows] for name in schema.names}, schema)


class RulesStage:
    """Answers a task with :mod:`prep.phrases.rules.decompose`; rows do not depend on units or workers.

    ``resources`` is what one worker occupies; the default is one core.
    """

    def __init__(self, resources: Resources | None = None, task: Task = PHRASES) -> None:
        self.task = task
        self.resources = resources or Resources()
        self._fingerprint = fingerprint(rules_settings())
        self._known: dict[str, tuple[Result | None, str, str]] = {}

    def open(self) -> None:
        """Nothing to load."""

    def load(self, unit: Sequence[Expression]) -> Sequence[Expression]:
        """Nothing to read."""
        return unit

    def process(self, loaded: Sequence[Expression]) -> pa.Table:
        """The unit's rows: phrases, or the reason for the error."""
        with _no_collection():  # the rows are freed before the next collection
            return _table([self._row(item) for item in loaded], self.task.schema)

    def _row(self, item: Expression) -> dict[str, object]:
        found, key, reason = self._settled(item.text)
        error = item.problem or reason
        return row(item, self.task, found, llm=LLM, prompt_version=None, key=key, error=error)

    def _settled(self, text: str) -> tuple[Result | None, str, str]:
        known = self._known.get(text)
        if known is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            found = self.task.settle(text, ())
            reason = unusable(text) if found.source == "expression" else ""
            known = (None if reason else found, answer_key(self._fingerprint, text), reason)
            self._known[text] = known
        return known

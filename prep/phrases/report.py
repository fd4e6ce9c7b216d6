"""Reports on a phrases run: valid answers per fallback level, repeats and engine cost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from prep.phrases.tasks import Result


class Clock:
    """Seconds per step of one thread's work: exactly one step is running at any time."""

    def __init__(self, step: str) -> None:
        self.seconds: Counter[str] = Counter()
        self._step, self._since = step, time.monotonic()

    def to(self, step: str) -> None:
        """End the running step and start ``step``."""
        now = time.monotonic()
        self.seconds[self._step] += now - self._since  # type: ignore[assignment]
        self._step, self._since = step, now


class AnswerColumns(TypedDict):
    """The columns of ``engines.base.ANSWERS`` that are counted."""

    key: list[str]
    retry: list[str | None]
    error: list[str | None]
    prompt_tokens: list[int]
    cached_tokens: list[int]
    output_tokens: list[int]


class Report:
    """Counts over a run's rows and answers; :meth:`figures` computes shares and rates."""

    def __init__(self) -> None:
        self.rows = self.repeats = self.reused = self.errors = 0
        self.tried: Counter[str] = Counter()
        self.valid: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self.failed: dict[str, Counter[str]] = {}
        self.repairs: Counter[str] = Counter()
        self.asked = self.retried = self.deaths = self.refused = 0
        self.refusal = ""
        self.tokens: Counter[str] = Counter()

    def add_row(self, found: Result | None, times: int = 1) -> None:
        """Add one row, or several equal ones, and the levels tried for it; ``None`` for an error row."""
        self.rows += times
        if found is None:
            self.errors += times
            return
        self.sources[found.source] += times
        for name in found.repairs:
            self.repairs[name] += times
        for source, names in (*found.rejected, (found.source, found.violations)):
            self.tried[source] += times * (source != "repaired")
            self.valid[source] += times * (not names)
            failed = self.failed.setdefault(source, Counter())
            for name in names:
                failed[name] += times
            if names and source in ("llm", "retry"):  # every answer that fails is a try to repair it
                self.tried["repaired"] += times
                self.failed.setdefault("repaired", Counter())

    def add_answers(self, columns: AnswerColumns, deaths: int = 0) -> None:
        """Add a unit's answers, as the columns of ``engines.base.ANSWERS``, and the engine's crashes."""
        self.deaths += deaths
        self.asked += len(columns["key"])
        self.retried += sum(raw is not None for raw in columns["retry"])
        refusals = [error for error in columns["error"] if error]
        self.refused += len(refusals)
        self.refusal = self.refusal or (refusals[0] if refusals else "")
        self.tokens["prompt_tokens"] += sum(columns["prompt_tokens"])
        self.tokens["cached_tokens"] += sum(columns["cached_tokens"])
        self.tokens["output_tokens"] += sum(columns["output_tokens"])

    def figures(self, clock: Clock) -> dict[str, object]:
        """The report as JSON values. Shares are of the rows for which the level was tried."""
        rungs = {
            source: {
                "tried": tried,
                "valid": self.valid[source],
                "share_valid": _ratio(self.valid[source], tried),
                "violations": {
                    name: _ratio(count, tried) for name, count in self.failed[source].most_common()
                },
            }
            for source, tried in self.tried.items()
        }
        waited = clock.seconds["engine"]
        tokens = self.tokens["prompt_tokens"] + self.tokens["output_tokens"]
        return {
            "sources": dict(self.sources),
            "rungs": rungs,
            "repairs": dict(self.repairs.most_common()),
            "repeats": {"found": self.repeats, "answers_reused": self.reused},
            "engine": {
                "asked": self.asked,
                "retried": self.retried,
                "deaths": self.deaths,
                **({"refused": self.refused, "first_refusal": self.refusal} if self.refused else {}),
                **dict(self.tokens),
                "expressions_per_second": _ratio(self.asked, waited),
                "tokens_per_second": _ratio(tokens, waited),
                "prefix_cache_hit_rate": _ratio(self.tokens["cached_tokens"], self.tokens["prompt_tokens"]),
            },
            "seconds": {step: round(seconds, 3) for step, seconds in clock.seconds.items()},
        }


def _ratio(part: float, whole: float) -> float:
    return round(part / whole, 4) if whole else 0.0


def lines(figures: Mapping[str, Any]) -> list[str]:
    """The figures of :meth:`Report.figures` as lines of text."""
    told = []
    for source, rung in figures.get("rungs", {}).items():
        worst = ", ".join(f"{name} {share:.2%}" for name, share in list(rung["violations"].items())[:5])
        told.append(
            f"{source}: tried for {rung['tried']:,}, valid {rung['share_valid']:.2%}"
            + (f" (rejected for {worst})" if worst else "")
        )
    if repairs := figures.get("repairs"):
        told.append("repairs: " + ", ".join(f"{name} {count:,}" for name, count in repairs.items()))
    if repeats := figures.get("repeats"):
        told.append(f"repeats: {repeats['found']:,} found, {repeats['answers_reused']:,} answers reused")
    engine = figures.get("engine", {})
    if engine.get("refused"):
        first = engine["first_refusal"].removeprefix("refused: ")[:300]
        told.append(f"refused: {engine['refused']:,} requests, the first with: {first}")
    if engine.get("asked"):
        told.append(
            f"engine: {engine['asked']:,} requests, {engine['retried']:,} retries, "
            f"{engine['expressions_per_second']:,.1f} expressions/s, {engine['tokens_per_second']:,.0f} "
            f"tokens/s, {engine['prefix_cache_hit_rate']:.1%} of prompt tokens from the prefix cache"
        )
    return told

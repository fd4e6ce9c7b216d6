"""Runs the phrases job without a model: writes every expression's row by rules, with validity statistics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Unpack

from prep.engine.local import Engine
from prep.engine.runner import Summary, Work, run_stage
from prep.phrases.report import Clock, Report
from prep.phrases.stage import RulesStage
from prep.records import Expression, PhraseSet

if TYPE_CHECKING:
    import pyarrow as pa

    from prep.cache.writer import StageWriter
    from prep.engine.runner import RunOptions
    from prep.stage import Stage

UNIT = 4096


def run_rules(
    expressions: Iterable[Expression],
    *,
    writer: StageWriter,
    engine: Engine[Stage] | None = None,
    **options: Unpack[RunOptions],
) -> Summary:
    """Write every expression's row by rules (``writer`` with ``stage.rules_settings()``).

    The summary's ``extra["report"]`` holds the figures of :class:`prep.phrases.report.Report`. ``engine``
    has a :class:`RulesStage` (default: in this process); ``options`` are those of
    :func:`prep.engine.runner.run_stage`.
    """
    return run_stage(
        engine or Engine(RulesStage()),
        expressions,
        key=lambda expression: expression.row_id,
        writer=writer,
        unit_size=UNIT,
        work=_Counted(),
        **options,
    )


class _Counted(Work):
    """Counts the levels that the rows of a run came from."""

    def __init__(self) -> None:
        self._counts = Report()

    def rows(self, unit: list[Expression], results: pa.Table) -> pa.Table:
        import pyarrow.compute as pc

        named = [pc.list_value_length(results[name]) for name in ("violations", "rejected")]
        faultless = pc.equal(pc.add(*named), 0)  # nearly all rows: counted without making objects of them
        for group in results["source"].filter(faultless).value_counts().to_pylist():
            source = group["values"]
            self._counts.add_row(None if source is None else PhraseSet((), source), group["counts"])
        others = results.select(["source", "violations", "rejected"]).filter(pc.invert(faultless))
        for source, violations, rejected in zip(*others.to_pydict().values(), strict=True):
            before = tuple((level["source"], tuple(level["violations"])) for level in rejected)
            phrase_set = None if source is None else PhraseSet((), source, tuple(violations), before)
            self._counts.add_row(phrase_set)
        return results

    def report(self) -> dict[str, object]:
        figures = self._counts.figures(Clock("rows"))
        return {name: figures[name] for name in ("sources", "rungs")}

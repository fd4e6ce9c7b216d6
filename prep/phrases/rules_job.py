"""Runs the phrases job without a model: writes every expression's row by rules, with validity statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from prep.engine.local import Engine
from prep.engine.runner import Summary, prepare
from prep.phrases.report import Clock, Report
from prep.phrases.stage import RulesStage
from prep.records import Expression, PhraseSet
from prep.stage import Resources, Stage

if TYPE_CHECKING:
    from prep.cache.writer import StageWriter

UNIT = 4096


def run_rules(
    expressions: Iterable[Expression],
    *,
    writer: StageWriter,
    workers: int = 1,
    ray_address: str | None = None,
    engine: Engine | None = None,
    label: str = "phrases",
    total: int | None = None,
    selection: Mapping[str, Any] | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Summary:
    """Write every expression's row by rules (``writer`` with ``stage.rules_settings()``).

    The summary's ``extra["report"]`` holds the figures of :class:`prep.phrases.report.Report`.
    """
    report = Report()

    def count(rows: Any) -> None:
        for phrase_set in _phrase_sets(rows.select(["source", "violations", "rejected"]).to_pydict()):
            report.add_row(phrase_set)

    def figures() -> dict[str, Any]:
        figures = report.figures(Clock("rows"))
        return {name: figures[name] for name in ("sources", "rungs")}

    return prepare(
        cast(Stage, RulesStage(Resources())),
        expressions,
        key=lambda expression: expression.row_id,
        writer=writer,
        unit_size=UNIT,
        workers=workers,
        ray_address=ray_address,
        engine=engine,
        label=label,
        total=total,
        selection=selection,
        on_rows=count,
        report=figures,
        arguments=arguments,
    )


def _phrase_sets(columns: Mapping[str, list[Any]]) -> Iterator[PhraseSet | None]:
    for source, violations, rejected in zip(*columns.values(), strict=True):
        if source is None:
            yield None
        else:
            turned_down = tuple((r["source"], tuple(r["violations"])) for r in rejected)
            yield PhraseSet((), source, tuple(violations), turned_down)

"""Runs the phrases stage over whole datasets, by rules or with a model that is opened at most once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from prep.engine.local import Engine
from prep.phrases.job import AnswerStage, run_llm
from prep.phrases.rules_job import run_rules
from prep.phrases.stage import RulesStage, rules_settings
from prep.stage import Resources, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prep.cache.store import Store
    from prep.engine.runner import Summary
    from prep.records import Expression


class Texts(Protocol):
    """What this stage needs from a dataset."""

    @property
    def name(self) -> str:
        """The dataset's name."""

    @property
    def split_by(self) -> str:
        """The split version, or an empty string."""

    def expressions(self, splits: Collection[str] | None = None) -> Iterator[Expression]:
        """The expressions of ``splits`` (None: all)."""

    def inputs(self) -> dict[str, str]:
        """File name -> SHA-256 of the annotation files read."""


def phrase_settings(stage: AnswerStage | None) -> dict[str, Any]:
    """What the rows depend on besides the expressions; None selects the rules."""
    return dict(rules_settings()) if stage is None else stage.settings()


def run_phrases(
    stage: AnswerStage | None,
    sources: Sequence[Texts],
    store: Store,
    *,
    splits: Collection[str] | None = None,
    cache: str | Path | None = None,
    replace: bool = False,
    keep_raw: bool = False,
    workers: int = 1,
    ray_address: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    count: bool = False,
) -> list[Summary]:
    """Decompose every expression of ``sources`` that has no row yet; one summary per source.

    ``stage`` runs a model; None selects the rules. ``cache`` is a folder of answers that several stores share
    (default: inside the store). ``count`` iterates the expressions beforehand, so that progress has a total.
    One engine serves all sources. Raises :class:`~prep.errors.PrepError` if the stage was started with other
    settings and ``replace`` is not given, and for a split that does not exist.
    """
    settings = phrase_settings(stage)
    where = store.cache_uri if cache is None else cache
    inputs = {
        f"{source.name}/{file}": digest for source in sources for file, digest in source.inputs().items()
    }
    summaries = []
    worked = cast(Stage, stage or RulesStage(Resources()))
    try:
        with (
            store.stage("phrases").writer(settings, replace=replace, inputs=inputs) as writer,
            Engine(worked, workers=workers, ray_address=ray_address) as engine,
        ):
            for source in sources:
                selection = {
                    "name": source.name,
                    "split_by": source.split_by,
                    "splits": sorted(splits or []),
                    "inputs": source.inputs(),
                }
                counted = count and not writer.finished(selection)
                common: dict[str, Any] = {
                    "writer": writer,
                    "engine": engine,
                    "label": f"phrases {source.name}",
                    "total": sum(1 for _ in source.expressions(splits)) if counted else None,
                    "selection": selection,
                    "arguments": arguments,
                }
                expressions = source.expressions(splits)
                if stage is None:
                    summaries.append(run_rules(expressions, **common))
                else:
                    summaries.append(
                        run_llm(expressions, stage=stage, cache=where, keep_raw=keep_raw, **common)
                    )
    finally:
        if stage is not None:
            stage.close()
    return summaries

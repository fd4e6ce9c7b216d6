"""Runs the phrases stage over whole datasets, by rules or with a model that is opened at most once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from prep.engine.local import Engine
from prep.engine.sources import First, Source, follow_source, inputs_of, origin_of, source_options
from prep.phrases.fallback import unusable
from prep.phrases.job import AnswerStage, run_llm
from prep.phrases.rules.decompose import RULES_VERSION
from prep.phrases.rules_job import run_rules
from prep.phrases.stage import RulesStage, rules_settings
from prep.phrases.tasks import PHRASES, Task
from prep.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prep.cache.follow import Entry
    from prep.cache.store import Store
    from prep.engine.runner import Summary
    from prep.records import Expression

# Unused fields to name.
UNUSED = 10


class Texts(Source, Protocol):
    """What this stage needs from a dataset."""

    def expressions(self, splits: Collection[str] | None = None) -> Iterator[Expression]:
        """The expressions of ``splits`` (None: all)."""


def phrase_settings(stage: AnswerStage | None) -> dict[str, object]:
    """What the rows depend on besides the expressions; None selects the rules.

    A model's rows also depend on the rules, which judge and mend its answers; the cached answers do not.
    """
    return dict(rules_settings()) if stage is None else {**stage.settings(), "rules": RULES_VERSION}


def run_phrases(
    stage: AnswerStage | None,
    sources: Sequence[Texts],
    store: Store,
    *,
    task: Task = PHRASES,
    splits: Collection[str] | None = None,
    limit: int | None = None,
    cache: str | Path | None = None,
    replace: bool = False,
    keep_missing: bool = False,
    keep_raw: bool = False,
    workers: int = 1,
    ray_address: str | None = None,
    arguments: Mapping[str, object] | None = None,
    count: bool = False,
) -> list[Summary]:
    """Decompose every expression of ``sources`` that has no row yet; one summary per source.

    ``stage`` runs a model, for its own task; None selects the rules, for ``task``. With ``limit``, only the
    first so many expressions of all sources together are. ``cache`` is a folder of answers that several
    stores share (default: inside the store). Rows that a source no longer has are set aside, unless
    ``keep_missing``. ``count`` iterates the expressions beforehand, so that progress has a total. One engine
    serves all sources. Raises :class:`~prep.errors.PrepError` if the stage was started with other settings
    and ``replace`` is not given, and for a split that does not exist.
    """
    run: Callable[..., Summary] = run_rules
    if stage is not None:
        task = stage.task
        run = partial(run_llm, cache=store.cache_uri if cache is None else cache, keep_raw=keep_raw)
    settings, origins = phrase_settings(stage), [origin_of(source) for source in sources]
    summaries, first = [], First(limit)
    try:
        with (
            store.stage(task.name).writer(settings, replace=replace, inputs=inputs_of(origins)) as writer,
            Engine[Stage](stage or RulesStage(task=task), workers=workers, ray_address=ray_address) as engine,
        ):
            for source, origin in zip(sources, origins, strict=True):
                expressions = first.of(source.expressions(splits))
                followed = follow_source(writer, origin, partial(_entries, source), keep_missing=keep_missing)
                counted = source.expressions if count else None
                options = source_options(writer, origin, splits, counted, first.left)
                summary = run(expressions, engine=engine, writer=writer, arguments=arguments, **options)
                summary.extra.update(followed)
                summary.extra["fields of the input that are not used"] = _unused(source)
                summaries.append(summary)
    finally:
        if stage is not None:
            stage.close()
    return summaries


def _entries(source: Texts) -> Iterator[Entry]:
    """Every expression of a source, as the rows must agree with it."""
    for text in source.expressions():
        yield (
            text.row_id,
            {"split": text.split, "image_id": text.image_id},
            text.problem or unusable(text.text),
        )


def _unused(source: Texts) -> str:
    """The fields of a JSONL file that mean nothing here, with their counts: a misspelt one is among them."""
    fields: Mapping[str, int] = getattr(source, "unused_fields", {})
    shown = sorted(fields.items(), key=lambda pair: (-pair[1], pair[0]))[:UNUSED]
    more = f" and {len(fields) - len(shown)} more" if len(fields) > len(shown) else ""
    return ", ".join(f"{name[:40]!r} ({count:,})" for name, count in shown) + more

"""Runs the scores stage: joins a store's expressions and proposals by image and writes their scores."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from prep.cache.score_rows import cut_remade, follow_expressions
from prep.engine.local import Engine
from prep.engine.runner import RunOptions, Summary, run_stage
from prep.errors import MissingInputError, PrepError
from prep.images import UnreadableImage, check_name
from prep.records import in_splits
from prep.scores.stage import ImageTexts, ScoreStage, Text

if TYPE_CHECKING:
    from prep.cache.store import StageReader, Store
    from prep.cache.writer import StageWriter

NO_IMAGE = "no image"  # the one reason to skip an expression that is no error


def run_scores(
    stage: ScoreStage,
    store: Store,
    root: Path,
    *,
    datasets: Collection[str] | None = None,
    splits: Collection[str] | None = None,
    replace: bool = False,
    keep_missing: bool = False,
    unit_size: int = 4,
    workers: int = 1,
    ray_address: str | None = None,
    arguments: Mapping[str, object] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Summary:
    """Score every expression of ``store`` against its image's proposals; images are found under ``root``.

    ``datasets`` and ``splits`` limit the expressions (None: all). Skipped and counted in the summary's
    ``extra["skipped"]``: expressions with an error or without an image, and those whose image could not be
    read by the proposals stage. If the masks of an image were regenerated, its scores are too. Scores of
    expressions that the store no longer has are set aside, unless ``keep_missing``. ``tell`` receives a line
    about what there is to score before it begins. Raises :class:`~prep.errors.PrepError` for an image without
    a proposals row, and if the table was started with another model or other proposals (unless ``replace``).
    """
    proposals = store.require_table("proposals", "pcnet-prep sam")
    wanted, skipped = _expressions(store, datasets, splits)
    settings = score_settings(stage, store)
    with store.stage("scores").writer(settings, replace=replace) as writer:
        followed = follow_expressions(store, writer, keep_missing=keep_missing)
        remade = cut_remade(proposals, writer)
        asked = _number(wanted)
        wanted = {image: todo for image, texts in wanted.items() if (todo := _not_done(texts, writer))}
        reused = asked - _number(wanted)
        _skip_unreadable(proposals, wanted, store.uri, skipped)
        summary, left = Summary(stage="scores", where=writer.uri), _number(wanted)
        if tell is not None:
            tell(_intro(wanted, reused, skipped))
        if wanted:  # otherwise no run is recorded
            items = _items(proposals, wanted, root)
            options: RunOptions = {"total": left, "arguments": arguments}
            with Engine(stage, workers=workers, ray_address=ray_address) as engine:
                summary = run_stage(
                    engine, items, key=_row_ids, writer=writer, unit_size=unit_size, **options
                )
    summary.total, summary.reused = reused + left, reused
    summary.extra.update({"skipped": skipped, **followed, "scores of masks made again since": remade})
    return summary


def _number(wanted: Mapping[str, list[Text]]) -> int:
    return sum(map(len, wanted.values()))


def _row_ids(item: ImageTexts) -> tuple[str, ...]:
    return tuple(text.row_id for text in item.texts)


def _intro(wanted: Mapping[str, list[Text]], reused: int, skipped: Mapping[str, int]) -> str:
    """What there is to score, in one line."""
    left = "".join(f", {count:,} left out: {why}" for why, count in sorted(skipped.items()))
    before = f", {reused:,} have scores" if reused else ""
    return f"{_number(wanted):,} expressions and {len(wanted):,} images{before}{left}"


def _skip_unreadable(
    proposals: StageReader, wanted: dict[str, list[Text]], uri: str, skipped: Counter[str]
) -> None:
    for image in _unreadable(proposals, wanted, uri):
        skipped["image could not be read"] += len(wanted.pop(image))


def score_settings(stage: ScoreStage, store: Store) -> dict[str, object]:
    """What the rows depend on: the model's settings and the proposals."""
    return {**stage.settings.key(), "proposals": store.stage("proposals").reader().fingerprint}


def score_keys(
    store: Store, *, datasets: Collection[str] | None = None, splits: Collection[str] | None = None
) -> list[str]:
    """The keys of the rows that :func:`run_scores` would write; raises the same errors."""
    proposals = store.require_table("proposals", "pcnet-prep sam")
    wanted, _ = _expressions(store, datasets, splits)
    for image in _unreadable(proposals, wanted, store.uri):
        del wanted[image]
    return [text.row_id for texts in wanted.values() for text in texts]


def _expressions(
    store: Store, datasets: Collection[str] | None, splits: Collection[str] | None
) -> tuple[dict[str, list[Text]], Counter[str]]:
    """Image -> its expressions, and the number of skipped ones per reason."""
    reader = store.require_table("phrases", "pcnet-prep phrases")
    wanted: dict[str, list[Text]] = {}
    skipped = Counter[str]()
    columns = ["row_id", "split_by", "image", "expression", "status", "dataset", "split"]
    for batch in reader.batches(columns):
        for row in batch.to_pylist():
            if datasets is not None and row["dataset"] not in datasets:
                continue
            if splits is not None and not in_splits(row["split"], splits):
                continue
            if row["status"] == "error":
                skipped["phrases have an error"] += 1
            elif not row["image"]:
                skipped[NO_IMAGE] += 1
            else:
                text = Text(row["row_id"], row["split_by"], row["expression"])
                wanted.setdefault(row["image"], []).append(text)
    if not wanted:
        why = "".join(f"; {count:,} expressions: {reason}" for reason, count in skipped.items())
        raise PrepError(
            f"There is nothing to score in dataset {_names(datasets)}, split {_names(splits)}{why}.",
            f"Run `pcnet-prep status {shlex.quote(store.uri)}` to see what the store contains.",
        )
    return wanted, skipped


def _not_done(texts: list[Text], writer: StageWriter) -> list[Text]:
    done = writer.done.contains([text.row_id for text in texts]).tolist()
    return [text for text, is_done in zip(texts, done, strict=True) if not is_done]


def _unreadable(proposals: StageReader, wanted: Mapping[str, object], uri: str) -> list[str]:
    """The requested images that could not be read; raises PrepError if some have no row at all."""
    missing, unreadable = set(wanted), []
    for batch in proposals.batches(["image", "status"]):
        for image, status in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True):
            missing.discard(image)
            if status == "error" and image in wanted:
                unreadable.append(image)
    if missing:
        raise MissingInputError(
            f"{len(missing)} of {len(wanted)} images have no proposals in {uri}, for example {min(missing)}.",
            f"Generate them first: pcnet-prep sam --store {shlex.quote(uri)}",
        )
    return unreadable


def _items(proposals: StageReader, wanted: Mapping[str, list[Text]], root: Path) -> Iterator[ImageTexts]:
    """The requested images as work items, in the store's order, read lazily."""
    columns = ["image", "image_sha256", "height", "width", "masks", "key"]
    for batch in proposals.batches(columns):
        for row, image in enumerate(batch.column(0).to_pylist()):
            if image not in wanted:
                continue
            values = batch.slice(row, 1).to_pylist()[0]
            try:
                check_name(image)
            except UnreadableImage as error:
                raise PrepError(
                    f"{image!r}: {str(error).rstrip('.')}.", "Generate the store again."
                ) from error
            yield ImageTexts(
                image=image,
                path=str(root / image),
                sha256=values["image_sha256"],
                height=values["height"],
                width=values["width"],
                counts=tuple(mask["counts"] for mask in values["masks"]),
                proposals_key=values["key"],
                texts=tuple(wanted[image]),
            )


def _names(values: Collection[str] | None) -> str:
    return "(any)" if values is None else ", ".join(sorted(values))

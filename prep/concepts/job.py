"""Runs the concepts stage: looks for the target noun phrases of a store in their images."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from prep.cache.answers import AnswerCache
from prep.cache.follow import Entry, follow
from prep.cache.keys import concept_id, fingerprint
from prep.cache.rewrite import cut_rows
from prep.cache.schema import CONCEPTS
from prep.cache.sources import Origin
from prep.concepts.stage import ConceptStage, ImagePhrases
from prep.engine.local import Engine
from prep.engine.runner import Summary, Work, run_stage
from prep.errors import PrepError
from prep.proposals.stale_images import SEEN, changed_rows, open_seen, refuse_other_root
from prep.proposals.unit_metadata import unit_metadata_of
from prep.records import in_splits

if TYPE_CHECKING:
    from prep.cache.store import Store
    from prep.cache.writer import StageWriter

NO_IMAGE = "no image"  # the one reason to skip an expression that is no error


@dataclass
class Targets:
    """The target noun phrases of a store: ``wanted`` are those to look for, by image.

    ``ids`` are the :func:`prep.cache.keys.concept_id` of all of them, whatever is selected; ``skipped``
    counts the selected expressions that have none, by reason.
    """

    wanted: dict[str, list[str]] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)
    skipped: Counter[str] = field(default_factory=Counter)

    def keys(self) -> list[str]:
        """The keys of the rows to make."""
        return [concept_id(image, phrase) for image, phrases in self.wanted.items() for phrase in phrases]


class _Seen(Work):
    """Records which files the units have read, so that the next run need not hash them again."""

    def __init__(self, seen: AnswerCache) -> None:
        self._seen = seen

    def rows(self, unit: list[ImagePhrases], results: pa.Table) -> pa.Table:
        """Take the metadata of one unit."""
        files, _ = unit_metadata_of(results)
        if files:
            self._seen.put(pa.table({"key": files}, SEEN))
        return results


def run_concepts(
    stage: ConceptStage,
    store: Store,
    root: Path,
    *,
    datasets: Collection[str] | None = None,
    splits: Collection[str] | None = None,
    cache: str | Path | None = None,
    replace: bool = False,
    keep_missing: bool = False,
    unit_size: int = 4,
    workers: int = 1,
    ray_address: str | None = None,
    arguments: Mapping[str, object] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Summary:
    """Look for every distinct target noun phrase of ``store`` in its image, a file under ``root``.

    ``datasets`` and ``splits`` limit the expressions (None: all). ``cache`` is a cache folder that several
    stores can share (default: inside the store). Rows of phrases that the store no longer has are set aside,
    unless ``keep_missing``; rows of images whose bytes have changed are made again (``extra["changed"]``).
    Expressions with an error or without an image are counted in ``extra["skipped"]``. ``tell`` receives a
    line about what there is to look for before it begins. Raises :class:`~prep.errors.PrepError` if there is
    nothing to look for, if no folder of the images exists, and for other settings without ``replace``.
    """
    targets = read_targets(store, datasets, splits)
    done = store.stage("concepts").reader().keys()
    if replace or not done.contains(targets.keys()).all():
        _check_folders(root, targets.wanted)
    settings, where = stage.settings(), store.cache_uri if cache is None else cache
    stage.answers = AnswerCache(where, "concepts", fingerprint(settings), CONCEPTS)
    with (
        store.stage("concepts").writer(
            settings, replace=replace, cache=where, share=cache is not None
        ) as writer,
        open_seen(where) as seen,
    ):
        retired = _retire_changed(writer, root, targets.wanted, seen)
        followed = _follow(store, writer, root, targets.ids, keep_missing)
        with Engine(stage, workers=workers, ray_address=ray_address) as engine:
            summary = _look(engine, targets, root, writer, _Seen(seen), tell, unit_size, arguments)
    summary.extra.update({"skipped": targets.skipped, "changed": len(retired), **followed})
    return summary


def _look(
    engine: Engine[ConceptStage],
    targets: Targets,
    root: Path,
    writer: StageWriter,
    work: Work,
    tell: Callable[[str], None] | None,
    unit_size: int,
    arguments: Mapping[str, object] | None,
) -> Summary:
    """Make the rows that are missing; no run is recorded if there are none."""
    keys, items = targets.keys(), list(_items(writer, root, targets.wanted))
    total, left = len(keys), sum(len(item.phrases) for item in items)
    failed_before = int(writer.failed.contains(keys).sum())
    if tell is not None:
        tell(_intro(items, left, total - left, targets.skipped))
    summary = Summary(stage="concepts", where=writer.uri)
    if items:
        summary = run_stage(
            engine,
            items,
            key=_ids,
            writer=writer,
            unit_size=unit_size,
            work=work,
            total=left,
            arguments=arguments,
        )
    summary.total, summary.reused, summary.failed_before = total, total - left, failed_before
    return summary


def read_targets(
    store: Store, datasets: Collection[str] | None = None, splits: Collection[str] | None = None
) -> Targets:
    """The target noun phrases of a store, those of ``datasets`` and ``splits`` (None: all) to look for.

    Raises :class:`~prep.errors.PrepError` if there are none.
    """
    reader = store.require_table("phrases", "pcnet-prep phrases")
    targets, seen = Targets(), set[str]()
    for batch in reader.batches(["image", "phrases", "status", "dataset", "split"]):
        for row in batch.to_pylist():
            usable = row["status"] != "error" and row["image"] and row["phrases"]
            number = concept_id(row["image"], row["phrases"][0]) if usable else ""
            if usable:
                targets.ids.add(number)
            if datasets is not None and row["dataset"] not in datasets:
                continue
            if splits is not None and not in_splits(row["split"], splits):
                continue
            if not usable:
                error = row["status"] == "error" or not row["phrases"]
                targets.skipped["phrases have an error" if error else NO_IMAGE] += 1
            elif number not in seen:
                seen.add(number)
                targets.wanted.setdefault(row["image"], []).append(row["phrases"][0])
    if not targets.wanted:
        why = "".join(f"; {count:,} expressions: {reason}" for reason, count in targets.skipped.items())
        raise PrepError(
            f"There is nothing to look for in dataset {_names(datasets)}, split {_names(splits)}{why}.",
            f"Run `pcnet-prep status {shlex.quote(store.uri)}` to see what the store contains.",
        )
    return targets


def _check_folders(root: Path, images: Iterable[str]) -> None:
    """Raise PrepError if none of the images' folders exists: every row would be an error."""
    folders = {(root / image).parent for image in images}
    if not any(folder.is_dir() for folder in folders):
        raise PrepError(
            f"The image folder {min(folders)} does not exist.",
            "Give the folder that image paths are relative to with --data.",
        )


def _follow(
    store: Store, writer: StageWriter, root: Path, ids: Iterable[str], keep_missing: bool
) -> dict[str, int]:
    """Set aside the rows of phrases that the store no longer has; count the changes."""
    entries: Iterator[Entry] = ((number, {}, None) for number in sorted(ids))
    origin = Origin("phrases", ("", ""), store.uri, os.path.abspath(root))
    return follow(writer, origin, entries, keep_missing=keep_missing).counts()


def _retire_changed(
    writer: StageWriter, root: Path, wanted: Collection[str], seen: AnswerCache
) -> set[tuple[str, int]]:
    """Remove the rows of wanted images whose bytes have changed; return their shards and numbers."""
    changed = {
        shard: {row: image for row, image in rows.items() if image in wanted}
        for shard, rows in changed_rows(writer.files, list(writer.manifest.shards), root, seen).items()
    }
    refuse_other_root(writer.files, changed, root, writer.manifest.sources)
    cut_rows(writer, {shard: set(rows) for shard, rows in changed.items() if rows})
    return {(shard, row) for shard, rows in changed.items() for row in rows}


def _items(writer: StageWriter, root: Path, wanted: Mapping[str, list[str]]) -> Iterator[ImagePhrases]:
    """The wanted images with the phrases that have no row yet, if there are any."""
    for image in sorted(wanted):
        ids = [concept_id(image, phrase) for phrase in wanted[image]]
        done = writer.done.contains(ids).tolist()
        left = [phrase for phrase, is_done in zip(wanted[image], done, strict=True) if not is_done]
        if left:
            yield ImagePhrases(image, str(root / image), tuple(left))


def _ids(item: ImagePhrases) -> tuple[str, ...]:
    return tuple(concept_id(item.image, phrase) for phrase in item.phrases)


def _intro(items: Collection[ImagePhrases], left: int, reused: int, skipped: Mapping[str, int]) -> str:
    """What there is to look for, in one line."""
    out = "".join(f", {count:,} expressions left out: {why}" for why, count in sorted(skipped.items()))
    before = f", {reused:,} have rows" if reused else ""
    return f"{left:,} phrases in {len(items):,} images{before}{out}"


def _names(values: Collection[str] | None) -> str:
    return "(any)" if values is None else ", ".join(sorted(values))

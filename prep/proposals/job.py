"""Runs the proposals stage on the images of a dataset or folder, reusing masks of identical images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from prep.cache.answers import AnswerCache
from prep.cache.files import Files
from prep.cache.keys import fingerprint
from prep.cache.rewrite import cut_rows
from prep.cache.schema import PROPOSALS
from prep.engine.local import Engine
from prep.engine.runner import Summary, Work, run_stage
from prep.engine.sources import First, Source, follow_source, inputs_of, origin_of, source_options
from prep.errors import PrepError
from prep.proposals.rows import Answer, content_key
from prep.proposals.sam.fidelity import ExactnessStats
from prep.proposals.stage import Answers
from prep.proposals.stale_images import SEEN, changed_rows, open_seen, refuse_other_root
from prep.proposals.unit_metadata import unit_metadata_of
from prep.stage import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prep.cache.follow import Entry
    from prep.cache.store import Store
    from prep.cache.writer import StageWriter
    from prep.records import ImageRef

REASONS = 5  # of what was left out, at most so many are shown

Stale = Callable[[Files, Sequence[str]], dict[str, dict[int, str]]]


class Images(Source, Protocol):
    """A source of images."""

    @property
    def root(self) -> Path:
        """The folder that image paths are relative to."""

    def images(self, splits: Collection[str] | None = None) -> Iterator[ImageRef]:
        """The images of ``splits`` (None: all), each once."""


class MaskStage(Stage, Protocol):
    """A stage that turns images into rows of the proposals schema; it may look up an image's bytes first."""

    key: str
    answers: Answers | None

    def settings(self) -> dict[str, object]:
        """What the rows depend on besides the image."""


class _Told(Work):
    """Collects the metadata of units: the stat keys of files, and statistics on how masks were computed.

    ``changed`` counts the rows that replace those of a changed image (``retired``).
    """

    def __init__(self, seen: AnswerCache, retired: Collection[str]) -> None:
        self._seen, self._retired = seen, retired
        self.stats = ExactnessStats()
        self.masks_left_out: Counter[str] = Counter()
        self.changed = 0

    def rows(self, unit: list[ImageRef], results: pa.Table) -> pa.Table:
        """Take the metadata of one unit."""
        files, said = unit_metadata_of(results)
        if files:
            self._seen.put(pa.table({"key": files}, SEEN))
        self.masks_left_out.update(said.get("masks_left_out", {}))
        self.stats.add(said)
        if self._retired:
            self.changed += sum(image in self._retired for image in results.column("image").to_pylist())
        return results

    def extra(self, source: Images) -> dict[str, object]:
        """What the summary of the run says besides its counts of rows."""
        return {
            "changed": self.changed,
            "left out": _reasons(_left_out(source)),
            "masks left out": _reasons(self.masks_left_out),
        }

    def report(self) -> dict[str, object]:
        left = self.masks_left_out.total()
        return {**self.stats.figures(), **({"masks_left_out": left} if left else {})}


class CachedAnswers:
    """Looks up cached masks by the SHA-256 of an image's bytes.

    Read-only: rows enter the cache when the store's writer shares or retires its shards.
    """

    def __init__(self, cache: AnswerCache, settings_fingerprint: str) -> None:
        self._cache = cache
        self._fingerprint = settings_fingerprint

    def get(self, sha256: str) -> Answer | None:
        """The masks of these bytes under the same settings, from any run that shares the cache."""
        row = self._cache.get(content_key(self._fingerprint, sha256))
        if row is None:
            return None
        return Answer(row["height"], row["width"], row["masks"], row["grid32"])

    def put(self, sha256: str, answer: Answer) -> None:
        """Does nothing: the store's writer keeps the masks."""


def _cached_answers(stage: MaskStage, settings: Mapping[str, object], where: str | Path) -> CachedAnswers:
    return CachedAnswers(AnswerCache(where, "proposals", fingerprint(settings), PROPOSALS), stage.key)


def run_proposals(
    stage: MaskStage,
    sources: Collection[Images],
    store: Store,
    *,
    splits: Collection[str] | None = None,
    limit: int | None = None,
    cache: str | Path | None = None,
    replace: bool = False,
    keep_missing: bool = False,
    unit_size: int = 8,
    workers: int = 1,
    ray_address: str | None = None,
    arguments: Mapping[str, object] | None = None,
    count: bool = False,
    stale: Stale | None = None,
) -> list[Summary]:
    """Generate masks for every image of ``sources`` without a row in the store; one summary per source.

    ``limit``: only for the first so many images, over all sources.

    The row of an image whose bytes have changed is made again (``summary.extra["changed"]`` counts them); a
    file is read again only if its size or modification time has changed. ``cache`` is a cache folder that
    several stores can share (default: inside the store). ``count`` counts the images first, so that progress
    has a total. Rows of images that a source no longer has are set aside, unless ``keep_missing``. The rows
    that ``stale`` finds in the table (shard -> row number -> image) are made again too. Raises
    :class:`~prep.errors.PrepError` for other settings without ``replace``, and for a source without images.
    """
    settings, where = stage.settings(), store.cache_uri if cache is None else cache
    stage.answers = _cached_answers(stage, settings, where)
    origins, summaries, first = [origin_of(source) for source in sources], [], First(limit)
    with (
        store.stage("proposals").writer(
            settings, replace=replace, cache=where, share=cache is not None, inputs=inputs_of(origins)
        ) as writer,
        Engine(stage, workers=workers, ray_address=ray_address) as engine,
        open_seen(where) as seen,
    ):
        retired = _retire_changed(sources, splits, limit, writer, seen) | _retire(stale, writer)
        for source, origin in zip(sources, origins, strict=True):
            told, images = _Told(seen, retired), _images(source, splits, first)
            followed = follow_source(writer, origin, partial(_entries, source), keep_missing=keep_missing)
            options = source_options(writer, origin, splits, source.images if count else None, first.left)
            options["arguments"] = arguments
            done = run_stage(
                engine, images, key=_name, writer=writer, unit_size=unit_size, work=told, **options
            )
            done.extra.update({**told.extra(source), **followed})
            summaries.append(done)
    return summaries


def _name(ref: ImageRef) -> str:
    return ref.image


def _retire_changed(
    sources: Collection[Images],
    splits: Collection[str] | None,
    limit: int | None,
    writer: StageWriter,
    seen: AnswerCache,
) -> set[str]:
    """Remove the rows of images in ``sources`` whose bytes have changed; return the names of these images."""
    retired: set[str] = set()
    for root in {source.root for source in sources}:
        changed = changed_rows(writer.files, list(writer.manifest.shards), root, seen)
        names = {image for rows in changed.values() for image in rows.values()}
        if not names:
            continue
        first, here = First(limit), set[str]()
        for source in sources:
            wanted = {ref.image for ref in first.of(source.images(splits))}
            here |= wanted & names if source.root == root else set()
        mine_only = {
            shard: {row: image for row, image in rows.items() if image in here}
            for shard, rows in changed.items()
        }
        refuse_other_root(writer.files, mine_only, root, writer.manifest.sources)
        cut_rows(writer, {shard: set(rows) for shard, rows in mine_only.items() if rows})
        retired |= here
    return retired


def _retire(stale: Stale | None, writer: StageWriter) -> set[str]:
    """Remove the rows that ``stale`` finds; return the names of their images."""
    outdated = stale(writer.files, list(writer.manifest.shards)) if stale is not None else {}
    cut_rows(writer, {shard: set(rows) for shard, rows in outdated.items()})
    return {image for rows in outdated.values() for image in rows.values()}


def _entries(source: Images) -> Iterator[Entry]:
    """Every image of a source, as the rows must agree with it."""
    for ref in source.images():
        yield ref.image, {"image_id": ref.image_id}, ref.problem or None


def _images(source: Images, splits: Collection[str] | None, first: First) -> Iterator[ImageRef]:
    """The ``first`` images of a source; PrepError if it has none or none of their folders exists.

    Every row would then be an error. An image whose folder is missing is an error row beside the others.
    """
    if first.left == 0:
        return
    images, lost, missing = first.of(source.images(splits)), [], set[Path]()
    for ref in images:
        lost.append(ref)
        folder = Path(ref.path).parent
        if folder not in missing and folder.is_dir():
            break
        missing.add(folder)
    else:
        if lost:
            raise PrepError(
                f"{source.name}: the image folder {Path(lost[0].path).parent} does not exist.",
                "Set --data or --image-root to their folder; docs/datasets.md says where to download them.",
            )
        why = _reasons(_left_out(source))
        raise PrepError(
            f"{source.name} has no images in {source.root.resolve()}{f' (left out: {why})' if why else ''}.",
            "Give another folder, or see docs/datasets.md.",
        )
    yield from lost
    yield from images


def _left_out(source: Images) -> Mapping[str, int]:
    """How many images a reader left out in its last complete iteration, by reason; others need not say."""
    counts: Mapping[str, int] = getattr(source, "left_out", {})
    return counts


def _reasons(left_out: Mapping[str, int]) -> str:
    """What was left out, as text: the number, and the most frequent reasons."""
    counts = Counter(left_out)
    if not counts:
        return ""
    shown = [f"{reason} ({count})" if count > 1 else reason for reason, count in counts.most_common(REASONS)]
    more = len(counts) - len(shown)
    return f"{counts.total()}: {'; '.join(shown)}{f'; {more} other reasons' if more else ''}"

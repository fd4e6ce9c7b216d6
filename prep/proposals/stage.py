"""The proposals stage: turns each image into one row of masks, or one error row."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from prep.cache.keys import fingerprint, stat_key
from prep.cache.schema import PROPOSALS
from prep.devices import cpu_cores
from prep.errors import PrepError
from prep.images import (
    Pixels,
    UnreadableImage,
    decode,
    header_pixels,
    read_image_file,
)
from prep.proposals.generators import Generator
from prep.proposals.rows import Answer, answer, content_key, make_row
from prep.proposals.select import Selection, select
from prep.proposals.unit_metadata import with_unit_metadata
from prep.records import ImageRef, Proposal
from prep.stage import Resources

PIXELS_AT_ONCE = 1 << 26  # pixels decoded at a time: 192 MiB, for any image and unit size
REMEMBERED = 1 << 25  # bytes of masks that a worker caches for further copies of an image


class Answers(Protocol):
    """A cache of results across workers, by the SHA-256 of an image's bytes, for one setting of the stage."""

    def get(self, sha256: str) -> Answer | None:
        """The result for these bytes, or None."""

    def put(self, sha256: str, answer: Answer) -> None:
        """Store a result; the first one of a hash is kept."""


class Recent:
    """A cache of this worker's recent results, by the SHA-256 of the bytes; safe for its two threads."""

    def __init__(self, size: int = REMEMBERED) -> None:
        self._left, self._lock = size, threading.Lock()
        self._answers: OrderedDict[str, Answer] = OrderedDict()

    def get(self, sha256: str) -> Answer | None:
        """The result for these bytes, if it is still cached."""
        with self._lock:
            return self._answers.get(sha256)

    def put(self, sha256: str, answer: Answer) -> None:
        """Store a result and evict the oldest ones."""
        with self._lock:
            if sha256 not in self._answers:
                self._answers[sha256] = answer
                self._left -= _bytes(answer)
            while self._left < 0:
                self._left += _bytes(self._answers.popitem(last=False)[1])


@dataclass(slots=True)
class _Image:
    """One image of a unit during processing: bytes, then pixels, then a result or an error."""

    ref: ImageRef
    sha256: str | None = None
    seen: str | None = None
    data: bytes | None = None
    pixels: Pixels | None = None
    answer: Answer | None = None
    error: str | None = None


class ProposalStage:
    """Decode, propose, select, sample: :class:`prep.records.ImageRef` items to rows of the proposals schema.

    ``resources`` is what one worker needs (:class:`prep.stage.Resources`); ``threads`` is the number of
    decoding threads (by default half the cores, at most 8). Identical bytes are processed once: within a
    unit, among a worker's recent images and, with ``answers``, across workers.
    """

    def __init__(
        self,
        generator: Generator,
        selection: Selection,
        *,
        resources: Resources | None = None,
        threads: int | None = None,
        answers: Answers | None = None,
    ) -> None:
        self.generator = generator
        self.selection = selection
        self.resources = resources or Resources()
        self.threads = threads
        self.answers = answers
        self.key = fingerprint(self.settings())

    def settings(self) -> dict[str, object]:
        """What the rows depend on besides the image: the settings of the table; their hash is half of each
        ``key``.
        """
        return {
            "generator": self.generator.name,
            "settings": self.generator.settings(),
            "weights_sha256": self.generator.weights_sha256,
            "selection": self.selection.settings(),
        }

    def open(self) -> None:
        """Load the generator, once per worker."""
        self._recent = Recent()
        threads = self.threads or max(1, min(8, cpu_cores() // 2))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self.generator.open()

    def load(self, unit: list[ImageRef]) -> list[list[_Image]]:
        """Read and hash a unit's files, and decode as many as fit in memory at once.

        Returns the unit cut into batches of at most ``PIXELS_AT_ONCE`` pixels (or one image); only the first
        is decoded here, before ``process``.
        """
        images = list(self._pool.map(self._read, unit))
        batches = _batches(images)
        self._decode(batches[0])
        return batches

    def process(self, loaded: list[list[_Image]]) -> pa.Table:
        """The unit's rows, in the unit's order."""
        rows: list[dict[str, object]] = []
        seen = [image.seen for batch in loaded for image in batch if image.seen is not None]
        for number, batch in enumerate(loaded):
            if number:
                self._decode(batch)
            self._propose(batch)
            rows.extend(self._row(image) for image in batch)
            for image in batch:
                image.pixels = image.data = None
        return with_unit_metadata(pa.Table.from_pylist(rows, schema=PROPOSALS), seen, self._stats())

    def _stats(self) -> dict[str, object]:
        """The generator's statistics since the last call, if it has any."""
        take = getattr(self.generator, "pop_stats", None)
        return {} if take is None else take()

    def _read(self, ref: ImageRef) -> _Image:
        image = _Image(ref)
        try:
            file = read_image_file(ref)
        except UnreadableImage as error:
            image.error = str(error)
            return image
        image.sha256, image.data = file.sha256, file.data
        image.seen = stat_key(ref.image, len(file.data), file.mtime_ns, file.sha256)
        image.answer = self._known(file.sha256)
        return image

    def _known(self, sha256: str) -> Answer | None:
        found = self._recent.get(sha256)
        if found is None and self.answers is not None:
            found = self.answers.get(sha256)
        return found

    def _keep(self, image: _Image) -> None:
        if image.sha256 is not None and image.answer is not None:
            self._recent.put(image.sha256, image.answer)
            if self.answers is not None:
                self.answers.put(image.sha256, image.answer)

    def _decode(self, batch: Sequence[_Image]) -> None:
        """Decode the images that need pixels, each distinct file once."""
        wanted = [i for i in _first_of_each(batch) if i.answer is None and i.error is None]
        for image, (pixels, error) in zip(wanted, self._pool.map(_decoded, wanted), strict=True):
            image.pixels, image.error = pixels, error

    def _propose(self, batch: Sequence[_Image]) -> None:
        """Compute the results (or errors) of a batch."""
        for image in batch:  # the previous unit may have computed it after this one was loaded
            if image.answer is None and image.sha256 is not None:
                image.answer = self._known(image.sha256)
        todo = [i for i in batch if i.answer is None and i.pixels is not None]
        pixels = [i.pixels for i in todo if i.pixels is not None]
        for image, shape, masks in zip(todo, [p.shape for p in pixels], self._generate(pixels), strict=True):
            if isinstance(masks, str):
                image.error = masks
                continue
            height, width = shape[:2]
            image.answer = answer(select(masks, self.selection, height, width), height, width)
            self._keep(image)
        leaders = {i.sha256: i for i in reversed(batch)}
        for image in batch:
            if image.answer is None and image.error is None:
                image.answer, image.error = leaders[image.sha256].answer, leaders[image.sha256].error

    def _generate(self, pixels: list[Pixels]) -> list[list[Proposal] | str]:
        """Each image's masks, or the reason why it has none; a failing image does not affect the others."""
        if not pixels:
            return []
        try:
            return list(self.generator.propose(pixels))
        except PrepError:
            raise
        except Exception as error:
            if len(pixels) == 1:
                return [f"the generator failed: {type(error).__name__}: {error}"]
        return [self._generate([one])[0] for one in pixels]

    def _row(self, image: _Image) -> dict[str, object]:
        key = content_key(self.key, image.sha256 or "")
        return make_row(image.ref, image.sha256, image.answer or image.error or "", self.generator.name, key)


def _bytes(found: Answer) -> int:
    """The approximate memory use of a result."""
    return 1000 + sum(1500 + len(mask["counts"]) for mask in found.masks)


def _decoded(image: _Image) -> tuple[Pixels | None, str | None]:
    assert image.data is not None
    try:
        return decode(image.data), None
    except UnreadableImage as error:
        return None, str(error)


def _first_of_each(batch: Sequence[_Image]) -> list[_Image]:
    """The first image of each distinct content."""
    return list({i.sha256: i for i in reversed(batch) if i.sha256 is not None}.values())[::-1]


def _batches(images: list[_Image]) -> list[list[_Image]]:
    """Split a unit so that no batch has more than ``PIXELS_AT_ONCE`` pixels, unless a single image does."""
    batches: list[list[_Image]] = [[]]
    pixels = 0
    for image in images:
        size = 0 if image.data is None or image.answer is not None else header_pixels(image.data)
        if batches[-1] and pixels + size > PIXELS_AT_ONCE:
            batches.append([])
            pixels = 0
        batches[-1].append(image)
        pixels += size
    return batches

"""Looks for noun phrases in images with a detector: takes images with phrases, returns rows of concepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from prep.cache.keys import answer_key, concept_id, fingerprint, normalise_text, stat_key
from prep.cache.schema import CONCEPTS
from prep.concepts.detectors import DetectorSettings, Finder, open_detector
from prep.concepts.found import Found, Pixels
from prep.errors import PrepError
from prep.hints import memory_error
from prep.images import UnreadableImage, decode, read_image_file
from prep.proposals.unit_metadata import with_unit_metadata
from prep.records import ImageRef
from prep.stage import Resources


@dataclass(frozen=True, slots=True)
class ImagePhrases:
    """One image and the target noun phrases to look for in it, each once."""

    image: str
    path: str
    phrases: tuple[str, ...]


class Answers(Protocol):
    """Rows that are known by their content key, from any run that shares the cache."""

    def get_many(self, keys: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """The rows that exist, by key."""


@dataclass(slots=True)
class _Loaded:
    """An image of a unit: what is known of its file, its pixels if a phrase is new, or its error."""

    item: ImagePhrases
    sha256: str | None = None
    seen: str | None = None
    known: Mapping[str, Mapping[str, Any]] | None = None
    pixels: Pixels | None = None
    error: str | None = None


class ConceptStage:
    """Maps :class:`ImagePhrases` items to rows of the concepts schema, one for each phrase.

    A detector reads a phrase as :func:`prep.cache.keys.normalise_text` writes it; phrases that are then equal
    are looked for once. An image that cannot be read and a phrase without text give error rows. With
    ``answers``, rows of the same bytes, phrase and settings are taken from there, and the image is decoded
    only if one is missing. Needs ``open``; picklable before that.
    """

    def __init__(
        self, settings: DetectorSettings, resources: Resources | None = None, answers: Answers | None = None
    ) -> None:
        self.options = settings
        self.resources = resources or Resources()
        self.answers = answers
        self._settings: dict[str, object] | None = None
        self._finder: Finder | None = None

    def settings(self) -> dict[str, object]:
        """What the rows depend on besides image and phrase: the settings of the table."""
        if self._settings is None:
            self._settings = self.options.key()
        return self._settings

    @property
    def key(self) -> str:
        """The hash of the settings: a part of each row's ``key``."""
        return fingerprint(self.settings())

    def open(self) -> None:
        """Load the detector; raises PrepError if that is not possible."""
        self._finder = open_detector(self.options)

    def load(self, unit: list[ImagePhrases]) -> list[_Loaded]:
        """Read and hash the unit's files, look up what is known, and decode the images of what is not."""
        return [self._load(item) for item in unit]

    def process(self, loaded: list[_Loaded]) -> pa.Table:
        """A row for every phrase of the unit, images and phrases in the unit's order."""
        rows = [row for one in loaded for row in self._rows(one)]
        seen = [one.seen for one in loaded if one.seen is not None]
        return with_unit_metadata(pa.Table.from_pylist(rows, schema=CONCEPTS), seen, {})

    def _load(self, item: ImagePhrases) -> _Loaded:
        one = _Loaded(item)
        try:
            file = read_image_file(ImageRef(item.image, None, item.path))
            one.sha256 = file.sha256
            one.seen = stat_key(item.image, len(file.data), file.mtime_ns, file.sha256)
            keys = [self._key(file.sha256, phrase) for phrase in item.phrases]
            one.known = {} if self.answers is None else self.answers.get_many(keys)
            if any(key not in one.known for key in keys):
                one.pixels = decode(file.data)
        except UnreadableImage as error:
            one.error = str(error)
        return one

    def _key(self, sha256: str | None, phrase: str) -> str:
        return answer_key(f"{self.key}\n{sha256 or ''}", phrase)

    def _rows(self, one: _Loaded) -> list[dict[str, object]]:
        """The rows of an image."""
        keys = {phrase: self._key(one.sha256, phrase) for phrase in one.item.phrases}
        known: dict[str, tuple[int, int, Sequence[object]]] = {
            key: (row["height"], row["width"], row["masks"]) for key, row in (one.known or {}).items()
        }
        wanted = {normalise_text(phrase): key for phrase, key in keys.items() if key not in known}
        wanted.pop("", None)
        error = one.error
        if error is None and wanted and one.pixels is not None:
            found = self._find(one.pixels, list(wanted))
            if isinstance(found, str):
                error = found
            else:
                size = one.pixels.shape[:2]
                known |= {
                    key: (*size, [mask._asdict() for mask in masks])
                    for key, masks in zip(wanted.values(), found, strict=True)
                }
        lost = error or "the phrase has no text"
        return [self._row(one, phrase, key, known.get(key), lost) for phrase, key in keys.items()]

    def _find(self, pixels: Pixels, phrases: list[str]) -> list[list[Found]] | str:
        """What the detector finds, or the reason why it fails on this image."""
        assert self._finder is not None
        try:
            return self._finder.find(pixels, phrases)
        except PrepError:
            raise
        except Exception as error:
            if (exhausted := memory_error(error)) is not None:
                raise exhausted from error
            return f"the detector failed: {type(error).__name__}: {error}"

    def _row(
        self, one: _Loaded, phrase: str, key: str, known: tuple[int, int, Sequence[object]] | None, lost: str
    ) -> dict[str, object]:
        height, width, masks = known or (None, None, [])
        return {
            "concept_id": concept_id(one.item.image, phrase),
            "image": one.item.image,
            "phrase": phrase,
            "image_sha256": one.sha256,
            "height": height,
            "width": width,
            "masks": masks,
            "detector": self.options.detector,
            "key": key,
            "status": "error" if known is None else "ok" if masks else "empty",
            "error": lost if known is None else None,
        }

"""Reads COCO annotation files (``instances.json``) one element at a time, with precise error messages."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from errno import EFBIG
from pathlib import Path

from prep.errors import PrepError
from prep.inputs import HEAD, check_text, not_utf8, read_plain

MAX_BYTES = 1 << 30
INT64 = range(-(1 << 63), 1 << 63)

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image's entry in ``instances.json``; ``height`` and ``width`` in pixels, 0 if missing."""

    file_name: str
    height: int
    width: int


@dataclass(slots=True)
class Instances:
    """The index of an ``instances.json``: its images, the image of each annotation, and ambiguous IDs."""

    images: dict[int, ImageInfo] = field(default_factory=dict)
    image_of: dict[int, int] = field(default_factory=dict)
    ambiguous_images: set[int] = field(default_factory=set)
    ambiguous_annotations: set[int] = field(default_factory=set)


def integer(value: object) -> int | None:
    """``value`` as a 64-bit integer if it is one (tables also write ``12.0`` and ``"12"``), else None."""
    if isinstance(value, str) and re.fullmatch(r"\s*-?[0-9]{1,19}\s*", value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value not in INT64:
        return None
    return value


def read_instances(path: Path) -> Instances:
    """The index of ``path``; duplicate IDs with different contents are recorded as ambiguous."""
    found = Instances()
    seen: dict[int, int] = {}
    for section, entry, digest in sections(path, ("images", "annotations")):
        number = integer(entry.get("id"))
        if number is None:
            continue
        if section == "images":
            name = entry.get("file_name")
            info = ImageInfo(name if isinstance(name, str) else "", *_size(entry))
            if found.images.setdefault(number, info) != info:
                found.ambiguous_images.add(number)
        else:
            image = integer(entry.get("image_id"))
            # The hash distinguishes a repeated object from two objects with one ID, without keeping the
            # polygons.
            if seen.setdefault(number, digest) != digest:
                found.ambiguous_annotations.add(number)
            if image is not None:
                found.image_of.setdefault(number, image)
    return found


def read_annotations(path: Path, wanted: Collection[int], key: str) -> dict[int, object]:
    """The value of ``key`` (``segmentation``, ``bbox``) of each annotation in ``wanted`` that has one,
    unchanged.
    """
    found: dict[int, object] = {}
    for _, entry, _ in sections(path, ("annotations",)):
        number = integer(entry.get("id"))
        if number in wanted and number is not None and key in entry:
            found.setdefault(number, entry[key])
    return found


def _size(entry: dict[str, object]) -> tuple[int, int]:
    height, width = integer(entry.get("height")), integer(entry.get("width"))
    return max(height or 0, 0), max(width or 0, 0)


def sections(path: Path, names: Collection[str]) -> Iterator[tuple[str, dict[str, object], int]]:
    """Each object of the lists ``names`` of the JSON object in ``path``: list name, object, hash of its text.

    Only the file's text is held in memory; the tree of Python objects would take ten times as much.
    """
    text = read_text(path)
    try:
        missing, scanner = set(names), _Scanner(text)
        for name in scanner:
            if name in missing:
                missing.remove(name)
                for value, digest in scanner.elements():
                    if isinstance(value, dict):
                        yield name, value, digest
            else:
                scanner.skip()
    except (json.JSONDecodeError, RecursionError, IndexError) as error:
        raise broken_json(path, error) from error
    except (MemoryError, ValueError) as error:
        raise PrepError(f"{path} cannot be read as JSON: {error or type(error).__name__}.") from error
    if missing:
        raise PrepError(
            f"{path} has no list named {' or '.join(sorted(missing))}: it is not a COCO annotation file.",
            "Use the instances.json of the dataset's own download; it comes with the refs file.",
        )


def list_elements(path: Path) -> Iterator[object]:
    """Each value of the JSON list in ``path``."""
    scanner = _Scanner(read_text(path))
    try:
        for value, _ in scanner.elements():
            yield value
        scanner.finish()
    except (json.JSONDecodeError, RecursionError, IndexError) as error:
        raise broken_json(path, error) from error
    except (MemoryError, ValueError) as error:
        raise PrepError(f"{path} cannot be read as JSON: {error or type(error).__name__}.") from error


def broken_json(path: Path, error: Exception) -> PrepError:
    """The error for a file that is not valid JSON or is truncated."""
    where = (
        f"line {error.lineno} column {error.colno}: {error.msg}"
        if isinstance(error, json.JSONDecodeError)
        else error
    )
    return PrepError(
        f"{path} is not whole JSON ({where or type(error).__name__}).",
        "It may be truncated or a different kind of file: compare its size with the source's, or download "
        "it again.",
    )


def read_text(path: Path) -> str:
    """The UTF-8 text of ``path``; :class:`PrepError` if missing, too large, a Git LFS pointer or not text."""
    try:
        data = read_plain(path, MAX_BYTES)
        check_text(path, data[:HEAD])
        return data.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise PrepError(f"{path} is missing.") from error
    except OSError as error:
        remedy = "COCO's largest file has 320 MiB. Remove the images without references."
        raise PrepError(
            f"{path} cannot be read: {error.strerror or error}.", remedy if error.errno == EFBIG else ""
        ) from error
    except UnicodeDecodeError as error:
        raise PrepError(f"{path} is {not_utf8(error)}.", "Check that it is the right file.") from error


class _Scanner:
    """Iterates over the members of the JSON object in ``text``, decoding one value at a time."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def __iter__(self) -> Iterator[str]:
        """Each key; its value must be consumed, by :meth:`elements` or :meth:`skip`, before the next."""
        self._expect("{")
        if not self._found("}"):
            while True:
                self._space()
                key = self._value()
                if not isinstance(key, str):
                    raise json.JSONDecodeError("Expecting a key", self.text, self.at)
                self._expect(":")
                yield key
                if self._found("}"):
                    break
                self._expect(",")
        self.finish()

    def finish(self) -> None:
        """Check that only white space is left."""
        self._space()
        if self.at != len(self.text):
            raise json.JSONDecodeError("Extra data", self.text, self.at)

    def elements(self) -> Iterator[tuple[object, int]]:
        """Each value of the next list, with the hash of its text."""
        self._expect("[")
        if self._found("]"):
            return
        while True:
            self._space()
            start = self.at
            value = self._value()
            yield value, hash(self.text[start : self.at])
            if self._found("]"):
                return
            self._expect(",")

    def skip(self) -> None:
        """Skip the next value."""
        self._space()
        if self.text[self.at : self.at + 1] == "[":
            for _ in self.elements():
                pass
        else:
            self._value()

    def _value(self) -> object:
        value, self.at = _DECODER.raw_decode(self.text, self.at)
        return value

    def _space(self) -> None:
        found = _SPACE.match(self.text, self.at)
        self.at = found.end() if found else self.at

    def _found(self, character: str) -> bool:
        self._space()
        if self.text[self.at : self.at + 1] != character:
            return False
        self.at += 1
        return True

    def _expect(self, character: str) -> None:
        if not self._found(character):
            raise json.JSONDecodeError(f"Expecting '{character}'", self.text, self.at)

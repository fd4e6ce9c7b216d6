"""Reads the user's own expressions from a JSONL file as a stream, with one JSON object per line."""

from __future__ import annotations

import json
import shlex
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from prep.datasets import identity as rows
from prep.datasets.coco_json import integer
from prep.errors import PrepError
from prep.files import sha256_of
from prep.inputs import HEAD, check_text, image_name, not_utf8, open_plain
from prep.records import Expression, ImageRef, in_splits

DEFAULT_SPLIT = "train"
MAX_LINE = 1 << 24
_BLANK = b" \t\r\n" + BOM_UTF8
_TEXTS = ("dataset", "split_by", "split")
_NUMBERS = ("ref_id", "sent_id", "image_id")
FIELDS = frozenset(
    {"sent", "image", "dataset", "split_by", "split", "ref_id", "sent_id", "image_id", "mask", "box"}
)


class _Line(NamedTuple):
    offset: int
    number: int
    entry: dict[str, object]
    problem: str = ""
    is_encoding: bool = False


class JsonlDataset:
    """Expressions from ``path``, with images in ``root`` (``--image-root``, by default the file's folder)."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path, self.root = path, root
        self.place = path
        given = ["--input", str(path), *(["--image-root", str(root)] if root != path.parent else [])]
        self.flags = shlex.join(given)
        self.name, self.split_by = rows.clean_text(path.stem), ""
        # Of the last complete iteration: the fields of other names and why images were left out, with counts.
        self.unused_fields: Mapping[str, int] = {}
        self.left_out: Mapping[str, int] = {}

    @cached_property
    def _splits(self) -> list[str]:
        return rows.ordered(self._draft(line).split for line in self._lines())

    def splits(self) -> list[str]:
        """The splits that rows name; a row without one is in ``train``."""
        return self._splits

    def expressions(self, splits: Collection[str] | None = None) -> Iterator[Expression]:
        """The expressions of ``splits`` (None: all), in the file's order."""
        self._check(splits)
        return rows.expressions((self._draft(line) for line in self._lines()), splits)

    def images(self, splits: Collection[str] | None = None) -> Iterator[ImageRef]:
        """The images that the rows of ``splits`` name, each once."""
        self._check(splits)
        return rows.images(self._images(splits), lambda image: str(self.root / image))

    def _images(self, splits: Collection[str] | None) -> Iterator[tuple[str, int | None]]:
        """The image of each row of ``splits`` that has one, and its ID; sets ``left_out``."""
        refused: Counter[str] = Counter()
        for line in self._lines():
            draft = self._draft(line)
            if splits is None or in_splits(draft.split, splits):
                if draft.image is not None:
                    yield draft.image, draft.image_id
                elif line.entry.get("image") is not None:
                    refused[f"rows whose image is not a path below {self.root}"] += 1
        self.left_out = refused

    def inputs(self) -> dict[str, str]:
        """File name -> SHA-256 of the file read."""
        return {self.path.name: sha256_of(self.path)}

    def mask_offsets(self) -> dict[str, int]:
        """``row_id`` -> byte offset of its line, for the rows that have a ``mask``."""
        return self._offsets("mask")

    def box_offsets(self) -> dict[str, int]:
        """``row_id`` -> byte offset of its line, for the rows that have a ``box`` ([x, y, width, height])."""
        return self._offsets("box")

    def _offsets(self, field: str) -> dict[str, int]:
        drafts = (
            self._draft(line)._replace(place=line.offset if line.entry.get(field) is not None else -1)
            for line in self._lines()
        )
        return {identity: draft.place for draft, identity in rows.identify(drafts) if draft.place >= 0}

    def entry_at(self, offset: int) -> dict[str, object]:
        """The object of the line that begins at ``offset``."""
        with open_plain(self.path) as file:
            file.seek(offset)
            return _decode(file.readline(MAX_LINE + 1), offset, 0).entry

    def _check(self, splits: Collection[str] | None) -> None:
        if splits is not None:
            rows.check_splits(splits, self.splits(), str(self.path))
        next(self._lines(), None)

    def _lines(self) -> Iterator[_Line]:
        """Every non-blank line. One that is not a JSON object has a problem; a bad first line raises."""
        number = offset = good = 0
        unused = Counter[str]()
        try:
            with open_plain(self.path) as file:
                check_text(self.path, file.peek(HEAD))
                while raw := file.readline(MAX_LINE + 1):
                    number, start = number + 1, offset
                    offset += len(raw)
                    while (
                        len(raw) > MAX_LINE and not raw.endswith(b"\n") and (rest := file.readline(MAX_LINE))
                    ):
                        offset += len(rest)
                        if rest.endswith(b"\n"):
                            break
                    if raw.strip(_BLANK):
                        line = _decode(raw, start, number)
                        if line.problem and not good and not line.is_encoding:
                            self._refuse(line)
                        good += 1
                        for name in line.entry.keys() - FIELDS:
                            unused[name] += 1
                        yield line
            self.unused_fields = unused
        except OSError as error:
            raise PrepError(f"{self.path} cannot be read: {error.strerror or error}.") from error

    def _refuse(self, line: _Line) -> None:
        raise PrepError(
            f"{self.path}: {line.problem}.",
            'Write one object per line, such as {"sent": "the man on the left"}.',
        )

    def _draft(self, line: _Line) -> rows.Draft:
        entry, problem = line.entry, line.problem
        text = entry.get("sent")
        if not isinstance(text, str):
            text, problem = "", problem or f"line {line.number} has no text under 'sent'"
        text = rows.expression_text(text)
        named = entry.get("image")
        image, reason = None, ""
        if isinstance(named, str):
            image, reason = image_name(rows.clean_text(named))
        elif named is not None:
            reason = f"the image {str(named)[:80]} is not text"
        if reason:
            problem = problem or f"line {line.number}: {reason}"
        texts = {name: _name(value) for name in _TEXTS if (value := entry.get(name)) is not None}
        ids = {name: integer(value) for name in _NUMBERS if (value := entry.get(name)) is not None}
        for name, value in (*texts.items(), *ids.items()):
            if value is None:
                kind = "text" if name in texts else "a whole number"
                problem = problem or f"line {line.number}: {name} is {str(entry[name])[:40]!r}, not {kind}"
        return rows.Draft(
            texts.get("dataset") or self.name,
            texts.get("split_by") or self.split_by,
            texts.get("split") or DEFAULT_SPLIT,
            ids.get("ref_id"),
            ids.get("sent_id"),
            ids.get("image_id"),
            image,
            text,
            problem or rows.text_problem(text),
        )


def _name(value: object) -> str | None:
    """A name given as text, or as a whole number as some tools write splits; None if it is neither."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return rows.clean_text(value) if isinstance(value, str) else None


def _decode(raw: bytes, offset: int, number: int) -> _Line:
    if len(raw) > MAX_LINE:
        return _Line(offset, number, {}, f"line {number} is longer than {MAX_LINE >> 20} MiB")
    try:
        entry = json.loads(raw.removeprefix(BOM_UTF8).decode())
    except UnicodeDecodeError as error:
        is_object = raw.lstrip().startswith(b"{")
        problem = f"line {number} is {not_utf8(error)}" if is_object else f"line {number} is not JSON"
        return _Line(offset, number, {}, problem, is_encoding=is_object)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        return _Line(offset, number, {}, f"line {number} is not JSON ({reason})")
    if not isinstance(entry, dict):
        return _Line(offset, number, {}, f"line {number} is a {type(entry).__name__}, not an object")
    return _Line(offset, number, entry)

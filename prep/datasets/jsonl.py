"""Reads the user's own expressions from a JSONL file as a stream, with one JSON object per line."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from prep.datasets import identity as rows
from prep.datasets.coco_json import below, integer
from prep.errors import PrepError
from prep.files import sha256_of
from prep.records import Expression, ImageRef

DEFAULT_SPLIT = "train"
MAX_LINE = 1 << 24


@dataclass(frozen=True, slots=True)
class _Line:
    offset: int
    number: int
    entry: dict[str, Any]
    problem: str = ""


class JsonlDataset:
    """Expressions from ``path``, with images in ``root`` (``--image-root``, by default the file's folder)."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path, self.root = path, root
        self.name, self.split_by = rows.clean_text(path.stem), ""

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
        drafts = (self._draft(line) for line in self._lines())
        found = (
            (draft.image, draft.image_id)
            for draft in drafts
            if draft.image is not None and (splits is None or rows.in_splits(draft.split, splits))
        )
        return rows.images(found, lambda image: str(self.root / image))

    def inputs(self) -> dict[str, str]:
        """File name -> SHA-256 of the file read."""
        return {self.path.name: sha256_of(self.path)}

    def mask_offsets(self) -> dict[str, int]:
        """``row_id`` -> byte offset of its line, for the rows that have a ``mask``."""
        drafts = (self._draft(line) for line in self._lines())
        return {identity: draft.place for draft, identity in rows.identify(drafts) if draft.place >= 0}

    def entry_at(self, offset: int) -> dict[str, Any]:
        """The object of the line that begins at ``offset``."""
        with self.path.open("rb") as file:
            file.seek(offset)
            return _decode(file.readline(MAX_LINE + 1), offset, 0).entry

    def _check(self, splits: Collection[str] | None) -> None:
        if splits is not None:
            rows.check_splits(splits, self.splits(), str(self.path))
        next(self._lines(), None)

    def _lines(self) -> Iterator[_Line]:
        """Every non-blank line. One that is not a JSON object has a problem; a bad first line raises."""
        number = offset = good = 0
        try:
            with self.path.open("rb") as file:
                while raw := file.readline(MAX_LINE + 1):
                    number, start = number + 1, offset
                    offset += len(raw)
                    while (
                        len(raw) > MAX_LINE and not raw.endswith(b"\n") and (rest := file.readline(MAX_LINE))
                    ):
                        offset += len(rest)
                        if rest.endswith(b"\n"):
                            break
                    if raw.strip(b" \t\r\n\xef\xbb\xbf"):
                        line = _decode(raw, start, number)
                        if line.problem and not good:
                            self._refuse(raw, line)
                        good += 1
                        yield line
        except OSError as error:
            raise PrepError(f"{self.path} cannot be read: {error.strerror or error}.") from error

    def _refuse(self, raw: bytes, line: _Line) -> None:
        if raw.startswith(b"version https://git-lfs"):
            raise PrepError(
                f"{self.path} is a Git LFS pointer, not the file itself.", "Run `git lfs pull` in its folder."
            )
        raise PrepError(
            f"{self.path}: {line.problem}.",
            'Write one object per line, such as {"sent": "the man on the left"}.',
        )

    def _draft(self, line: _Line) -> rows.Draft:
        entry, problem = line.entry, line.problem
        text = entry.get("sent")
        if not isinstance(text, str):
            text, problem = "", problem or f"line {line.number} has no text under 'sent'"
        text = rows.clean_text(text)
        named = entry.get("image")
        image = below(rows.clean_text(named)) if isinstance(named, str) else None
        if named is not None and image is None:
            problem = (
                problem
                or f"line {line.number}: the image {str(named)[:80]!r} is no path below the image root"
            )
        return rows.Draft(
            _string(entry.get("dataset"), self.name),
            _string(entry.get("split_by"), self.split_by),
            _string(entry.get("split"), DEFAULT_SPLIT),
            integer(entry.get("ref_id")),
            integer(entry.get("sent_id")),
            integer(entry.get("image_id")),
            image,
            text,
            problem or rows.text_problem(text),
            line.offset if entry.get("mask") is not None else -1,
        )


def _string(value: Any, default: str) -> str:
    return rows.clean_text(value) if isinstance(value, str) and value else default


def _decode(raw: bytes, offset: int, number: int) -> _Line:
    if len(raw) > MAX_LINE:
        return _Line(offset, number, {}, f"line {number} is longer than {MAX_LINE >> 20} MiB")
    try:
        entry = json.loads(raw.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        return _Line(offset, number, {}, f"line {number} is not JSON ({reason})")
    if not isinstance(entry, dict):
        return _Line(offset, number, {}, f"line {number} is a {type(entry).__name__}, not an object")
    return _Line(offset, number, entry)

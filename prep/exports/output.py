"""The files of an export: written atomically, kept if nothing changed, removed if nothing asks for them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NotRequired, TypedDict

from prep.errors import PrepError
from prep.files import appending, replacing, write_whole
from prep.inputs import below

MAX_NAME = 100  # bytes of a name made from a dataset's; file systems allow 255
_TOLD = ("counts", "left_out", "notes")
_RECORDED = {"key", "size", "mtime_ns"}


class _Entry(TypedDict):
    """A line of the record; ``told`` holds the counts of a file that was written as a stream."""

    key: str
    size: int
    mtime_ns: int
    told: NotRequired[dict[str, dict[str, int]]]


@dataclass
class Exported:
    """The result of an export.

    ``counts`` is what the files hold, the layout's own items first; ``left_out`` counts items that they lack,
    by reason; ``notes`` what was filled in or changed.
    """

    layout: str
    folder: Path
    counts: dict[str, int] = field(default_factory=dict)
    written: int = 0
    unchanged: int = 0
    removed: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)

    def count(self, what: str, number: int = 1) -> None:
        """Add ``number`` to what the files hold."""
        self.counts[what] = self.counts.get(what, 0) + number

    def leave_out(self, reason: str, number: int = 1) -> None:
        """Count ``number`` items that the files lack."""
        if number:
            self.left_out[reason] = self.left_out.get(reason, 0) + number

    def note(self, reason: str, number: int = 1) -> None:
        """Count ``number`` items that were filled in or changed."""
        if number:
            self.notes[reason] = self.notes.get(reason, 0) + number

    @property
    def missing(self) -> int:
        """The number of items left out."""
        return sum(self.left_out.values())

    @property
    def held(self) -> int:
        """The number of the layout's own items in the files."""
        return next(iter(self.counts.values()), 0)


class Output:
    """The files of one layout below ``folder``.

    A hidden file beside them records each file's ``key``, size and modification time. A file with the same
    key that is still as recorded is kept. :meth:`finish` removes recorded files that this run did not ask
    for, if the run covered everything (``whole``). ``about`` tells exports into one folder apart. A file that
    is not in the record is never replaced: PrepError.
    """

    def __init__(self, done: Exported, about: str = "", *, whole: bool = True) -> None:
        self.done, self.folder, self._whole = done, done.folder, whole
        tail = f"-{digest(about)[:8]}" if about else ""
        self._record = self.folder / f".export-{done.layout}{tail}.jsonl"
        self._known = self._read()
        self._asked: set[str] = set()
        self._make(self.folder)
        with _explained(self._record):
            self._lines = appending(self._record)  # closed by finish

    def current(self, name: str, key: str) -> bool:
        """Whether the file ``name`` exists, made from the same ``key``; it is then kept.

        What was told about it when it was written by :meth:`open` is told again.
        """
        self._asked.add(name)
        known = self._known.get(name)
        try:
            stat = os.lstat(self.folder / name)
        except OSError:
            return False
        now = {"key": key, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        if known is None or {**known, **now} != known:
            return False
        self.done.unchanged += 1
        for told, counts in known.get("told", {}).items():
            getattr(self.done, told).update(counts)
        return True

    def put(self, name: str, data: bytes, key: str | None = None) -> None:
        """Write a file; without ``key``, it is kept if its content is ``data`` already."""
        key = key or hashlib.sha256(data).hexdigest()
        if not self.current(name, key):
            path = self._place(name, data)
            with _explained(path):
                write_whole(path, data, durable=False)
            self._add(name, key)

    @contextlib.contextmanager
    def open(self, name: str, key: str) -> Iterator[BinaryIO]:
        """A file to write as a stream, the only one that the counts in ``done`` are about; it takes its name
        when the block ends.
        """
        self._asked.add(name)
        path = self._place(name)
        with _explained(path), replacing(path, durable=False) as file:
            yield file
        self._add(name, key, told={told: getattr(self.done, told) for told in _TOLD})

    def finish(self) -> Exported:
        """Remove what is no longer asked for, and record what is there."""
        stale = set(self._known) - self._asked if self._whole else set()
        for name in stale:
            path = self.folder / name
            with _explained(path):
                self.done.removed += os.path.lexists(path)
                path.unlink(missing_ok=True)
            del self._known[name]
        self._lines.close()
        text = "".join(_line(name, entry) for name, entry in sorted(self._known.items()))
        with _explained(self._record):
            write_whole(self._record, text.encode("utf-8"), durable=False)
        return self.done

    def _place(self, name: str, data: bytes | None = None) -> Path:
        """Where to write a file; it is recorded first, so that a run after a kill knows it as its own."""
        if below(name) != name:
            raise ValueError(f"{name!r} is not a path below the export's folder.")
        path = self.folder / name
        self._make(path.parent)
        if name not in self._known:
            if os.path.lexists(path) and (data is None or path.is_symlink() or path.read_bytes() != data):
                raise PrepError(
                    f"{path} exists, and this export did not write it.",
                    "Choose another folder, or remove it.",
                )
            self._record_line(name, {"key": "", "size": -1, "mtime_ns": 0})
        return path

    def _make(self, folder: Path) -> None:
        with _explained(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def _add(self, name: str, key: str, told: dict[str, dict[str, int]] | None = None) -> None:
        stat = os.lstat(self.folder / name)
        entry: _Entry = {"key": key, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        if told is not None:
            entry["told"] = told
        self.done.written += 1
        self._record_line(name, entry)

    def _record_line(self, name: str, entry: _Entry) -> None:
        self._known[name] = entry
        with _explained(self._record):
            self._lines.write(_line(name, entry))
            self._lines.flush()

    def _read(self) -> dict[str, _Entry]:
        """The record; a line that a killed run left unfinished is ignored, and so is a path from outside."""
        known: dict[str, _Entry] = {}
        try:
            lines = self._record.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return {}
        for line in lines:
            with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
                entry = json.loads(line)
                name = entry.pop("file")
                told = entry.get("told", {kind: {} for kind in _TOLD})
                if below(name) == name and entry.keys() - {"told"} == _RECORDED and _is_told(told):
                    known[name] = entry
        return known


def _is_told(told: dict[str, dict[str, int]]) -> bool:
    """Whether a record's counts are counts: it may have been edited by hand."""
    return told.keys() == set(_TOLD) and all(
        isinstance(what, str) and type(number) is int
        for counts in told.values()
        for what, number in counts.items()
    )


def _line(name: str, entry: _Entry) -> str:
    return json.dumps({"file": name, **entry}) + "\n"


def digest(*parts: object) -> str:
    """The SHA-256 (64 hex digits) of JSON values, as the key of a file."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def file_name(text: str) -> str:
    """``text`` as one part of a path: unchanged if it is plain, else with its other characters replaced and
    with a hash of all of it, so that two names never meet.
    """
    plain = re.sub(r"[^\w.+=,@()\[\] -]", "_", text).strip(" .")
    if text and plain == text and len(text.encode()) <= MAX_NAME and not text.startswith("-"):
        return text
    short = plain.encode("utf-8", "ignore")[:MAX_NAME].decode("utf-8", "ignore").strip(" .-")
    return f"{short or 'name'}-{digest(text)[:8]}"


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PrepError(
            f"{path} could not be written: {error.strerror or error}.",
            "Check the folder and the disk, then run the same command again: finished files are kept.",
        ) from error

"""Hashes the files that a model in a folder consists of, large ones once."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from prep.files import sha256_of, user_cache, write_whole

# What a model consists of, by suffix and name; and what a training leaves beside it.
_PARTS = {".safetensors", ".bin", ".pt", ".pth", ".json", ".jinja", ".model", ".tiktoken", ".py"}
_VOCABULARIES = {"merges.txt", "vocab.txt"}
_TRAINING = re.compile(r"(?:training_args|trainer_state|optimizer|scheduler|scaler|rng_state)[\w.-]*$")


def folder_hash(folder: Path) -> str:
    """SHA-256 over the names and contents of a model's files in a folder (64 hex digits).


    A README, pictures, a training's state and hidden files are no part of the model; a folder that links lead
    to again is read once.
    The hash of a large file is cached by path, size and times in the user's cache folder, so only the first
    run reads all weights.
    """
    known = KnownHashes()
    files = sorted(_files(folder, set()), key=lambda file: file.relative_to(folder).as_posix())
    with ThreadPoolExecutor(8) as pool:
        digests = list(pool.map(known.digest, files))
    known.save()
    total = hashlib.sha256()
    for file, digest in zip(files, digests, strict=True):
        total.update(f"{digest}  {file.relative_to(folder).as_posix()}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()


def _files(folder: Path, seen: set[Path]) -> Iterator[Path]:
    if (real := folder.resolve()) in seen:
        return
    seen.add(real)
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files(entry, seen)
        elif entry.is_file() and _is_part(entry):
            yield entry


def _is_part(file: Path) -> bool:
    """Whether a file belongs to the model, and not to its description or its training."""
    return file.name in _VOCABULARIES or (file.suffix in _PARTS and not _TRAINING.match(file.name))


class KnownHashes:
    """A cache of the SHA-256 of large files across runs, invalidated by a change of size or times."""

    LARGE = 64 << 20

    def __init__(self) -> None:
        self._file = user_cache() / "pcnet-prep" / "file_hashes.json"
        self._new: dict[str, str] = {}
        try:
            self._known: dict[str, str] = dict(json.loads(self._file.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            self._known = {}

    def digest(self, file: Path) -> str:
        """The file's SHA-256, reading the file only if it is not cached."""
        stat = file.stat()
        if stat.st_size < self.LARGE:
            return sha256_of(file)
        mark = f"{file.resolve()}|{stat.st_ino}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ctime_ns}"
        found = self._known.get(mark)
        if found is None:
            found = self._new[mark] = sha256_of(file)
        return found

    def save(self) -> None:
        """Save the new digests; if they cannot be written they are computed again next time."""
        if not self._new:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._file, json.dumps({**self._known, **self._new}).encode())
        except OSError:
            return

"""Remembers where the rows of a table come from: the place, the inputs and the keys of each source."""

from __future__ import annotations

import io
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from prep.cache.keys import fingerprint
from prep.cache.state import KEYS_PREFIX, OLD, state_of
from prep.errors import PrepError
from prep.files import sha256_of

if TYPE_CHECKING:
    from prep.cache.files import Files
    from prep.cache.manifest import Manifest
    from prep.cache.manifest_fields import SourceEntry
    from prep.cache.store import StageReader
    from prep.cache.writer import StageWriter

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Origin:
    """Where the rows of a run come from.

    ``name`` identifies the source in a table; ``owner`` is the dataset and the split_by that its rows have
    by default; ``place`` is the absolute path of its file or folder, ``root`` that of its images; ``inputs``
    maps each annotation file to its SHA-256 (empty for a folder of images: each run lists it anew).
    """

    name: str
    owner: tuple[str, str]
    place: str
    root: str
    inputs: Mapping[str, str] = field(default_factory=dict)

    def entry(self, keep_missing: bool) -> SourceEntry:
        """The entry of the manifest's ``sources``."""
        return {
            "place": self.place,
            "root": self.root,
            "inputs": dict(self.inputs),
            "keeps_missing": keep_missing,
        }


def is_followed(writer: StageWriter, origin: Origin, keep_missing: bool) -> bool:
    """Whether the table is in line with this very input, so that nothing has to be compared."""
    return bool(origin.inputs) and writer.manifest.sources.get(origin.name) == origin.entry(keep_missing)


def check_place(writer: StageWriter, origin: Origin) -> None:
    """Raise :class:`PrepError` if the table has rows of another file of this name, which is still there."""
    before = writer.manifest.sources.get(origin.name)
    if before is None or before["place"] == origin.place or before["inputs"] == dict(origin.inputs):
        return
    if os.path.exists(before["place"]):
        raise PrepError(
            f"{writer.uri} has rows of {before['place']}; this run reads {origin.place}, which has the same "
            "name and other contents.",
            "Use another store with --store, or remove the file that the other one replaces.",
        )


def predecessor(writer: StageWriter, origin: Origin) -> str:
    """The name of the source before it was moved: one of a folder that is gone and had the same last name."""
    sources = writer.manifest.sources
    if origin.name in sources or origin.inputs:
        return origin.name
    last = os.path.basename(origin.place)
    moved = [
        name
        for name, entry in sources.items()
        if not entry["inputs"]
        and os.path.basename(entry["place"]) == last
        and not os.path.exists(entry["place"])
    ]
    return moved[0] if len(moved) == 1 else origin.name


def record(writer: StageWriter, origin: Origin, keys: Hashes, keep_missing: bool) -> None:
    """Remember what the source has now; with ``keep_missing``, what it had is still its own."""
    moved = predecessor(writer, origin)
    if keep_missing:
        before = read_keys(writer.files, writer.manifest, moved)
        keys = keys if before is None else np.union1d(keys, before)
    buffer = io.BytesIO()
    np.save(buffer, keys)
    state_of(writer.files).write(_keys_file(writer.manifest, origin.name), buffer.getvalue())
    writer.manifest.sources.pop(moved, None)
    writer.manifest.sources[origin.name] = origin.entry(keep_missing)
    writer.save()


def _keys_file(manifest: Manifest, source: str) -> str:
    identity = {"generation": manifest.generation, "source": source}
    return f"{KEYS_PREFIX}{fingerprint(identity)[:16]}.npy"


def read_keys(files: Files, manifest: Manifest, source: str) -> Hashes | None:
    """The keys that a source had; None if they were not recorded, or the file is damaged."""
    name, state = _keys_file(manifest, source), state_of(files)
    places = [place for place in ((state, name), (files, OLD + name)) if place[0].exists(place[1])]
    if not places:
        return None
    try:
        place, name = places[0]
        keys = np.load(io.BytesIO(place.read(name)), allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError, OverflowError):
        return None
    return keys if keys.dtype == np.uint64 and keys.ndim == 1 else None


def keys_of_input(reader: StageReader, path: Path) -> Hashes | None:
    """The keys of the rows that were made of a file; None for a table of 0.1.0, which does not record them.

    Raises :class:`PrepError` if the rows are those of another file of this name, or of an older version.
    """
    entry = reader.manifest.sources.get(path.name) if reader.manifest else None
    if reader.manifest is None or entry is None:
        return None
    if entry["inputs"] != {path.name: sha256_of(path)}:
        moved = entry["place"] != os.path.abspath(path)
        store = "OTHER" if moved else shlex.quote(os.path.dirname(reader.stage.files.uri))
        raise PrepError(
            f"{reader.stage.files.uri} has the rows of {entry['place']}, not of {path}."
            if moved
            else f"{path} has changed since {reader.stage.files.uri} was made of it.",
            f"Run: pcnet-prep phrases --input {shlex.quote(str(path))} --store {store}",
        )
    return read_keys(reader.stage.files, reader.manifest, path.name)

"""Finds rows whose image file has changed since their masks were computed."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from prep.cache.answers import AnswerCache
from prep.cache.keys import stat_key
from prep.cache.shards import read_shard
from prep.errors import PrepError
from prep.images import UnreadableImage, check_name, read_bytes

if TYPE_CHECKING:
    from prep.cache.files import Files
    from prep.cache.manifest_fields import SourceEntry
    from prep.cache.store import StageReader

Fault = tuple[int, str]
Row = tuple[str, str | None]  # an image and the SHA-256 of its bytes, None if they could not be read

# The folder of the cache that records which files have been read.
SEEN_STAGE = "seen"
SEEN = pa.schema([pa.field("key", pa.string(), nullable=False)])
BLOCK = 4096
SAMPLE = 100


def open_seen(cache: str | Path) -> AnswerCache:
    """The record of files read so far, by :func:`stat_key`. If it is lost, the files are only read again."""
    return AnswerCache(cache, SEEN_STAGE, "images", SEEN)


def changed_rows(
    files: Files, shards: Iterable[str], root: Path, seen: AnswerCache
) -> dict[str, dict[int, str]]:
    """The rows of ``shards`` whose image under ``root`` has changed since they were computed.

    Shard -> row number -> image. A file with unchanged size and modification time is trusted, which costs one
    ``stat``. Any other is read and hashed, and recorded in ``seen`` if its bytes are the row's. A missing
    file is ignored: there is nothing to replace its row with.
    """
    changed: dict[str, dict[int, str]] = {}
    with ThreadPoolExecutor(8, thread_name_prefix="hash") as pool:
        for name in shards:
            table = read_shard(files, name, ["image", "image_sha256"])
            for start in range(0, table.num_rows, BLOCK):
                part = table.slice(start, BLOCK)
                rows = list(zip(part["image"].to_pylist(), part["image_sha256"].to_pylist(), strict=True))
                found = _changed(rows, root, seen, pool)
                if found:
                    changed.setdefault(name, {}).update({start + row: rows[row][0] for row in found})
    return changed


def refuse_other_root(
    files: Files,
    changed: Mapping[str, Mapping[int, str]],
    root: Path,
    sources: Mapping[str, SourceEntry],
) -> None:
    """Raise :class:`PrepError` if an image that seems to have changed is whole in another known root.

    It is then another image of the same name, and the masks of the first one would be lost.
    """
    own = os.path.abspath(root)
    others = sorted({entry["root"] for entry in sources.values()} - {own})
    for name in changed if others else ():
        table = read_shard(files, name, ["image_sha256"])
        for row, image in changed[name].items():
            sha256 = table["image_sha256"][row].as_py()
            for other in others:
                if sha256 is not None and _hash_now(Path(other), image) == sha256:
                    raise PrepError(
                        f"{image} in {own} and in {other} are different images; {files.uri} has masks of the "
                        "latter.",
                        "Set another --store: images are known by their path below the image root.",
                    )


def _changed(rows: Sequence[Row], root: Path, seen: AnswerCache, pool: ThreadPoolExecutor) -> list[int]:
    """The numbers of the rows whose file has changed; the others are recorded in ``seen``."""
    keys = [_key_now(root, image, sha256) for image, sha256 in rows]
    there = [number for number, key in enumerate(keys) if key is not None]
    known = seen.contains([keys[number] or "" for number in there])
    doubtful = [number for number, is_known in zip(there, known.tolist(), strict=True) if not is_known]
    changed, same = [], []
    hashes = pool.map(lambda number: _hash_now(root, rows[number][0]), doubtful)
    for number, now in zip(doubtful, hashes, strict=True):
        if now is None:
            continue
        if now == (rows[number][1] or ""):
            same.append(keys[number])
        else:
            changed.append(number)
    if same:
        seen.put(pa.table({"key": same}))
    return changed


def _key_now(root: Path, image: str, sha256: str | None) -> str | None:
    """The current key of a file if its bytes are still the row's, else None."""
    try:
        stat = os.stat(f"{root}/{image}")
    except (OSError, ValueError):
        return None
    return stat_key(image, stat.st_size, stat.st_mtime_ns, sha256)


def _hash_now(root: Path, image: str) -> str | None:
    """The hash of a file, empty if it is not an image file; None if it could not be read."""
    try:
        check_name(image)
        return read_bytes(root / image).sha256
    except UnreadableImage as error:
        # A read error may be temporary, so it neither invalidates a row nor confirms one without a hash.
        return None if isinstance(error.__cause__, OSError) else ""


def check_images(reader: StageReader, root: Path, images: Sequence[str]) -> None:
    """Raise :class:`PrepError` if images under ``root`` are not those that the masks were made of.

    A run of `pcnet-prep sam` with this root has compared them. For any other root, up to :data:`SAMPLE`
    images are hashed, evenly spaced.
    """
    sources = reader.manifest.sources if reader.manifest else {}
    if any(entry["root"] == os.path.abspath(root) for entry in sources.values()):
        return
    wanted = set(images[:: -(-len(images) // SAMPLE) or 1])
    for batch in reader.batches(["image", "image_sha256"]):
        for image, sha256 in zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True):
            if image in wanted and (now := _hash_now(root, image)) and sha256 and now != sha256:
                known = ", ".join(sorted({entry["root"] for entry in sources.values()})) or "another folder"
                raise PrepError(
                    f"{root / image} is not the image that {reader.stage.files.uri} has masks of: those were "
                    f"made of {known}.",
                    f"Use another store: pcnet-prep sam --images {shlex.quote(str(root))} --store OTHER",
                )


def image_faults(root: Path) -> Callable[[pa.Table], Iterator[Fault]]:
    """A check of proposals rows against the images under ``root``, which hashes every file again.

    A run trusts the size and modification time of a file that it has read. This check yields (row number,
    reason) for an image that has changed or is missing, and for one that had an error and has changed.
    """

    def faults(table: pa.Table) -> Iterator[Fault]:
        rows = zip(*(table.column(name).to_pylist() for name in ("image", "image_sha256")), strict=True)
        for number, (image, sha256) in enumerate(rows):
            try:
                check_name(image)
                found = read_bytes(root / image).sha256
            except UnreadableImage as error:
                if sha256 is not None:
                    yield number, f"its image can no longer be read: {error}"
                continue
            if found != sha256:
                unread = sha256 is None
                yield number, "its image could not be read before" if unread else "its image has changed"

    return faults

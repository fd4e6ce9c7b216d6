"""Finds the bookkeeping of a table: in ``_state`` beside its folder, or in its folder in older stores."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from prep.cache.files import Files, explained, open_files
from prep.files import write_whole

STATE_FOLDER = "_state"
MANIFEST = "manifest.json"
# The manifest of a table whose folder is about to be swapped: see prep.cache.rewrite.
PENDING = "pending.json"
# The hashes of the keys that a source had when a run read all of it, uint64, in numpy's format.
KEYS_PREFIX = "keys-"
LOCK_FILE = "writer.lock"
HOLDER_FILE = "writer.json"
LEASE_PREFIX = "lease-"
# Stores of 0.1.0 hold the same files in the table's folder, under names that begin with one of these.
OLD, OLD_LOCK = "_", "."

_LEDGER = re.compile(r"_?ledger-(\d{10})\.json")


def state_of(files: Files) -> Files:
    """The folder of a table's bookkeeping, ``_state/<table>`` beside the table's folder.

    If the table's folder is a link, it is beside the folder that it leads to, so that stores which share a
    table by links share its manifest and lock. It is beside the link if the manifest is there (the table was
    moved to another disk), or if nothing can be written beside the other folder.
    """
    if files.local is None or not files.local.is_symlink():
        return files.beside(STATE_FOLDER)
    here, there = (path.parent / STATE_FOLDER / path.name for path in (files.local, files.local.resolve()))
    if (there / MANIFEST).exists() or not ((here / MANIFEST).exists() or not _can_be_made(there)):
        return open_files(there)
    return open_files(here)


def _can_be_made(folder: Path) -> bool:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return os.access(existing, os.W_OK)


def located(files: Files) -> tuple[Files, str] | None:
    """The folder that holds a table's manifest and the prefix of its names; None if there is no such table.

    On a file system, a table whose folder was removed is no more, whatever its bookkeeping says.
    """
    if files.local is not None and not files.exists():
        return None
    state = state_of(files)
    if state.exists(MANIFEST):
        return state, ""
    if files.exists(OLD + MANIFEST):
        return files, OLD
    # A writer may have moved it between the two looks.
    return (state, "") if state.exists(MANIFEST) else None


def ledger_name(sequence: int) -> str:
    """The file name of the ledger entry with this number."""
    return f"ledger-{sequence:010d}.json"


def ledger_sequences(names: Iterable[str]) -> list[int]:
    """The numbers of the ledger entries among file names, ascending."""
    return sorted(int(match[1]) for match in map(_LEDGER.fullmatch, names) if match)


def is_old(name: str) -> bool:
    """Whether a file in a table's folder is bookkeeping of an older store."""
    return name in (OLD + MANIFEST, OLD_LOCK + LOCK_FILE, OLD_LOCK + HOLDER_FILE) or name.startswith(
        (f"{OLD}{KEYS_PREFIX}", f"{OLD}ledger-")
    )


def copy_keys(files: Files) -> None:
    """Copy the keys of the sources that an older version recorded in the table's folder."""
    state = state_of(files)
    known = state.sizes()
    for name in files.sizes():
        moved = name.removeprefix(OLD)
        if name.startswith(f"{OLD}{KEYS_PREFIX}") and moved not in known:
            state.write(moved, files.read(name))


def remove_old(files: Files) -> None:
    """Remove an older store's bookkeeping from the table's folder, once the manifest is in its place."""
    for name in sorted(filter(is_old, files.sizes())):
        files.delete(name)


def forget(files: Files) -> None:
    """Remove the bookkeeping of a table whose folder was removed, but not its lock."""
    state = state_of(files)
    for name in state.sizes():
        if name not in (LOCK_FILE, HOLDER_FILE) and not name.startswith(LEASE_PREFIX):
            state.delete(name)


def put_shard(files: Files, name: str, data: bytes | pa.Buffer) -> None:
    """Write a shard into a table's folder, which never has an unfinished file in it.

    Only if the bookkeeping is on another file system (a mounted folder) is the unfinished file in the table's
    folder, under a hidden name.
    """
    scratch = state_of(files)
    if files.local is None or scratch.local is None:
        files.write(name, data)
        return
    with explained("write", files.where(name)):
        try:
            write_whole(files.local / name, data, through=scratch.local)
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        write_whole(files.local / name, data)

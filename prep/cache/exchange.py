"""Swaps two folders atomically, so that no reader sees a partial change."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from prep.files import sync_folder

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def exchange(first: Path, second: Path) -> bool:
    """Swap the names of two folders atomically; False if the system or file system does not support it."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # not Linux, or an old C library
        return False
    names = os.fsencode(first), os.fsencode(second)
    if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) != 0:
        return False
    sync_folder(first.parent)
    if second.parent != first.parent:
        sync_folder(second.parent)
    return True


def aside_of(folder: Path) -> Path:
    """The hidden folder next to a table's in which its replacement is built."""
    return folder.with_name(f".{folder.name}.aside")

"""Writes files atomically and durably, and computes their SHA-256."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

from prep.errors import PrepError
from prep.inputs import NotPlainError, open_plain

if TYPE_CHECKING:
    import pyarrow as pa


TEMPORARY = ".tmp"  # suffix of temporary names; stores remove the files that a killed process left


@contextlib.contextmanager
def replacing(target: Path, *, durable: bool = True, through: Path | None = None) -> Iterator[BinaryIO]:
    """A file to write that takes the name ``target``, whole, when the block ends, and is removed if it fails.

    Until then it is in the folder ``through`` of the same file system, by default in that of ``target``.

    After the block the file survives a crash of the machine, unless ``durable`` is false: for the thousands
    of files of a folder that is made again after a crash anyway. The folder must exist.
    """
    temporary = (through or target.parent) / f".{target.name}.{secrets.token_hex(4)}{TEMPORARY}"
    file = open(temporary, "wb", opener=_new_file)  # noqa: SIM115 (closed below, before the rename)
    try:
        with file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        sync_folder(target.parent)


def write_whole(
    target: Path, data: bytes | pa.Buffer, *, durable: bool = True, through: Path | None = None
) -> None:
    """Write a whole file as :func:`replacing` does."""
    with replacing(target, durable=durable, through=through) as file:
        file.write(data)


def appending(path: Path) -> TextIO:
    """A text file to add lines to, made if it does not exist; OSError for a link, a pipe or a device.

    Only for logs that a reader may see unfinished: everything else is written by :func:`replacing`.
    """
    return open(path, "a", encoding="utf-8", newline="", opener=_own_file)


def lock_file(path: Path) -> int:
    """The descriptor of an empty file to lock, made if it does not exist; OSError for a link."""
    return _own_file(str(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)


def _own_file(path: str, flags: int) -> int:
    """Open a plain file that is not a link: one in a folder from somebody else could lead anywhere."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotPlainError(errno.EINVAL, "not a plain file", path)
    return descriptor


def _new_file(path: str, flags: int) -> int:
    """Open a file that must not exist, not even as a link: nobody else's file is ever written to."""
    return os.open(path, flags & ~os.O_TRUNC | os.O_EXCL | os.O_NOFOLLOW, 0o666)


def user_cache() -> Path:
    """The folder of the user's caches: ``$XDG_CACHE_HOME``, or ``.cache`` in the home folder.

    A user of a container may have neither: then it is a folder of this user alone among the temporary files.
    """
    home = os.path.expanduser("~")  # returned as it is if nothing tells the home folder
    if (given := os.environ.get("XDG_CACHE_HOME")) or home != "~":
        return Path(given or os.path.join(home, ".cache"))
    folder = Path(tempfile.gettempdir(), f"pcnet-prep-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise PrepError(f"{folder} belongs to somebody else.", "Set XDG_CACHE_HOME to a folder of your own.")
    return folder


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` durable if the file system supports it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file as 64 hex digits."""
    digest = hashlib.sha256()
    feed(digest, path)
    return digest.hexdigest()


def feed(digest: hashlib._Hash, path: Path) -> None:
    """Update ``digest`` with the content of a file."""
    try:
        with open_plain(path) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise PrepError(f"{path} cannot be read: {error.strerror or error}.") from error

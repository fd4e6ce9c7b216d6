"""Opens input files, plain ones only, and checks the names and the encoding of their contents."""

from __future__ import annotations

import errno
import os
import re
import shlex
import stat
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from prep.errors import PrepError

HEAD = 4096  # the number of bytes that tell what a file is
LFS_POINTER = b"version https://git-lfs"
_DRIVE = re.compile(r"[A-Za-z]:([/\\]|$)")


class NotPlainError(OSError):
    """A folder, pipe, socket or device where a plain file is needed: to read it might never end."""


def open_plain(path: str | Path) -> BufferedReader:
    """Open a file for reading bytes; :class:`OSError` as ``open``, or its subclass :class:`NotPlainError`."""
    return open(path, "rb", opener=_plain)


def _plain(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK)  # a pipe without a writer would block
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise NotPlainError(errno.EINVAL, "not a plain file", path)
    return descriptor


def read_plain(path: str | Path, limit: int) -> bytes:
    """The bytes of a plain file; :class:`OSError` as :func:`open_plain`, or for more than ``limit`` bytes."""
    with open_plain(path) as file:
        if (size := os.fstat(file.fileno()).st_size) > limit:
            raise OSError(
                errno.EFBIG, f"{size >> 20:,} MiB, over the limit of {limit >> 20:,} MiB", str(path)
            )
        return file.read()


def read_lines(path: Path, limit: int = 1 << 28) -> list[str]:
    """The lines of a UTF-8 text file that are not empty, without their ends; :class:`PrepError`."""
    try:
        data = read_plain(path, limit)
        check_text(path, data[:HEAD])
        lines = (line.removesuffix("\r") for line in data.decode("utf-8-sig").split("\n"))
        return [line for line in lines if line]
    except UnicodeDecodeError as error:
        raise PrepError(f"{path} is {not_utf8(error)}.", "Check that it is the right file.") from error
    except OSError as error:
        raise PrepError(f"{path} cannot be read: {error.strerror or error}.", "Check the path.") from error


def below(name: str) -> str | None:
    """A file name as a plain relative POSIX path; None if it leaves the folder that it is joined to.

    It must stay inside both as POSIX and as Windows read it. A colon elsewhere than in a drive (``C:/``) is
    part of a name.
    """
    other = name.replace("\\", "/")
    if "\0" in name or _DRIVE.match(name) or other.startswith("/") or ".." in other.split("/"):
        return None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return "/".join(parts) or None


@lru_cache(maxsize=16)  # a dataset names an image several times in a row
def image_name(name: str) -> tuple[str | None, str]:
    """An image's name in a dataset as a path below the image root, or None and the reason."""
    path = below(name)
    if path is None:
        return None, f"the image {name[:80]!r} leaves the image folder"
    if "\\" in path:
        return None, f"the image {name[:80]!r} has a backslash, where a path has /"
    return path, ""


def lfs_pointer(path: Path) -> PrepError:
    """The error of a file whose content Git LFS has not fetched."""
    return PrepError(
        f"{path} is a Git LFS pointer, not the file itself.", "Run `git lfs pull` in its folder."
    )


class _Kind(NamedTuple):
    """What bytes are that are not UTF-8 text, and the command that turns them into it."""

    name: str
    command: str


_MAGIC = {
    b"\x1f\x8b": _Kind("a gzip file", "gzip -dc"),
    b"PK\x03\x04": _Kind("a zip file", "unzip -p"),
    b"BZh": _Kind("a bzip2 file", "bzip2 -dc"),
    b"\xfd7zXZ": _Kind("an xz file", "xz -dc"),
    b"\x28\xb5\x2f\xfd": _Kind("a zstd file", "zstd -dc"),
    b"\xff\xfe\0\0": _Kind("UTF-32 text", "iconv -f UTF-32 -t UTF-8"),
    b"\0\0\xfe\xff": _Kind("UTF-32 text", "iconv -f UTF-32 -t UTF-8"),
    b"\xff\xfe": _Kind("UTF-16 text", "iconv -f UTF-16 -t UTF-8"),
    b"\xfe\xff": _Kind("UTF-16 text", "iconv -f UTF-16 -t UTF-8"),
}  # longer marks before those that they begin with


def check_text(path: Path, head: bytes) -> None:
    """Raise the error of a file that begins with ``head`` if it is not UTF-8 text with lines.

    Such as a compressed file, or text in UTF-16.
    """
    found = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
    for name, unit in (("UTF-32LE", b"%c\0\0\0"), ("UTF-16LE", b"%c\0"), ("UTF-16BE", b"\0%c")):
        if found is None and _is_wide(head, unit):
            found = _Kind(f"{name} text", f"iconv -f {name} -t UTF-8")
    if found is None and re.search(rb"\}[ \t]*\r[ \t]*\{", head):
        found = _Kind("text whose lines end in CR alone", "tr '\\r' '\\n' <")
    if found is not None:
        raise PrepError(
            f"{path} is {found.name}, where UTF-8 text with LF is needed.",
            f"Convert it: {found.command} {shlex.quote(str(path))} > {shlex.quote(f'utf8-{path.name}')}",
        )
    if head.startswith(LFS_POINTER):
        raise lfs_pointer(path)


def _is_wide(head: bytes, unit: bytes) -> bool:
    """Whether the first four characters are ASCII in units such as ``%c\\0``."""
    at, size = unit.index(b"%c"), len(unit) - 1
    letters = head[at : 4 * size : size]
    return (
        len(letters) == 4
        and 0 not in letters
        and head[: 4 * size] == b"".join(unit % letter for letter in letters)
    )


def encoding_of(data: bytes) -> str:
    """The likely encoding of a line that is not UTF-8: GBK if its letters beyond ASCII come in pairs."""
    runs = re.findall(rb"[\x80-\xff]+", data)
    try:
        data.decode("gb18030")
    except UnicodeDecodeError:
        return "cp1252"
    return "GBK" if all(len(run) % 2 == 0 for run in runs) else "cp1252"


def not_utf8(error: UnicodeDecodeError) -> str:
    """Where bytes stop being UTF-8 and what they may be, for a reason or message."""
    return (
        f"not UTF-8 text (byte 0x{error.object[error.start]:02x} at {error.start}; "
        f"perhaps {encoding_of(error.object)})"
    )

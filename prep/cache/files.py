"""The few file operations a store needs, on local paths and object stores, with errors for people."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from prep.errors import PrepError
from prep.files import write_whole
from prep.hints import remedy_of


@contextlib.contextmanager
def explained(doing: str, where: str) -> Iterator[None]:
    """Turn an ``OSError``, or what pyarrow says of a damaged shard, into a :class:`PrepError` that says what
    was being done, where, and what to do.
    """
    try:
        yield
    except pa.ArrowInvalid as error:
        reason = str(error).split("\n", 1)[0]
        raise PrepError(
            f"Cannot {doing} {where}: {reason}",
            "`pcnet-prep verify --repair` cuts out what is damaged and makes it again.",
        ) from error
    except OSError as error:
        reason = error.strerror or str(error).split("\n", 1)[0]
        raise PrepError(f"Cannot {doing} {where}: {reason}", remedy_of(error)) from error


class Files:
    """A folder on some filesystem. Names are POSIX paths below it; a whole file appears at once or not at
    all.

    ``local`` is the folder's path on a local (or mounted) filesystem and ``None`` on an object store, where a
    write is atomic by itself and nothing is ever renamed.
    """

    def __init__(self, filesystem: Any, root: str, uri: str) -> None:
        self.filesystem = filesystem
        self.root = root.rstrip("/") or "/"
        self.uri = uri.rstrip("/") or "/"
        self.local = Path(root) if isinstance(filesystem, pafs.LocalFileSystem) else None

    def __reduce__(self) -> tuple[Any, ...]:
        return open_files, (self.uri,)

    def path(self, name: str = "") -> str:
        """``name`` as the filesystem knows it."""
        return f"{self.root}/{name}" if name else self.root

    def where(self, name: str = "") -> str:
        """``name`` as a person knows it."""
        return f"{self.uri}/{name}" if name else self.uri

    def folder(self, name: str) -> Files:
        """The folder ``name`` below this one; it need not exist."""
        head, query, options = self.uri.partition("?")
        return Files(self.filesystem, self.path(name), f"{head.rstrip('/')}/{name}{query}{options}")

    def make(self) -> None:
        """Create the folder where folders exist; on object stores there is nothing to create."""
        if self.local is not None:
            with explained("create", self.uri):
                self.local.mkdir(parents=True, exist_ok=True)

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or folder ``name``."""
        with explained("look for", self.where(name)):
            info = self.filesystem.get_file_info(self.path(name))
        return bool(info.type != pafs.FileType.NotFound)

    def sizes(self) -> dict[str, int]:
        """The files directly in this folder with their sizes in bytes; empty where there is no folder."""
        with explained("list", self.uri):
            found = self.filesystem.get_file_info(pafs.FileSelector(self.path(), allow_not_found=True))
        return {info.base_name: info.size for info in found if info.type == pafs.FileType.File}

    def tree(self) -> dict[str, int]:
        """Every file in this folder and below it, by its name from here, with its size in bytes."""
        with explained("list", self.uri):
            chosen = pafs.FileSelector(self.path(), recursive=True, allow_not_found=True)
            found = self.filesystem.get_file_info(chosen)
        start = len(self.root) + 1
        return {info.path[start:]: info.size for info in found if info.type == pafs.FileType.File}

    def folders(self) -> list[str]:
        """The names of the folders directly in this one, sorted."""
        with explained("list", self.uri):
            found = self.filesystem.get_file_info(pafs.FileSelector(self.path(), allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == pafs.FileType.Directory)

    def read(self, name: str) -> bytes:
        """A whole small file."""
        with (
            explained("read", self.where(name)),
            self.filesystem.open_input_stream(self.path(name)) as stream,
        ):
            return bytes(stream.read())

    def write(self, name: str, data: bytes | pa.Buffer) -> None:
        """Write a whole file durably: after this returns it survives a crash, before that it is not there.

        The folder must exist: one that was removed while we work is an error, not something to make again.
        """
        with explained("write", self.where(name)):
            if self.local is None:
                with self.filesystem.open_output_stream(self.path(name)) as stream:
                    stream.write(data)
                return
            write_whole(self.local / name, data)

    def delete(self, name: str) -> None:
        """Remove a file; one that is already gone is no error."""
        with explained("remove", self.where(name)), contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(self.path(name))

    def is_shared(self, name: str) -> bool:
        """Whether a file stands in another folder as well (a hard link): removing it frees nothing."""
        return self.local is not None and os.stat(self.local / name).st_nlink > 1

    def link(self, name: str, target: Files) -> None:
        """Make file ``name`` also appear in folder ``target``: a hard link where possible, else a copy."""
        if self.local is not None and target.local is not None:
            try:
                os.link(self.local / name, target.local / name)
                return
            except FileExistsError:
                return
            except OSError:
                pass  # another device, or a file system without links
        target.write(name, self.read(name))


def open_files(uri: str | Path) -> Files:
    """The folder at a local path or at any URI pyarrow knows (``s3://``, ``gs://``, ``hdfs://``,
    ``file://``).

    Credentials come from the environment, as each filesystem documents. Raises :class:`PrepError` for a URI
    that no filesystem serves.
    """
    text = os.fspath(uri)
    if "://" not in text:
        full = os.path.abspath(os.path.expanduser(text))
        return Files(pafs.LocalFileSystem(), full, full)
    try:
        filesystem, root = pafs.FileSystem.from_uri(text)
    except (pa.ArrowInvalid, OSError) as error:
        reason = str(error).split("\n", 1)[0]
        raise PrepError(
            f"Cannot use {text}: {reason}",
            "Give a local folder, or an s3:// or gs:// URI with its credentials set.",
        ) from error
    return Files(filesystem, root, root if isinstance(filesystem, pafs.LocalFileSystem) else text)

"""Reads, writes and lists the files of a store, on local file systems and object stores."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar, cast

import pyarrow as pa
import pyarrow.fs as pafs

from prep.cache.remote import waiting_for
from prep.cache.schema import STAGES
from prep.display import without_secrets
from prep.errors import PrepError
from prep.files import write_whole
from prep.hints import remedy_of

T = TypeVar("T")
# The file systems of pyarrow that a store can be on: Hugging Face's keeps no folder that can be rewritten.
SCHEMES = ("s3", "gs", "gcs", "hdfs", "viewfs", "abfs", "abfss", "file")


def repair_command(where: str) -> str:
    """The command that repairs the store of a table, or of a file in one, in backticks."""
    head, query, options = where.partition("?")
    tables = "|".join(STAGES)
    found = re.fullmatch(rf"(.+?)(?:/aside)?(?:/_state)?/(?:{tables})(?:/[^/]+)?", head)
    store = shlex.quote(f"{found[1]}{query}{options.partition('/')[0]}") if found else "STORE"
    return f"`pcnet-prep verify {store} --repair`"


@contextlib.contextmanager
def explained(doing: str, where: str) -> Iterator[None]:
    """Turn an ``OSError``, or pyarrow's error for a damaged shard, into a :class:`PrepError` with the
    operation, the place and a remedy.
    """
    try:
        yield
    except (OSError, pa.ArrowException) as error:  # Azure's errors are no OSError
        reason = getattr(error, "strerror", None) or str(error).split("\n", 1)[0]
        system = error if isinstance(error, OSError) else OSError()
        # Arrow raises OSError for a damaged page too, but without an error number. The errors of an object
        # store have none either.
        page = doing == "read" and error is system and not error.errno and "://" not in where
        if page or isinstance(error, pa.ArrowInvalid):
            remedy = f"Run {repair_command(where)}: it removes the damaged rows and makes them again."
        else:
            remedy = remedy_of(system)
        raise PrepError(f"Cannot {doing} {where}: {reason.rstrip('.')}.", remedy) from error


class Files:
    """A folder on a file system. Names are POSIX paths below it; files are written atomically.

    ``uri`` is for messages and records, without credentials; ``address`` opens the folder again. ``local`` is
    the folder's path on a local (or mounted) file system and ``None`` on an object store, where a write is
    atomic and nothing is renamed.
    """

    def __init__(self, filesystem: pafs.FileSystem, root: str, uri: str) -> None:
        self.filesystem = filesystem
        self.root = root.rstrip("/") or "/"
        self.address = uri.rstrip("/") or "/"
        self.uri = without_secrets(self.address)
        self.local = Path(root) if isinstance(filesystem, pafs.LocalFileSystem) else None

    def __reduce__(self) -> tuple[object, ...]:
        return open_files, (self.address,)

    def call(self, function: Callable[[], T]) -> T:
        """``function()``, a call of the file system; of an object store a signal ends the wait for it."""
        return function() if self.local is not None else waiting_for(self.uri, function)

    def path(self, name: str = "") -> str:
        """The path of ``name`` for the file system."""
        return f"{self.root}/{name}" if name else self.root

    def where(self, name: str = "") -> str:
        """The path or URI of ``name`` for messages."""
        return f"{self.uri}/{name}" if name else self.uri

    def folder(self, name: str) -> Files:
        """The folder ``name`` in this one; it does not need to exist."""
        head, query, options = self.address.partition("?")
        return Files(self.filesystem, self.path(name), f"{head.rstrip('/')}/{name}{query}{options}")

    def beside(self, name: str) -> Files:
        """The folder of this one's name in the folder ``name`` next to it; it does not need to exist."""
        head, query, options = self.address.partition("?")
        parent, _, own = self.root.rpartition("/")
        address = f"{head.rstrip('/').rpartition('/')[0]}/{name}/{own}{query}{options}"
        return Files(self.filesystem, f"{parent}/{name}/{own}", address)

    def make(self) -> None:
        """Create the folder; does nothing on object stores."""
        if self.local is not None:
            with explained("create", self.uri):
                self.local.mkdir(parents=True, exist_ok=True)

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or folder ``name``."""
        with explained("look for", self.where(name)):
            info = self.call(lambda: self.filesystem.get_file_info(self.path(name)))
        return bool(info.type != pafs.FileType.NotFound)

    def sizes(self) -> dict[str, int]:
        """The files directly in this folder with their sizes in bytes; empty if it does not exist."""
        with explained("list", self.uri):
            chosen = pafs.FileSelector(self.path(), allow_not_found=True)
            found = self.call(lambda: self.filesystem.get_file_info(chosen))
        return {info.base_name: info.size for info in found if info.type == pafs.FileType.File}

    def tree(self) -> dict[str, int]:
        """All files in this folder and its subfolders, by relative name, with their sizes in bytes.

        On a local file system, links in the folder are left out: what they lead to is not ours.
        """
        if self.local is not None:
            paths = (Path(folder, name) for folder, _, names in os.walk(self.local) for name in names)
            plain = (file for file in paths if file.is_file() and not file.is_symlink())
            return {file.relative_to(self.local).as_posix(): file.stat().st_size for file in plain}
        with explained("list", self.uri):
            chosen = pafs.FileSelector(self.path(), recursive=True, allow_not_found=True)
            found = self.call(lambda: self.filesystem.get_file_info(chosen))
        start = len(self.root) + 1
        return {info.path[start:]: info.size for info in found if info.type == pafs.FileType.File}

    def folders(self) -> list[str]:
        """The names of the folders directly in this one, sorted."""
        with explained("list", self.uri):
            chosen = pafs.FileSelector(self.path(), allow_not_found=True)
            found = self.call(lambda: self.filesystem.get_file_info(chosen))
        return sorted(info.base_name for info in found if info.type == pafs.FileType.Directory)

    def read(self, name: str) -> bytes:
        """A whole small file."""

        def get() -> bytes:
            with self.filesystem.open_input_stream(self.path(name)) as stream:
                return bytes(stream.read())

        with explained("read", self.where(name)):
            return self.call(get)

    def write(self, name: str, data: bytes | pa.Buffer) -> None:
        """Write a file durably and atomically: it exists only once it is complete, and then survives a crash.

        The folder must exist: if it was removed meanwhile, that is an error.
        """

        def put() -> None:
            with self.filesystem.open_output_stream(self.path(name)) as stream:
                stream.write(data)

        with explained("write", self.where(name)):
            if self.local is None:
                self.call(put)
            else:
                write_whole(self.local / name, data)

    def delete(self, name: str) -> None:
        """Remove a file if it exists."""
        with explained("remove", self.where(name)), contextlib.suppress(FileNotFoundError):
            self.call(lambda: self.filesystem.delete_file(self.path(name)))

    def is_shared(self, name: str) -> bool:
        """Whether a file is also in another folder (a hard link), so that removing it frees no space."""
        return self.local is not None and os.stat(self.local / name).st_nlink > 1

    def link(self, name: str, target: Files) -> None:
        """Add file ``name`` to folder ``target``, as a hard link if possible, else as a copy."""
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
    """The folder at a local path or at a URI of one of :data:`SCHEMES`.

    Credentials come from the environment, as each file system documents. Raises :class:`PrepError` for a URI
    without a file system, and for one that a store cannot be on.
    """
    text = os.fspath(uri)
    if "://" not in text:
        full = os.path.abspath(os.path.expanduser(text))
        return Files(pafs.LocalFileSystem(), full, full)
    scheme = text.partition("://")[0].lower()
    if scheme not in SCHEMES:
        raise PrepError(
            without_secrets(f"A store cannot be at {text}: {scheme}:// is not supported."),
            f"Give a local folder, or one of: {', '.join(f'{name}://' for name in SCHEMES)}.",
        )
    try:
        filesystem, root = waiting_for(
            without_secrets(text), lambda: cast("tuple[pafs.FileSystem, str]", pafs.FileSystem.from_uri(text))
        )
    except (pa.ArrowException, OSError) as error:
        reason = str(error).split("\n", 1)[0]
        raise PrepError(
            without_secrets(f"Cannot use {text}: {reason.rstrip('.')}."),
            "Give a local folder, or an s3:// or gs:// URI with its credentials set.",
        ) from error
    return Files(filesystem, root, root if isinstance(filesystem, pafs.LocalFileSystem) else text)

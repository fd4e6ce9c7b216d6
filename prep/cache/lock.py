"""Locks a folder for one writer at a time, with a lock that names its holder and ends with the process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from prep.cache.files import Files, explained
from prep.cache.lease import HeldError, Lease, is_dead, leases, read_lease
from prep.cache.state import HOLDER_FILE, LOCK_FILE, OLD_LOCK, state_of
from prep.errors import PrepError
from prep.files import lock_file

# What a file system says of a lock that somebody has, and of locks that it does not have.
_TAKEN = (errno.EAGAIN, errno.EACCES)
_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
# POSIX locks do not exclude threads of one process, so these are tracked here.
_held: set[str] = set()
_held_guard = threading.Lock()


def holder(files: Files) -> dict[str, object] | None:
    """The last holder of the lock of this table: ``host``, ``pid``, ``started`` (UTC), or ``None``."""
    state = state_of(files)
    held = [one.says for one in leases(state) if one.is_held]
    return held[0] if held else read_lease(state, HOLDER_FILE)


def _is_locked(path: Path) -> bool:
    """Whether another process holds the POSIX lock of this file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _TAKEN
    finally:
        os.close(descriptor)
    return False


class WriterLock:
    """Locks a table for one writer, from :meth:`acquire` to :meth:`release` or the end of the process.

    Locally it is a POSIX record lock: the kernel releases it when the process ends for any reason, and a
    forked child does not inherit it. On an object store, or a file system without locks, it is a
    :class:`prep.cache.lease.Lease`, which its holder renews and another writer takes over once it has not
    changed for some time.
    """

    def __init__(self, files: Files) -> None:
        self.table = files
        self.files = state_of(files)
        self._descriptor: int | None = None
        self._identity = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "token": secrets.token_hex(8),
        }
        self._lease: Lease | None = None

    def acquire(self) -> None:
        """Take the lock, or raise :class:`PrepError` with the name of its holder."""
        with _held_guard:
            if self.files.uri in _held:
                raise self._refusal()
            _held.add(self.files.uri)
        try:
            if not self._acquire_local():
                lease = Lease(self.files, self._identity)
                with self._refusing():
                    lease.acquire()
                self._lease = lease
        except BaseException:
            with _held_guard:
                _held.discard(self.files.uri)
            raise
        try:
            self._refuse_older_writer()
        except BaseException:
            self.release()
            raise

    def _refuse_older_writer(self) -> None:
        """0.1.0 locks the table's folder: a writer of it may be at work while this one is started."""
        if self.table.local is not None:
            busy = _is_locked(self.table.local / f"{OLD_LOCK}{LOCK_FILE}")
        else:
            name = f"{OLD_LOCK}{HOLDER_FILE}"
            lease = read_lease(self.table, name) or {}
            busy = bool(lease.get("token")) and not is_dead(lambda: read_lease(self.table, name), lease)
        if busy:
            raise self._refusal(read_lease(self.table, f"{OLD_LOCK}{HOLDER_FILE}"))

    def _acquire_local(self) -> bool:
        """Take the POSIX lock; False if the file system has no locks."""
        if self.files.local is None:
            return False
        path = self.files.local / LOCK_FILE
        with explained("lock", str(path)):
            descriptor = lock_file(path)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in _TAKEN:
                raise self._refusal() from None
            if error.errno in _NO_LOCKS:
                return False
            raise
        self._descriptor = descriptor
        self.files.write(HOLDER_FILE, json.dumps(self._identity).encode())
        return True

    def is_held(self) -> bool:
        """Whether a running process, including this one, holds the lock."""
        with _held_guard:
            if self.files.uri in _held:
                return True
        locked = self.files.local is not None and _is_locked(self.files.local / LOCK_FILE)
        return locked or any(one.is_held for one in leases(self.files))

    def check(self) -> None:
        """Raise :class:`PrepError` if another writer has taken over the lease; a local lock
        cannot be lost.
        """
        if self._lease is not None:
            with self._refusing():
                self._lease.check()

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._lease is not None:
            self._lease.release()
            self._lease = None
        if self._descriptor is not None:
            if (read_lease(self.files, HOLDER_FILE) or {}).get("token") == self._identity["token"]:
                with contextlib.suppress(PrepError):
                    self.files.delete(HOLDER_FILE)
            os.close(self._descriptor)
            self._descriptor = None
        with _held_guard:
            _held.discard(self.files.uri)

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except HeldError as error:
            raise self._refusal(error.who) from None

    def _refusal(self, who: Mapping[str, object] | None = None) -> PrepError:
        who = who or holder(self.table)
        named = (
            f"pid {who.get('pid')} on {who.get('host')} since {who.get('started')}"
            if who
            else "another process"
        )
        return PrepError(
            f"{self.table.uri} is being written by {named}.",
            "Wait for it, stop it, or set another --store. A dead process's lock is released automatically.",
        )

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
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prep.cache.files import Files, explained
from prep.cache.state import HOLDER_FILE, LOCK_FILE, OLD_LOCK, state_of
from prep.errors import PrepError
from prep.files import lock_file

HEARTBEAT_SECONDS = 10.0
TAKEOVER_SECONDS = 3 * HEARTBEAT_SECONDS

# POSIX locks do not exclude threads of one process, so these are tracked here.
_held: set[str] = set()
_held_guard = threading.Lock()


def holder(files: Files) -> dict[str, object] | None:
    """The last holder of the lock of this table: ``host``, ``pid``, ``started`` (UTC), or ``None``."""
    return _lease(state_of(files), HOLDER_FILE)


def _lease(place: Files, name: str) -> dict[str, object] | None:
    try:
        value = json.loads(place.read(name))
    except (PrepError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _is_locked(path: Path) -> bool:
    """Whether another process holds the POSIX lock of this file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


class WriterLock:
    """Locks a table for one writer, from :meth:`acquire` to :meth:`release` or the end of the process.

    Locally it is a POSIX record lock: the kernel releases it when the process ends for any reason, and a
    forked child does not inherit it. On an object store, or a file system without locks, it is a lease: an
    object that its holder renews. A lease that has not changed for :data:`TAKEOVER_SECONDS` of the observer's
    monotonic clock is expired and is taken over. Clocks of different machines are never compared.
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
        self._beat = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lock, or raise :class:`PrepError` with the name of its holder."""
        with _held_guard:
            if self.files.uri in _held:
                raise self._refusal()
            _held.add(self.files.uri)
        try:
            if not self._acquire_local():
                self._acquire_lease()
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
            lease = _lease(self.table, name)
            busy = (
                lease is not None and bool(lease.get("token")) and not self._is_dead(lease, self.table, name)
            )
        if busy:
            raise self._refusal(_lease(self.table, f"{OLD_LOCK}{HOLDER_FILE}"))

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
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise self._refusal() from None
            if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL):
                return False
            raise
        self._descriptor = descriptor
        self._write_holder()
        return True

    def _acquire_lease(self) -> None:
        before = _lease(self.files, HOLDER_FILE)
        if before and before.get("token") and not self._is_dead(before, self.files, HOLDER_FILE):
            raise self._refusal()
        self._write_holder()
        # If two processes write at the same time, the store keeps the last one, and after a pause both see
        # which.
        time.sleep(0.2)
        self.check()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def _is_dead(self, seen: dict[str, Any], place: Files, name: str) -> bool:
        """Whether the lease's holder has ended: by its pid on this machine, else by waiting for a renewal."""
        if seen.get("host") == socket.gethostname() and seen.get("pid") not in (0, -1):  # no process's
            try:
                os.kill(int(seen["pid"]), 0)
            except ProcessLookupError:
                return True
            except (OSError, KeyError, ValueError, TypeError, OverflowError):
                pass  # no pid, or not one that we may ask about
            else:
                return False
        deadline = time.monotonic() + TAKEOVER_SECONDS
        while time.monotonic() < deadline:
            time.sleep(1.0)
            if _lease(place, name) != seen:
                return False
        return True

    def _renew(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(PrepError):
                current = _lease(self.files, HOLDER_FILE)
                if current is None or current.get("token") == self._identity["token"]:
                    self._beat += 1
                    self._write_holder()

    def _write_holder(self) -> None:
        self.files.write(HOLDER_FILE, json.dumps({**self._identity, "beat": self._beat}).encode())

    def is_held(self) -> bool:
        """Whether a running process, including this one, holds the lock."""
        with _held_guard:
            if self.files.uri in _held:
                return True
        if self.files.local is None:
            return _lease(self.files, HOLDER_FILE) is not None
        return _is_locked(self.files.local / LOCK_FILE)

    def check(self) -> None:
        """Raise :class:`PrepError` if another writer has taken over the lease; a local lock
        cannot be lost.
        """
        if self._descriptor is None:
            current = _lease(self.files, HOLDER_FILE)
            if current is None or current.get("token") != self._identity["token"]:
                raise self._refusal()

    def release(self) -> None:
        """Release the lock, if it is held."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        mine = _lease(self.files, HOLDER_FILE)
        if mine is not None and mine.get("token") == self._identity["token"]:
            with contextlib.suppress(PrepError):
                self.files.delete(HOLDER_FILE)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        with _held_guard:
            _held.discard(self.files.uri)

    def _refusal(self, who: dict[str, object] | None = None) -> PrepError:
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

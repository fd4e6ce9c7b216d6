"""Leases stand for a lock where there is none: objects in generations, each written by its holder alone."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from prep.cache.files import Files
from prep.cache.state import LEASE_PREFIX
from prep.errors import PrepError

HEARTBEAT_SECONDS = 10.0
TAKEOVER_SECONDS = 3 * HEARTBEAT_SECONDS
# How long one of two that take a lease at once waits for the other to give way.
RIVAL_SECONDS = 2.0

_NAME = re.compile(rf"{LEASE_PREFIX}(\d+)-([0-9a-f]+)\.json")


class HeldError(Exception):
    """Another writer has the lease; ``who`` is what its object says: host, pid, started."""

    def __init__(self, who: Mapping[str, object]) -> None:
        super().__init__("held")
        self.who = who


@dataclass(frozen=True)
class Found:
    """A lease in a table's bookkeeping: its generation, the token of its writer, and what its object says."""

    generation: int
    token: str
    says: dict[str, object]

    @property
    def name(self) -> str:
        """The name of its object."""
        return _name(self.generation, self.token)

    @property
    def is_held(self) -> bool:
        """Whether it is not released: its holder works, or has died."""
        return not self.says.get("released")


def _name(generation: int, token: str) -> str:
    return f"{LEASE_PREFIX}{generation:010d}-{token}.json"


def read_lease(files: Files, name: str) -> dict[str, object] | None:
    """The object of a lease; None if it is not there, or is no JSON object."""
    try:
        value = json.loads(files.read(name))
    except (PrepError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def leases(files: Files) -> list[Found]:
    """The leases of the newest generation in this folder, in the order of their tokens."""
    named = [(int(match[1]), match[2]) for match in map(_NAME.fullmatch, files.sizes()) if match]
    newest = max(named, default=(0, ""))[0]
    found = [(token, read_lease(files, _name(newest, token))) for number, token in named if number == newest]
    # One that is gone by now was withdrawn; one that cannot be read has a holder that is not known.
    there = files.sizes() if any(says is None for _, says in found) else ()
    return [
        Found(newest, token, says or {})
        for token, says in sorted(found, key=lambda one: one[0])
        if says is not None or _name(newest, token) in there
    ]


def is_dead(read: Callable[[], object], says: Mapping[str, object]) -> bool:
    """Whether the holder of a lease has ended: by its pid on this machine, else by waiting for a renewal.

    ``read`` returns what the lease says by now. Clocks of different machines are never compared.
    """
    here, pid = says.get("host") == socket.gethostname(), says.get("pid")
    if here and isinstance(pid, int | float | str) and pid not in (0, -1):  # no process's
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
        except (OSError, ValueError, OverflowError):
            pass  # no pid, or not one that we may ask about
        else:
            return False
    before, deadline = read(), time.monotonic() + TAKEOVER_SECONDS
    while time.monotonic() < deadline:
        time.sleep(1.0)
        if read() != before:
            return False
    return True


class Lease:
    """The lease of one writer on a folder: acquire, check before each commit, release.

    An object store can only read, list and replace whole objects, so no object has two writers: a takeover
    writes an object of the next generation under a name of its own, and a renewal replaces the object of its
    own writer. The newest generation is the one that holds. A generation stays after its release, and is
    removed by the next one: a holder that was paused for hours still sees that it lost the lease. Of two
    that take the same generation, each lists the folder after it has written, so that one of them at least
    sees the other and gives way.
    """

    def __init__(self, files: Files, identity: Mapping[str, object]) -> None:
        self._files = files
        self._identity = dict(identity)
        self._token = str(identity["token"])
        self._generation = 0
        self._beat = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lease and renew it from now on, or raise :class:`HeldError`."""
        before = leases(self._files)
        for lease in before:
            if lease.is_held and not is_dead(partial(read_lease, self._files, lease.name), lease.says):
                raise HeldError(lease.says)
        self._generation = before[0].generation + 1 if before else 1
        self._write()
        try:
            self._outlast_rivals()
        except BaseException:
            self._files.delete(self._name)
            raise
        for lease in before:
            self._files.delete(lease.name)
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def _outlast_rivals(self) -> None:
        """Wait until nobody else claims this generation; raise :class:`HeldError` to give way."""
        deadline = time.monotonic() + RIVAL_SECONDS
        while rivals := [one for one in leases(self._files) if one.token != self._token]:
            first = rivals[0]
            if first.generation > self._generation or first.token < self._token or not first.is_held:
                raise HeldError(first.says)
            if time.monotonic() > deadline:
                raise HeldError(first.says)
            time.sleep(0.1)

    @property
    def _name(self) -> str:
        return _name(self._generation, self._token)

    def _write(self, **more: bool) -> None:
        said = {**self._identity, "beat": self._beat, **more}
        self._files.write(self._name, json.dumps(said).encode())

    def _keep(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(PrepError):  # the store does not answer: at the next beat it may
                self.renew()

    def renew(self) -> None:
        """Replace our object by one with another beat, unless the lease is lost."""
        if self._successor() is None:
            self._beat += 1
            self._write()

    def _successor(self) -> Mapping[str, object] | None:
        """What the lease after ours says, an empty mapping if ours was removed, or None if we hold it."""
        found = leases(self._files)
        if any(one.token == self._token for one in found):
            return None
        return found[0].says if found else {}

    def check(self) -> None:
        """Raise :class:`HeldError` if another writer has taken over the lease."""
        if (who := self._successor()) is not None:
            raise HeldError(who)

    def release(self) -> None:
        """Stop renewing, and say that the lease is free, if we still hold it."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            with contextlib.suppress(PrepError):
                if self._successor() is None:
                    self._write(released=True)

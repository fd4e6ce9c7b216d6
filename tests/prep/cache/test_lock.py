"""The lease that stands for a lock on an object store, on a file system that is handled like one."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from prep.cache import lease, lock
from prep.cache.files import Files
from prep.cache.lease import leases
from prep.cache.lock import HOLDER_FILE, WriterLock, holder
from prep.cache.schema import SCORES
from prep.cache.state import state_of
from prep.cache.store import StageStore
from prep.errors import PrepError
from tests.prep.toy import item, row

sleep = time.sleep


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """A table in a bucket; a second of waiting takes 10 ms."""
    (tmp_path / "bucket" / "_state" / "scores").mkdir(parents=True)
    (tmp_path / "bucket" / "scores").mkdir()
    filesystem = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    files = Files(filesystem, "bucket/scores", "s3://bucket/scores")
    assert files.local is None
    monkeypatch.setattr(lease.time, "sleep", lambda seconds: sleep(seconds / 100))
    monkeypatch.setattr(lease, "TAKEOVER_SECONDS", 0.15)
    monkeypatch.setattr(lease, "RIVAL_SECONDS", 0.05)
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 3600.0)
    monkeypatch.setattr(lock, "_held", set())  # a test that fails releases nothing
    return files


THEIRS = "feed"  # the token of another writer


def put(table: Files, generation: int = 1, token: str = THEIRS, **says: Any) -> dict[str, Any]:
    made = {"host": "elsewhere", "pid": 1, "started": "2020-01-01", "token": token, "beat": 3, **says}
    name = f"lease-{generation:010d}-{token}.json"
    state_of(table).write(name, json.dumps(made).encode())
    return made


def test_a_lease_names_its_holder_and_is_renewed_until_it_is_released(
    table: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = WriterLock(table)
    assert not mine.is_held()
    mine.acquire()
    first = holder(table)
    assert first is not None
    mine.release()
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.01)
    mine = WriterLock(table)
    mine.acquire()
    assert (first["host"], first["pid"]) == (socket.gethostname(), os.getpid())
    assert len(first["token"]) == 16
    assert (first["started"][:2], first["started"][-6:]) == ("20", "+00:00")
    for _ in range(1000):
        sleep(0.01)
        if (holder(table) or {"beat": 0})["beat"] >= 2:
            break
    else:
        pytest.fail("The lease is not renewed.")
    assert mine._lease is not None
    assert mine._lease._thread is not None
    assert mine._lease._thread.daemon  # it must not keep a failed process alive
    assert mine.is_held()
    mine.release()
    assert holder(table) is None
    assert not WriterLock(table).is_held()


def test_a_renewal_that_fails_is_made_at_the_next_beat(table: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.01)
    mine = WriterLock(table)
    mine.acquire()
    real, failed = mine.files.write, threading.Event()

    def unreachable(name: str, data: bytes) -> None:
        monkeypatch.setattr(mine.files, "write", real)
        failed.set()
        raise PrepError("The store does not answer.", "Try again.")

    before = (holder(table) or {})["beat"]
    monkeypatch.setattr(mine.files, "write", unreachable)
    assert failed.wait(10)
    for _ in range(1000):
        sleep(0.01)
        if (holder(table) or {})["beat"] > before + 1:
            break
    else:
        pytest.fail("The lease is not renewed any more.")
    mine.release()


def test_a_lease_of_this_process_is_refused_at_once(table: Files) -> None:
    mine = WriterLock(table)
    mine.acquire()
    with pytest.raises(PrepError, match=f"s3://bucket/scores is being written by pid {os.getpid()}"):
        WriterLock(table).acquire()
    mine.release()
    again = WriterLock(table)  # the refusal leaves nothing behind
    again.acquire()
    again.release()


def test_a_running_process_of_this_machine_is_waited_for_and_a_dead_one_is_not(
    table: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(table, host=socket.gethostname(), pid=os.getpid())
    assert WriterLock(table).is_held()
    with pytest.raises(PrepError, match="is being written by"):
        WriterLock(table).acquire()

    def gone(pid: int, signal: int) -> None:
        assert (pid, signal) == (4711, 0)
        raise ProcessLookupError

    monkeypatch.setattr(lease.os, "kill", gone)
    monkeypatch.setattr(lease, "TAKEOVER_SECONDS", 1e6)  # not by waiting
    put(table, host=socket.gethostname(), pid=4711)
    mine = WriterLock(table)
    mine.acquire()
    assert (holder(table) or {})["token"] != THEIRS
    mine.release()


@pytest.mark.parametrize("pid", [1, "x", None, [], 10**30, 0, -1])
def test_the_lease_of_another_machine_expires_if_it_is_not_renewed(table: Files, pid: Any) -> None:
    """Also one of this machine whose pid says nothing."""
    put(table, pid=pid, host=socket.gethostname() if pid != 1 else "elsewhere")
    started = time.monotonic()
    mine = WriterLock(table)
    mine.acquire()
    assert time.monotonic() - started >= 0.15
    mine.release()


def test_a_lease_that_is_renewed_while_another_waits_is_respected(
    table: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(table)
    beats = iter(range(4, 1000))

    def waiting(seconds: float) -> None:
        sleep(0.02)
        put(table, beat=next(beats))

    monkeypatch.setattr(lease.time, "sleep", waiting)
    with pytest.raises(PrepError, match="being written by pid 1 on elsewhere since 2020-01-01"):
        WriterLock(table).acquire()
    assert (holder(table) or {})["token"] == THEIRS
    assert not lock._held


def elsewhere(table: Files, monkeypatch: pytest.MonkeyPatch) -> WriterLock:
    """A writer as on another machine, whose pid says nothing here."""
    with monkeypatch.context() as away:
        away.setattr(lock.socket, "gethostname", lambda: "another-machine")
        return WriterLock(table)


def taken_over(table: Files, token: str = "cd" * 8) -> WriterLock:
    """A writer that has just taken the lease over from one of another machine."""
    lock._held.clear()
    other = WriterLock(table)
    other._identity["token"] = token
    other.acquire()
    return other


def test_a_holder_that_was_taken_over_stops_renewing_and_removes_nothing(
    table: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = elsewhere(table, monkeypatch)
    mine.acquire()
    other = taken_over(table)
    with pytest.raises(PrepError, match=f"pid {os.getpid()} on {socket.gethostname()}"):
        mine.check()
    assert mine._lease is not None
    before = state_of(table).sizes()
    mine._lease.renew()  # as when the machine wakes up
    assert state_of(table).sizes() == before
    mine.release()
    assert state_of(table).sizes() == before
    other.check()
    other.release()


def test_a_writer_that_lost_the_lease_commits_nothing(table: Files) -> None:
    """It was paused, another has taken over since: what it has buffered would be written beside theirs."""
    stage = StageStore(table, "scores", aside=table)
    writer = stage.writer({"toy": 1}, commit_seconds=3600)
    with writer:
        writer.write(pa.Table.from_pylist([row(item(1))], schema=SCORES))
        put(table, 2)
        with pytest.raises(PrepError, match="is being written by pid 1 on elsewhere"):
            writer.flush()
        writer._buffer.clear()
    assert not [name for name in table.sizes() if name.endswith(".parquet")]


@pytest.mark.parametrize("at", ["list", "write"])
def test_a_renewal_during_a_takeover_does_not_undo_it(
    table: Files, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """The takeover happens between the renewal's look at the lease and its write, or just before its look."""
    mine = elsewhere(table, monkeypatch)
    mine.acquire()
    assert mine._lease is not None
    others: list[WriterLock] = []
    name = {"list": "sizes", "write": "write"}[at]
    real = getattr(mine._lease._files, name)

    def slow(*given: Any) -> Any:
        if not others:
            others.append(taken_over(table))
        return real(*given)

    monkeypatch.setattr(mine._lease._files, name, slow)
    mine._lease.renew()
    (other,) = others
    other.check()
    with pytest.raises(PrepError, match="is being written by"):
        mine.check()
    assert (holder(table) or {})["token"] == other._identity["token"]
    other.release()
    with pytest.raises(PrepError, match="is being written by"):
        mine.check()


@pytest.mark.parametrize("token", ["11" * 8, "ff" * 8])
@pytest.mark.parametrize("step", range(4))
def test_of_two_that_take_the_lease_at_once_one_at_most_has_it(
    table: Files, monkeypatch: pytest.MonkeyPatch, token: str, step: int
) -> None:
    """The other one acts as a whole before each of the operations of the first one."""
    mine, others, refused = WriterLock(table), list[WriterLock](), 0
    mine._identity["token"] = "ab" * 8
    files, count = mine.files, 0

    def slow(real: Any) -> Any:
        def call(*given: Any) -> Any:
            nonlocal count, refused
            count += 1
            if count == step + 1:
                lock._held.clear()
                other = WriterLock(table)
                other._identity["token"] = token
                try:
                    other.acquire()
                    others.append(other)
                except PrepError:
                    refused += 1
            return real(*given)

        return call

    for name in ("sizes", "read", "write"):
        monkeypatch.setattr(files, name, slow(getattr(files, name)))
    try:
        mine.acquire()
        others.append(mine)
    except PrepError:
        refused += 1
    assert count > step
    assert (len(others), refused) in ((1, 1), (0, 2))
    for winner in others:
        winner.check()
        winner.release()
    later = WriterLock(table)
    later.acquire()
    later.release()


def test_the_one_that_does_not_give_way_has_the_lease_once_the_other_has_withdrawn(
    table: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = WriterLock(table)
    mine._identity["token"] = "11" * 8
    monkeypatch.setattr(lease, "RIVAL_SECONDS", 1e6)
    waits: list[float] = []

    def withdrawn(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            mine.files.delete(theirs)

    real, theirs = mine.files.write, f"lease-{1:010d}-{'ff' * 8}.json"

    def together(name: str, data: bytes) -> None:
        monkeypatch.setattr(mine.files, "write", real)
        put(table, 1, "ff" * 8)
        real(name, data)

    monkeypatch.setattr(mine.files, "write", together)
    monkeypatch.setattr(lease.time, "sleep", withdrawn)
    mine.acquire()
    assert len(waits) == 2
    mine.check()
    mine.release()


def test_a_claim_of_a_generation_that_was_used_meanwhile_is_withdrawn(
    table: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer was paused between its look and its write, while another one took the lease."""
    for released in (True, False):
        mine = WriterLock(table)
        real = mine.files.write

        def late(name: str, data: bytes, real: Any = real, released: bool = released) -> None:
            number = int(name.split("-")[1])
            put(table, number, THEIRS, released=released)
            real(name, data)

        monkeypatch.setattr(mine.files, "write", late)
        with pytest.raises(PrepError, match="is being written by pid 1 on elsewhere"):
            mine.acquire()
        assert [one.token for one in leases(mine.files)] == [THEIRS]
        assert not lock._held


def test_generations_grow_and_old_ones_are_removed(table: Files) -> None:
    for number in range(1, 4):
        mine = WriterLock(table)
        mine.acquire()
        (found,) = leases(mine.files)
        assert (found.generation, found.is_held) == (number, True)
        assert mine._lease is not None
        mine._lease.release()
        mine.release()  # also of a lease that is released already
        (found,) = leases(mine.files)
        assert (found.generation, found.is_held) == (number, False)
        assert len(mine.files.sizes()) == 1
        mine.release()  # a second time changes nothing


def test_a_lease_that_was_removed_is_lost(table: Files) -> None:
    mine = WriterLock(table)
    mine.acquire()
    (name,) = mine.files.sizes()
    mine.files.delete(name)
    assert mine._lease is not None
    mine._lease.renew()
    assert mine.files.sizes() == {}
    with pytest.raises(PrepError, match="is being written by another process"):
        mine.check()
    mine.release()


@pytest.mark.parametrize("text", [b"", b"[1]", b"{", b'{"host": "a"}', b'{"beat": 1}', b"[" * 100_000])
def test_a_lease_that_says_nothing_expires(table: Files, text: bytes) -> None:
    state_of(table).write("lease-0000000004-feed.json", text)
    mine = WriterLock(table)
    started = time.monotonic()
    mine.acquire()
    assert time.monotonic() - started >= 0.15
    assert [one.generation for one in leases(mine.files)] == [5]
    mine.release()


def test_the_number_of_a_generation_has_no_end(table: Files) -> None:
    put(table, 10**40)
    state_of(table).write("lease-x.json", b"{}")
    state_of(table).write("lease-0000000009-FEED.json", b"{}")
    mine = WriterLock(table)
    mine.acquire()
    mine.check()
    assert [one.generation for one in leases(mine.files)] == [10**40 + 1]
    mine.release()


def test_a_writer_of_version_0_1_0_is_respected_there(table: Files) -> None:
    """Its lease is in the table's folder."""
    lease = {"host": socket.gethostname(), "pid": os.getpid(), "started": "2020", "token": "old"}
    table.write(f"{lock.OLD_LOCK}{HOLDER_FILE}", json.dumps(lease).encode())
    with pytest.raises(PrepError, match=f"being written by pid {os.getpid()} on .* since 2020"):
        WriterLock(table).acquire()
    assert holder(table) is None
    table.write(f"{lock.OLD_LOCK}{HOLDER_FILE}", json.dumps({**lease, "token": ""}).encode())
    mine = WriterLock(table)
    mine.acquire()
    mine.release()

"""The lease that stands for a lock on an object store, on a file system that is handled like one."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest

from prep.cache import lock
from prep.cache.files import Files
from prep.cache.lock import HOLDER_FILE, WriterLock, holder
from prep.cache.state import state_of
from prep.errors import PrepError

sleep = time.sleep


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """A table in a bucket; a second of waiting takes 10 ms."""
    (tmp_path / "bucket" / "_state" / "scores").mkdir(parents=True)
    (tmp_path / "bucket" / "scores").mkdir()
    filesystem = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    files = Files(filesystem, "bucket/scores", "s3://bucket/scores")
    assert files.local is None
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: sleep(seconds / 100))
    monkeypatch.setattr(lock, "TAKEOVER_SECONDS", 0.15)
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 3600.0)
    monkeypatch.setattr(lock, "_held", set())  # a test that fails releases nothing
    return files


def put(table: Files, **lease: Any) -> dict[str, Any]:
    made = {"host": "elsewhere", "pid": 1, "started": "2020-01-01", "token": "theirs", "beat": 3, **lease}
    state_of(table).write(HOLDER_FILE, json.dumps(made).encode())
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
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
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
    assert mine._thread is not None
    assert mine._thread.daemon  # it must not keep a failed process alive
    assert mine.is_held()
    mine.release()
    assert holder(table) is None
    assert not WriterLock(table).is_held()


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

    monkeypatch.setattr(lock.os, "kill", gone)
    monkeypatch.setattr(lock, "TAKEOVER_SECONDS", 1e6)  # not by waiting
    put(table, host=socket.gethostname(), pid=4711)
    mine = WriterLock(table)
    mine.acquire()
    assert (holder(table) or {})["token"] != "theirs"
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

    monkeypatch.setattr(lock.time, "sleep", waiting)
    with pytest.raises(PrepError, match="being written by pid 1 on elsewhere since 2020-01-01"):
        WriterLock(table).acquire()
    assert (holder(table) or {})["token"] == "theirs"
    assert not lock._held


def test_a_holder_that_was_taken_over_stops_renewing_and_removes_nothing(
    table: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = WriterLock(table)
    mine.acquire()
    put(table, token="stolen")
    with pytest.raises(PrepError, match="pid 1 on elsewhere"):
        mine.check()
    monkeypatch.setattr(lock, "HEARTBEAT_SECONDS", 0.01)
    renewing = threading.Thread(target=mine._renew, daemon=True)  # as when the machine wakes up
    renewing.start()
    sleep(0.1)  # several heartbeats
    assert (holder(table) or {})["token"] == "stolen"
    mine.release()
    assert (holder(table) or {})["token"] == "stolen"


def test_of_two_that_write_at_once_the_last_one_holds_the_lease(
    table: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: put(table, token="later"))
    with pytest.raises(PrepError, match="is being written by pid 1 on elsewhere"):
        WriterLock(table).acquire()
    assert not lock._held


@pytest.mark.parametrize("text", [b"", b"[1]", b"{", b'{"token": ""}', b'{"host": "a"}'])
def test_what_is_no_lease_does_not_hold(table: Files, text: bytes) -> None:
    state_of(table).write(HOLDER_FILE, text)
    mine = WriterLock(table)
    mine.acquire()
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

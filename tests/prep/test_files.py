"""Files are written whole or not at all, under names that nobody else can have."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from prep import files
from prep.errors import PrepError


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    files.write_whole(target, b"old")
    with files.replacing(target) as file:
        file.write(b"new")
        assert target.read_bytes() == b"old"
        (temporary,) = set(os.listdir(tmp_path)) - {"a.json"}
        assert temporary.startswith(".a.json.")
        assert temporary.endswith(files.TEMPORARY)
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_failed_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.json"
    target.write_bytes(b"old")
    with pytest.raises(error), files.replacing(target) as file:  # noqa: PT012
        file.write(b"half")
        raise error
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_system_call_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def failing(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(OSError, match="No space left"):
        files.write_whole(tmp_path / "a", b"x")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to(path.parent / "elsewhere")])
def test_a_temporary_name_that_is_taken_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "0" * 2 * size)
    taken = tmp_path / ".a.00000000.tmp"
    make(taken)
    with pytest.raises(FileExistsError):
        files.write_whole(tmp_path / "a", b"secret")
    assert os.listdir(tmp_path) == [taken.name]
    assert taken.is_symlink() or taken.read_bytes() == b""


def test_temporary_names_differ_and_permissions_are_the_usual(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with files.replacing(tmp_path / "a") as first, files.replacing(tmp_path / "a") as second:
            assert first.name != second.name
            first.write(b"1")
            second.write(b"2")
    finally:
        os.umask(before)
    assert (tmp_path / "a").read_bytes() == b"1"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("durable", [True, False])
def test_the_file_and_the_folder_are_synced_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(stat.S_ISDIR(os.fstat(number).st_mode)))
    files.write_whole(tmp_path / "a", b"x", durable=durable)
    assert synced == ([False, True] if durable else [])


@pytest.mark.parametrize("opened", [files.appending, files.lock_file])
def test_logs_and_locks_follow_no_link_and_open_nothing_but_files(tmp_path: Path, opened: Any) -> None:
    """A run, a store or an export from somebody else may have a link where ours has a file."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"old")
    (tmp_path / "linked").symlink_to(secret)
    (tmp_path / "dangling").symlink_to(tmp_path / "new")
    os.mkfifo(tmp_path / "pipe")
    for name in ("linked", "dangling", "pipe"):
        with pytest.raises(OSError, match=r"symbolic links|not a plain file|No such device"):
            opened(tmp_path / name)
    assert secret.read_bytes() == b"old"
    assert not (tmp_path / "new").exists()


def test_what_is_appended_follows_what_was_there(tmp_path: Path) -> None:
    for line in ("one\r\n", "zwei ü\n"):
        with files.appending(tmp_path / "log") as file:
            file.write(line)
    assert (tmp_path / "log").read_bytes() == "one\r\nzwei ü\n".encode()


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    (tmp_path / "a").write_bytes(data)
    assert files.sha256_of(tmp_path / "a") == hashlib.sha256(data).hexdigest()
    with pytest.raises(PrepError, match="b cannot be read: No such file"):
        files.sha256_of(tmp_path / "b")


def test_a_user_without_a_home_has_a_cache_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert files.user_cache() == Path("/home/somebody/.cache")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # what it does without HOME and passwd entry
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = files.user_cache()
    assert folder == tmp_path / f"pcnet-prep-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(PrepError, match="belongs to somebody else"):
        files.user_cache()
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert files.user_cache() == Path("/cache")

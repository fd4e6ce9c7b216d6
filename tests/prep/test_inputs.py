"""Input files: only plain ones are opened, names stay below their folder, and other encodings are named."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shlex
import shutil
import subprocess
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prep.errors import PrepError
from prep.inputs import below, check_text, encoding_of, image_name, open_plain, read_plain

LINE = '{"sent": "the man on the left"}\n'


def test_only_plain_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/null"), tmp_path):
        with pytest.raises(OSError, match="not a plain file"):
            open_plain(path)
    with pytest.raises(FileNotFoundError):
        open_plain(tmp_path / "none")
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to("a")
    assert read_plain(tmp_path / "b", 3) == b"abc"
    with pytest.raises(OSError, match="over the limit"):
        read_plain(tmp_path / "b", 2)


@pytest.mark.parametrize(
    "name",
    ["a.jpg", "train/a.jpg", "./a.jpg", "..a.jpg", "a..b/c", "ünïcode.png", "a b.jpg", "12:30.jpg", "c:d.jpg",
     "a:b/c.jpg"],
)  # fmt: skip
def test_names_below_the_folder_are_taken(name: str) -> None:
    assert below(name) == name.removeprefix("./")
    assert image_name(name) == (name.removeprefix("./"), "")


@pytest.mark.parametrize(
    "name",
    ["", ".", "/etc/passwd", "../a", "a/../../b", "a/..", "C:/a", "C:\\a", "c:", "a\\..\\b", "\\a", "a\0b",
     "//host/a", "\\\\host\\a"],
)  # fmt: skip
def test_names_that_leave_the_folder_are_not(name: str) -> None:
    assert below(name) is None
    assert "leaves the image folder" in image_name(name)[1]


@given(st.text(alphabet="a.b/\\:C é", max_size=12))
def test_names_are_judged_as_pathlib_does(name: str) -> None:
    as_windows = PurePosixPath(name.replace("\\", "/"))
    drive = name[1:2] == ":" and name[:1] in "abC" and name[2:3] in ("", "/", "\\")
    leaves = as_windows.is_absolute() or ".." in as_windows.parts or drive
    plain = str(PurePosixPath(name))
    assert below(name) == (None if leaves or plain == "." else plain)


def test_a_backslash_is_a_letter_on_disk_and_a_reason_in_a_dataset() -> None:
    assert below("a\\b.jpg") == "a\\b.jpg"
    assert image_name("a\\b.jpg") == (None, "the image 'a\\\\b.jpg' has a backslash, where a path has /")


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", data)
    return buffer.getvalue()


OTHERS = {
    "UTF-16": (LINE * 2).encode("utf-16"),
    "UTF-16 text": b"\xfe\xff" + LINE.encode("utf-16-be"),
    "UTF-16LE": LINE.encode("utf-16-le"),
    "UTF-16BE": LINE.encode("utf-16-be"),
    "UTF-32": LINE.encode("utf-32"),
    "UTF-32LE": LINE.encode("utf-32-le"),
    "gzip": gzip.compress(LINE.encode()),
    "bzip2": bz2.compress(LINE.encode()),
    "xz": lzma.compress(LINE.encode()),
    "zip": zipped(LINE.encode()),
    "CR alone": (LINE * 2).replace("\n", "\r").encode(),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_the_command_that_converts_another_kind_of_file_works(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it's.jsonl"
    path.write_bytes(OTHERS[kind])
    with pytest.raises(PrepError, match=kind) as raised:
        check_text(path, OTHERS[kind][:4096])
    command = raised.value.remedy.removeprefix("Convert it: ")
    assert shlex.quote(str(path)) in command
    if shutil.which(command.split()[0]) is None:
        pytest.skip(f"no {command.split()[0]} here")
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    text = (tmp_path / "utf8-it's.jsonl").read_text("utf-8-sig")
    assert set(text.splitlines()) == {LINE.strip()}


@pytest.mark.parametrize(
    "head",
    [b"", b"{", b'{"sent": "a"}', b'\xef\xbb\xbf{"sent"', b'{"a":1}\r\n{', b"[1,\r2]", b"\0\0\0\0", b"PK"],
)
def test_plain_text_passes(head: bytes) -> None:
    check_text(Path("a"), head)


@pytest.mark.parametrize(
    ("text", "encoding", "likely"),
    [("a woman’s café", "cp1252", "cp1252"), ("café s", "latin1", "cp1252"), ("左边的红色杯子", "gbk", "GBK"),
     ("the 杯子 on the left", "gbk", "GBK"), ("“red”", "cp1252", "cp1252")],
)  # fmt: skip
def test_the_likely_encoding(text: str, encoding: str, likely: str) -> None:
    assert encoding_of(text.encode(encoding)) == likely

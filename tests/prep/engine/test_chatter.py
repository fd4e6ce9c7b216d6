"""What libraries print goes to a log file, that of their processes too, and only while it is meant to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from prep.engine.chatter import chatter_to, log_file

PROGRAM = """
import os, subprocess, sys, time
from pathlib import Path
from prep.engine.chatter import chatter_to
print("before")
with chatter_to(Path(sys.argv[1])) as log:
    print("a library's line")
    print("a library's warning", file=sys.stderr)
    script = "read line; echo later $line; echo error >&2"
    child = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE)
print("after")
print("wrong", file=sys.stderr)
child.communicate(b"on")
"""


def test_output_in_the_block_goes_to_the_file_and_that_of_its_processes_after_it(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "some.log"
    for _ in range(2):  # a second run adds to it
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(log)], capture_output=True, text=True, check=True
        )
        assert (done.stdout, done.stderr) == ("before\nafter\n", "wrong\n")
    lines = ["a library's line", "a library's warning", "later on", "error"]
    assert log.read_text().splitlines() == lines * 2


def test_without_a_file_nothing_is_changed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for log in (None, tmp_path / "file" / "some.log"):
        with chatter_to(log) as used:
            print("shown", flush=True)
        assert used is None
        assert capfd.readouterr().out == "shown\n"


def test_a_store_on_an_object_store_has_no_log_file() -> None:
    assert log_file("s3://bucket/prepared", "vllm") is None
    assert log_file("/data/prepared", "vllm") == Path("/data/prepared/logs/vllm.log")

"""Ctrl-C ends every wait: for a busy, silent or absent endpoint, and for an object store."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prep.phrases.engines.daemon_pool import DaemonPool
from tests.prep.commands.endpoint import Endpoint, serving

REPOSITORY = Path(__file__).resolve().parents[3]
# Each of these waits took a minute or more; on a busy machine, Python alone takes seconds to end.
SECONDS = 15.0


class Busy(Endpoint):
    """Is silent for a long time, or busy, depending on the path."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        if "silent" in self.path:
            time.sleep(120)
        self.answer(503, b'{"error": "busy"}')


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with serving(Busy) as address:
        yield address


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where connections are taken and nothing is ever said."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(64)
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def interrupted(folder: Path, after: str, *words: str) -> tuple[int, str]:
    """The exit code and stderr of a command that gets SIGINT a moment after it has said ``after``."""
    file = folder / "mine.jsonl"
    file.write_text("".join(json.dumps({"sent": f"red cup {n}"}) + "\n" for n in range(40)))
    # A process that is started in the background ignores the signal, and so would its children.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import cli; cli.prep_main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "phrases", "--input", str(file), *words],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "AWS_REGION": "us-east-1"},
        cwd=folder,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = ""
    while after not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    sent = time.monotonic()
    said += process.communicate(timeout=100)[1]
    assert time.monotonic() - sent < SECONDS, said
    return process.returncode, said


@pytest.mark.slow
@pytest.mark.parametrize("how", ["busy", "silent", "closed"])
def test_ctrl_c_ends_the_wait_for_an_endpoint(tmp_path: Path, endpoint: str, how: str) -> None:
    url = "http://127.0.0.1:1/v1" if how == "closed" else f"{endpoint}/{how}/v1"
    after = "phrases by" if how == "silent" else f"Waiting for {url}"
    code, said = interrupted(tmp_path, after, "--llm", f"openai:{url}#m", "--out", str(tmp_path / "st"))
    assert code == 130
    assert "Stopped by SIGINT: 0 rows of this run are in" in said
    if how == "busy":
        assert "HTTP 503: busy; attempt 2 of 8 in 50 s" in said
    if how == "closed":
        assert "refused" in said


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_ctrl_c_ends_the_wait_for_an_object_store(tmp_path: Path, nobody: str, scheme: str) -> None:
    options = f"endpoint_override={nobody}&scheme=http"
    uri = f"{scheme}://{'anonymous@' if scheme == 'gs' else ''}bucket/st?{options}"
    code, said = interrupted(tmp_path, "Waiting for", "--llm", "rules", "--out", uri)
    assert code == 130
    assert f"Waiting for {scheme}://" in said
    assert "Interrupted." in said


def test_threads_of_the_pool_end_with_it_and_calls_that_have_not_begun_are_cancelled() -> None:
    pool, gate, began = DaemonPool(2, "test"), threading.Event(), threading.Semaphore(0)

    def call(number: int) -> int:
        began.release()
        gate.wait(60)
        return 1 // number

    futures = [pool.submit(call, number) for number in (0, 1, 2)]
    for _ in range(2):
        assert began.acquire(timeout=60)
    pool.close()
    assert [future.cancelled() for future in futures] == [False, False, True]
    gate.set()
    assert futures[1].result(timeout=60) == 1
    with pytest.raises(ZeroDivisionError):
        futures[0].result(timeout=60)
    deadline = time.monotonic() + 60
    while any(thread.name.startswith("test-") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)

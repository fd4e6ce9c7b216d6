"""The endpoint engine: against a server that misbehaves in every way, and against vLLM's own server."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from prep.cache.store import open_store
from prep.engine.local import Engine
from prep.errors import PrepError
from prep.phrases.engines.base import Question
from prep.phrases.engines.endpoint import KEY_VARIABLE
from prep.phrases.engines.openai import OpenAIStage
from prep.phrases.job import run_llm
from prep.phrases.models import resolve
from prep.phrases.prompt import load_prompt
from prep.records import Expression
from tests.prep.phrases.tiny import CORRECTIONS, LESSONS

SECRET = "sk-not-to-be-seen"


class Endpoint:
    """A chat endpoint on this machine that answers as ``behave`` says and remembers what it was sent."""

    def __init__(self, behave: Callable[[int, dict[str, Any]], tuple[int, Any]]) -> None:
        self.seen: list[dict[str, Any]] = []
        self.headers: dict[str, str] = {}
        self.keys: set[str | None] = set()
        self.models: Any = {"data": [{"id": "m"}]}
        self.paths: list[str] = []
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.keys.add(self.headers.get("Authorization"))
                outer.paths.append(self.path)
                self._reply(200, outer.models)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer.paths.append(self.path)
                    number = len(outer.seen)
                    outer.seen.append(body)
                    outer._at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer._at_once)
                status, reply = behave(number, body)
                with outer._lock:
                    outer._at_once -= 1
                if status == 0:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                self._reply(status, reply)

            def _reply(self, status: int, reply: Any) -> None:
                data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                for header in outer.headers.items() if self.command == "POST" else ():
                    self.send_header(*header)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.llm = f"openai:http://127.0.0.1:{self._server.server_port}/v1#m"

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def stage(self, **more: Any) -> OpenAIStage:
        stage = OpenAIStage(resolve(self.llm), load_prompt(), first_wait=0.01, **more)
        stage.open()
        return stage


def said(text: str, finish: str = "stop") -> dict[str, Any]:
    usage = {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
    return {"choices": [{"message": {"content": text}, "finish_reason": finish}], "usage": usage}


def lesson(body: dict[str, Any]) -> str:
    """What the taught model would say to a request's last question."""
    asked = body["messages"][0]["content"].rsplit('"', 2)[1]
    if len(body["messages"]) == 3:
        return CORRECTIONS[asked][1]
    return LESSONS.get(asked) or CORRECTIONS[asked][0]


def ask(stage: OpenAIStage, *texts: str) -> list[dict[str, Any]]:
    unit = [Question(str(number), text) for number, text in enumerate(texts)]
    rows: list[dict[str, Any]] = stage.process(stage.load(unit)).to_pylist()
    stage.close()
    return rows


def test_answers_and_retries_under_a_schema() -> None:
    with Endpoint(lambda _, body: (200, said(lesson(body)))) as endpoint:
        rows = ask(endpoint.stage(concurrency=4), *LESSONS, *CORRECTIONS)
        assert [row["first"] for row in rows[: len(LESSONS)]] == list(LESSONS.values())
        assert [row["retry"] for row in rows[len(LESSONS) :]] == [good for _, good in CORRECTIONS.values()]
        assert {row["status"] for row in rows} == {"ok"}
        assert [rows[0][c] for c in ("prompt_tokens", "cached_tokens", "output_tokens")] == [10, 4, 3]
        assert endpoint.most_at_once <= 4
        again = [body for body in endpoint.seen if len(body["messages"]) == 3]
        assert len(again) == len(CORRECTIONS)
        assert all(body["response_format"]["type"] == "json_schema" for body in again)
        assert all("response_format" not in body for body in endpoint.seen if body not in again)
        assert {body["temperature"] for body in endpoint.seen} == {0.0}


def test_a_busy_endpoint_is_waited_for() -> None:
    troubles = [(429, {"error": {"message": "slow down"}}), (503, b"busy"), (0, None), (500, {}), (0, None)]

    def behave(number: int, body: dict[str, Any]) -> tuple[int, Any]:
        return troubles[number] if number < len(troubles) else (200, said(lesson(body)))

    with Endpoint(behave) as endpoint:
        (row,) = ask(endpoint.stage(), "cup")
        assert (row["first"], len(endpoint.seen)) == ("the cup", len(troubles) + 1)


def test_a_request_that_is_refused_costs_only_its_own_question() -> None:
    def behave(_: int, body: dict[str, Any]) -> tuple[int, Any]:
        if "tall giraffe" in body["messages"][0]["content"].rsplit("\n", 1)[1]:
            return 400, {"error": {"message": "maximum context length"}}
        if "response_format" in body:
            return 400, {"error": "unknown field response_format"}
        return 200, said(lesson(body))

    with Endpoint(behave) as endpoint:
        rows = ask(endpoint.stage(), "tall giraffe", "cup", "sheep in front")
        assert rows[0]["error"] == "refused: HTTP 400: maximum context length"
        assert [row["status"] for row in rows] == ["error", "ok", "ok"]
        assert rows[2]["retry"] == CORRECTIONS["sheep in front"][1]


def test_an_endpoint_that_calls_the_limit_otherwise_gets_its_name() -> None:
    message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."

    def behave(_: int, body: dict[str, Any]) -> tuple[int, Any]:
        if "max_tokens" in body:
            return 400, {"error": {"message": message}}
        return 200, said(lesson(body))

    with Endpoint(behave) as endpoint:
        rows = ask(endpoint.stage(concurrency=1), "cup", "red truck", "tall giraffe")
        assert [row["first"] for row in rows] == [LESSONS[t] for t in ("cup", "red truck", "tall giraffe")]
        limits = ["max_tokens" in body for body in endpoint.seen]
        assert limits == [True, False, False, False]
        assert endpoint.seen[1]["max_completion_tokens"] == endpoint.seen[0]["max_tokens"]


def test_a_limit_that_is_refused_by_both_names_is_an_error_of_its_question() -> None:
    with Endpoint(lambda *_: (400, {"error": "max_completion_tokens is too large"})) as endpoint:
        (row,) = ask(endpoint.stage(), "cup")
        assert row["error"].startswith("refused: HTTP 400")
        assert len(endpoint.seen) == 2


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_busy_endpoint_says_when_to_come_back(form: str) -> None:
    def behave(number: int, body: dict[str, Any]) -> tuple[int, Any]:
        return (429, {"error": "slow down"}) if number == 0 else (200, said(lesson(body)))

    with Endpoint(behave) as endpoint:
        later = formatdate(time.time() + 2, usegmt=True)
        endpoint.headers["Retry-After"] = "0.6" if form == "seconds" else later
        started = time.monotonic()
        (row,) = ask(endpoint.stage(), "cup")
        assert row["first"] == "the cup"
        assert time.monotonic() - started > 0.5


@pytest.mark.parametrize("reply", [b"<html>", {}, {"choices": []}, {"choices": [{"message": None}]}, []])
def test_an_answer_of_another_form_is_an_error_of_its_question(reply: Any) -> None:
    with Endpoint(lambda *_: (200, reply)) as endpoint:
        (row,) = ask(endpoint.stage(), "cup")
        assert row["error"].startswith("refused: HTTP 200")


def test_an_endpoint_that_stays_away_ends_the_run() -> None:
    away = pytest.raises(PrepError, match=r"does not respond .*down for the day")
    with Endpoint(lambda *_: (503, b"down for the day")) as endpoint, away:
        ask(endpoint.stage(), "cup")
    with pytest.raises(PrepError, match="does not respond"):
        OpenAIStage(resolve("openai:http://127.0.0.1:9/v1#m"), load_prompt(), first_wait=0.001).open()


def test_a_model_that_is_not_served_is_named() -> None:
    with Endpoint(lambda *_: (200, said("x"))) as endpoint:
        stage = OpenAIStage(resolve(endpoint.llm + "2"), load_prompt())
        with pytest.raises(PrepError, match="serves no model 'm2'"):
            stage.open()


def test_the_key_is_sent_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    with Endpoint(lambda *_: (401, {"error": {"message": "wrong key"}})) as endpoint:
        with pytest.raises(PrepError, match=r"rejects the API key .*wrong key") as error:
            ask(endpoint.stage(), "cup")
        assert endpoint.keys == {f"Bearer {SECRET}"}
        assert KEY_VARIABLE in error.value.remedy
    out, err = capfd.readouterr()
    assert SECRET not in f"{error.value}{caplog.text}{out}{err}{endpoint.seen}"


def test_a_key_that_no_header_can_have_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, f"{SECRET}\n")
    with Endpoint(lambda *_: (200, said("x"))) as endpoint:
        with pytest.raises(PrepError, match="rejects the API key") as error:
            endpoint.stage()
        assert SECRET not in str(error.value)
        assert not endpoint.keys


def test_a_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    with Endpoint(lambda *_: (200, said("x"))) as other, Endpoint(lambda *_: (307, {})) as endpoint:
        endpoint.headers["Location"] = other.llm.removeprefix("openai:").split("#")[0] + "/chat/completions"
        (row,) = ask(endpoint.stage(), "cup")
        assert row["error"].startswith("refused: HTTP 307")
        assert (len(endpoint.seen), other.seen, other.keys) == (1, [], set())


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with Endpoint(lambda _, body: (200, said(lesson(body)))) as endpoint:
        assert ask(endpoint.stage(), "cup")[0]["first"] == "the cup"


def test_a_stop_ends_the_pause_that_a_busy_endpoint_asks_for() -> None:
    with Endpoint(lambda *_: (429, {"error": "busy"})) as endpoint:
        endpoint.headers["Retry-After"] = "50"
        stage = endpoint.stage(concurrency=2)
        loaded = stage.load([Question(str(number), "cup") for number in range(5)])
        deadline = time.monotonic() + 20
        while len(endpoint.seen) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        started = time.monotonic()
        stage.close()
        assert time.monotonic() - started < 2
        assert len(endpoint.seen) == 2
        assert all(future.cancelled() or future.exception() for future in loaded)


@pytest.mark.parametrize("unit_size", [1, 3, 100])
def test_no_row_of_equal_texts_is_lost_when_a_run_is_resumed(unit_size: int, tmp_path: Path) -> None:
    """Equal texts before and after the stop, in other letters, and in the same unit."""
    texts = [*list(LESSONS)[:4], "CUP", *list(LESSONS)[2:9], "cup", " cup ", *list(LESSONS)[:9], "Cup"]
    items = [Expression(f"{n:032x}", "toy", "none", "val", n, n, n, None, t) for n, t in enumerate(texts)]
    broken = threading.Event()

    def behave(number: int, body: dict[str, Any]) -> tuple[int, Any]:
        return (503, b"down") if number > 5 and not broken.is_set() else (200, said(lesson(body)))

    place = open_store(tmp_path, create=True).stage("phrases")
    asked: list[str] = []
    with Endpoint(behave) as endpoint:
        for attempt in range(2):
            stage = endpoint.stage(concurrency=1)
            with (
                contextlib.suppress(PrepError),
                place.writer(stage.settings()) as writer,
                Engine(stage) as engine,
            ):
                run_llm(items, engine=engine, writer=writer, cache=tmp_path / "cache", unit_size=unit_size)
                assert attempt == 1, "the endpoint was down"
            stage.close()
            broken.set()
        asked = [body["messages"][0]["content"].rsplit('"', 2)[1] for body in endpoint.seen]
    rows = place.reader().read().to_pylist()
    assert sorted(row["row_id"] for row in rows) == [item.row_id for item in items]
    for row in rows:
        assert row["phrases"] == LESSONS[row["expression"].strip().lower()].split("\n")
    assert set(asked) == {text.strip().lower() for text in texts}


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_pause_of_a_run(signum: signal.Signals, tmp_path: Path) -> None:
    listing = tmp_path / "mine.jsonl"
    listing.write_text('{"sent": "the cup on the left"}\n')
    with Endpoint(lambda *_: (503, b"busy")) as endpoint:
        endpoint.headers["Retry-After"] = "50"
        program = str(Path(sys.executable).with_name("pcnet-prep"))
        command = [program, "phrases", "--input", str(listing), "--llm", endpoint.llm]
        command += ["--out", str(tmp_path / "out")]
        run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            deadline = time.monotonic() + 120
            while not endpoint.seen and run.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            assert endpoint.seen, run.communicate()[0]
            time.sleep(0.5)
            started = time.monotonic()
            run.send_signal(signum)
            output = run.communicate(timeout=60)[0]
            assert time.monotonic() - started < 5, output  # the pause 2, and the end of the interpreter
            assert run.returncode == 128 + signum, output
        finally:
            run.kill()
            run.wait()


@pytest.fixture(scope="module")
def vllm_server(taught_mistral: Path) -> Iterator[str]:
    """vLLM's OpenAI-compatible server with the taught model; yields what --llm takes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = (
        "--dtype float32 --max-model-len 736 --max-num-seqs 32 --enforce-eager --served-model-name taught"
    )
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(taught_mistral)]
    command += ["--host", "127.0.0.1", "--port", str(port), *options.split()]
    server = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 400
        while True:
            assert server.poll() is None, "vLLM's server ended by itself"
            assert time.monotonic() < deadline, "vLLM's server did not come up"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
                    if reply.status == 200:
                        break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        yield f"openai:http://127.0.0.1:{port}/v1#taught"
    finally:
        os.killpg(server.pid, 15)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, 9)
            server.wait()


@pytest.mark.timeout(560)
def test_valid_phrases_come_out_of_vllms_own_server(vllm_server: str, tmp_path: Path) -> None:
    stage = OpenAIStage(resolve(vllm_server), load_prompt(), concurrency=16)
    texts = [*LESSONS, *CORRECTIONS, "", "a" * 5000]
    items = [
        Expression(f"{n:032x}", "toy", "none", "train", n, n, n, None, text) for n, text in enumerate(texts)
    ]
    place = open_store(tmp_path, create=True).stage("phrases")
    with place.writer(stage.settings()) as writer:
        engine, cache = Engine(stage), tmp_path / "cache"
        summary = run_llm(items, engine=engine, writer=writer, cache=cache, unit_size=10)
    stage.close()
    rows = {row["expression"]: row for row in place.reader().read().to_pylist()}
    for text, answer in LESSONS.items():
        assert (rows[text]["source"], rows[text]["phrases"]) == ("llm", answer.split("\n"))
    for text in CORRECTIONS:
        assert rows[text]["source"] == "retry"
    assert rows[""]["status"] == "error"
    assert rows["a" * 5000]["phrases"]
    assert summary.extra["report"]["engine"]["asked"] == len(texts) - 1
    assert {row["llm"] for row in rows.values()} == {"openai:taught"}

"""Where the API key goes, and what an endpoint that answers without end, or with nonsense, costs."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import cli
from prep.errors import PrepError
from prep.phrases.engines import endpoint
from prep.phrases.engines.base import ANSWERS
from prep.phrases.engines.endpoint import KEY_VARIABLE, key_notice, may_get_key
from prep.phrases.engines.openai import OpenAIStage
from prep.phrases.models import URL_VARIABLE, resolve
from prep.phrases.prompt import load_prompt
from tests.prep.phrases.engines.test_openai import SECRET, Endpoint, ask, said


@contextmanager
def raw_server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that reads one request of a connection and then does as ``answer`` says; yields its --llm."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    def one(connection: socket.socket) -> None:
        with connection:
            try:
                if connection.recv(1 << 20).startswith(b"GET"):
                    connection.sendall(b"HTTP/1.1 404 None\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                else:
                    answer(connection)
            except OSError:
                pass

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"openai:http://127.0.0.1:{listening.getsockname()[1]}/v1#m"
    finally:
        listening.close()


def asked(llm: str, texts: int = 1, **more: Any) -> list[dict[str, Any]]:
    stage = OpenAIStage(resolve(llm), load_prompt(), first_wait=0.01, **more)
    stage.open()
    return ask(stage, *["cup"] * texts)


def trickle(start: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(start)
        while True:
            connection.sendall(b"x")
            time.sleep(0.05)

    return answer


@pytest.mark.parametrize(
    "start",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "],
    ids=["body", "head"],
)
def test_a_byte_at_a_time_ends_at_the_deadline(start: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "DEADLINE_SECONDS", 0.6)
    started = time.monotonic()
    with raw_server(trickle(start)) as llm:
        rows = asked(llm, 2)
    assert time.monotonic() - started < 20
    assert [row["status"] for row in rows] == ["error", "error"]
    assert "did not end within" in rows[0]["error"]


def test_an_endpoint_that_never_ends_a_response_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "DEADLINE_SECONDS", 0.2)
    monkeypatch.setattr(endpoint, "MAX_UNENDED", 3)
    unended = raw_server(trickle(b"HTTP/1.1 200 OK\r\n\r\n"))
    with unended as llm, pytest.raises(PrepError, match="3 responses did not end"):
        asked(llm, 5, concurrency=1)


def endless(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b" " * (1 << 16))


def test_a_body_without_end_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with raw_server(endless) as llm:
        (row,) = asked(llm)
    assert row["error"] == "refused: HTTP 200: a response of more than 1 MiB"


def reply(**changes: Any) -> dict[str, Any]:
    return {**said("the cup"), **changes}


def content(value: Any, **more: Any) -> dict[str, Any]:
    return reply(choices=[{"message": {"content": value}, "finish_reason": "stop", **more}])


ODD = [
    b"[" * 200_000,
    b'{"choices":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    b'{"a":' * 50_000,
    b"\xff\xfe",
    b"NaN",
    b"9" * 5000,
    content("\ud800 cup \udfff"),
    content("the cup\0\n\x1b[2J"),
    content("[" * 50_000),
    content('{"phrases":' * 20_000),
    content(["the cup"]),
    content({"text": "the cup"}),
    content(7),
    # A reasoning model that is cut off, or whose answer the server could not tell from its thoughts.
    content(None, finish_reason="length"),
    reply(choices=[{"message": {"content": None, "reasoning": "the bowl"}, "finish_reason": "stop"}]),
    reply(choices=[{"message": {"content": "", "refusal": "I can't."}, "finish_reason": "stop"}]),
    content("the cup", finish_reason="\ud800" * 9),
    content("the cup", finish_reason=[1]),
    reply(choices={"0": 1}),
    reply(choices="x"),
    reply(choices=[None]),
    reply(choices=[{"message": "the cup"}]),
    reply(usage=[1]),
    reply(usage={"prompt_tokens": "many", "completion_tokens": None}),
    reply(usage={"prompt_tokens": -5, "completion_tokens": 1 << 70, "prompt_tokens_details": 3}),
    json.dumps(said("the cup")).replace('"prompt_tokens": 10', '"prompt_tokens": 1e999').encode(),
    json.dumps(said("the cup")).replace('"prompt_tokens": 10', '"prompt_tokens": NaN').encode(),
]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_an_odd_answer_costs_at_most_its_question(odd: Any) -> None:
    def behave(_: int, body: dict[str, Any]) -> tuple[int, Any]:
        return 200, odd if '"bowl"' in body["messages"][0]["content"].rsplit("\n", 1)[1] else said("the cup")

    with Endpoint(behave) as server:
        rows = ask(server.stage(), "bowl", "cup")
    assert rows[1]["first"] == "the cup"
    assert rows[0]["status"] in ("ok", "error")
    assert all(0 <= rows[0][c] <= 2**31 - 1 for c in ("prompt_tokens", "cached_tokens", "output_tokens"))
    json.dumps(rows[0], ensure_ascii=False).encode()  # text that can be written
    assert set(rows[0]) == set(ANSWERS.names)


@pytest.mark.parametrize("status", [400, 503])
@pytest.mark.parametrize(
    "message", [b"[" * 100_000, b"\xff", b'{"error":{"message":{"a":[]}}}', b'{"error":"\\ud800"}']
)
def test_an_odd_message_of_an_error_is_shown_or_left_out(status: int, message: bytes) -> None:
    replies = iter([(status, message)])
    with Endpoint(lambda *_: next(replies, (200, said("the cup")))) as server:
        server.headers["Retry-After"] = "nan"
        (row,) = ask(server.stage(), "cup")
    assert row["status"] == ("error" if status == 400 else "ok")


@pytest.mark.parametrize(
    "models", [{"data": 7}, {"data": [7, {"id": 8}, {}]}, {"data": {"id": "m"}}, [], b"[" * 99_999]
)
def test_an_odd_list_of_models_is_passed_over(models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with Endpoint(lambda *_: (200, said("the cup"))) as server:
        server.models = models
        assert ask(server.stage(), "cup")[0]["first"] == "the cup"


@pytest.mark.parametrize(
    ("url", "base", "named", "sent"),
    [
        ("https://api.openai.com/v1", "", False, True),
        ("https://API.openai.com.:443/v1", "", False, True),
        ("http://api.openai.com/v1", "", True, False),
        ("https://api.openai.com.evil.example/v1", "", False, False),
        ("https://evil.example/api.openai.com/v1", "", False, False),
        ("https://api.openai.com:444/v1", "", False, False),
        ("https://mine.example/v1", "", False, False),
        ("https://mine.example/v1", "", True, True),
        ("http://mine.example/v1", "", True, False),
        ("http://mine.example/v1", "http://mine.example/v1", False, False),
        ("https://mine.example/v2", "https://mine.example/v1", False, True),
        ("https://mine.example:1/v1", "https://mine.example/v1", False, False),
        ("https://mine.example/v1", "https://[", False, False),
        ("http://127.0.0.1:8000/v1", "", False, False),
        ("http://127.0.0.1:8000/v1", "", True, True),
        ("http://[::1]:8000/v1", "", True, True),
        ("http://localhost:8000/v1", "", True, True),
        ("http://localhost.evil.example/v1", "", True, False),
        ("http://0.0.0.0:8000/v1", "", True, False),
    ],
)
def test_where_the_key_goes(
    url: str, base: str, named: bool, sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URL_VARIABLE, base)
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    assert may_get_key(url, named) == sent
    notice = key_notice(url, named)
    assert (" is sent to " in notice) == sent
    assert SECRET not in notice
    monkeypatch.delenv(KEY_VARIABLE)
    assert key_notice(url, named) == ""


@pytest.mark.parametrize(
    "how", ["run file", "manifest", "command line", "run, with the flag", "run, one command"]
)
def test_the_key_goes_to_an_endpoint_that_the_user_typed(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    monkeypatch.setenv(URL_VARIABLE, "")
    listing = tmp_path / "mine.jsonl"
    listing.write_text('{"sent": "the cup on the left"}\n')
    out = str(tmp_path / "out")
    with Endpoint(lambda *_: (200, said("the cup"))) as server:
        typed = ["phrases", "--input", str(listing), "--llm", server.llm, "--out", out]
        words = {
            "run file": ["run", str(tmp_path / "c.yaml")],
            "manifest": ["phrases", "--from-manifest", f"{out}/phrases", "--out", out + "2"],
            "command line": typed,
            "run, with the flag": ["run", str(tmp_path / "c.yaml"), "--llm", server.llm],
            "run, one command": ["run", str(tmp_path / "c.yaml"), f"--phrases.llm={server.llm}"],
        }[how]
        llm = "rules" if how.startswith("run, ") else server.llm
        (tmp_path / "c.yaml").write_text(f"input: {listing}\nout: {out}\nphrases: {{llm: '{llm}'}}\n")
        if how == "manifest":
            assert CliRunner().invoke(cli.prep_app, typed).exit_code == 0
            server.keys.clear()
        done = CliRunner().invoke(cli.prep_app, words)
        assert done.exit_code == 0, done.output
        only_in_a_file = how in ("run file", "manifest")
        assert server.keys == ({None} if only_in_a_file else {f"Bearer {SECRET}"})
        assert (" is not sent to " in done.output) == only_in_a_file
        assert KEY_VARIABLE in done.output
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert SECRET.encode() not in written + done.output.encode()


@pytest.mark.parametrize(
    "url", ["https://me:secret@host/v1", "http://[::1/v1", "http://:80/v1", "http://h:x/v1"]
)
def test_a_url_without_a_host_or_with_a_password_is_refused(url: str) -> None:
    with pytest.raises(PrepError) as caught:
        resolve(f"openai:{url}#m")
    assert "secret" not in str(caught.value)


def test_a_query_stays_at_the_end_of_the_url() -> None:
    with Endpoint(lambda *_: (200, said("the cup"))) as server:
        stage = OpenAIStage(resolve(server.llm.replace("#", "?api-version=2&api_key=K#")), load_prompt())
        stage.open()
        assert ask(stage, "cup")[0]["first"] == "the cup"
        assert set(server.paths) == {
            "/v1/models?api-version=2&api_key=K",
            "/v1/chat/completions?api-version=2&api_key=K",
        }
        assert "api_key" not in json.dumps(stage.settings())

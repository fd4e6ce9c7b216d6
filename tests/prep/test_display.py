"""Text that is stored holds no credentials, and text that is printed no controls either."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import cli
from prep.cache.files import open_files
from prep.commands.output import emit
from prep.display import shown, without_secrets
from prep.errors import PrepError
from prep.hints import format_error

SECRET = "wJalrXUtnFEMI"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"s3://AKIA:{SECRET}@bucket/a", "s3://bucket/a"),
        (f"s3://AKIA:a/{SECRET}@bucket/a", "s3://bucket/a"),
        (f"https://{SECRET}@host/v1#m", "https://host/v1#m"),
        (f"openai:https://host/v1?api_key={SECRET}#m", "openai:https://host/v1?api_key=...#m"),
        (f"gs://b/a?region=eu&Access-Token={SECRET}&x=1", "gs://b/a?region=eu&Access-Token=...&x=1"),
        (f"https://h/?X-Amz-Signature={SECRET}", "https://h/?X-Amz-Signature=..."),
        (f"https://h/?X-Amz-Credential={SECRET}", "https://h/?X-Amz-Credential=..."),
        (f"https://h/?sig={SECRET}&se=2", "https://h/?sig=...&se=2"),
        (
            f"Cannot use s3://a:{SECRET}@b/c: 's3://a:{SECRET}@b/c' is odd",
            "Cannot use s3://b/c: 's3://b/c' is odd",
        ),
        (json.dumps({"a": f"s3://a:{SECRET}@b", "c": "d@e"}), json.dumps({"a": "s3://b", "c": "d@e"})),
        (
            f"s3://b?endpoint_override=http://u:{SECRET}@h:9&scheme=http",
            "s3://b?endpoint_override=http://h:9&scheme=http",
        ),
        (f"hdfs://u%40x:{SECRET}%2F@namenode:8020/a", "hdfs://namenode:8020/a"),
    ],
)
def test_credentials_are_left_out(text: str, left: str) -> None:
    assert without_secrets(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a@b/c", "s3://host:9000/a@b", "me@example.org", "/data/a:b@c", "http://h/v1#m",
        "s3://b/a?region=eu&endpoint_override=127.0.0.1:9", "a key=1 of 2", "file:///tmp/x",
    ],
)  # fmt: skip
def test_the_rest_stays(text: str) -> None:
    assert without_secrets(text) == text


def test_controls_are_shown_as_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b[2J\x07\r\x9b1m\u202eb\udcff\x7f é 象"
    safe = "a\\x1b[2J\\x07\\r\\x9b1m\\u202eb\\udcff\\x7f é 象"
    assert shown(hostile) == safe
    assert shown("two\nlines") == "two\nlines"
    assert format_error(PrepError(f"{hostile} is odd.", f"Leave {hostile} out.")).count(safe) == 2
    emit(None, [hostile], as_json=False)
    assert capsys.readouterr().out == f"{safe}\n"


def run(*words: str) -> str:
    done = CliRunner().invoke(cli.prep_app, words)
    if isinstance(done.exception, PrepError):
        return format_error(done.exception)
    assert done.exit_code in (0, 3), done.output  # one row has no text, and fails
    return done.output


def test_no_command_writes_or_shows_a_credential_or_a_control(tmp_path: Path) -> None:
    listing = tmp_path / "mine.jsonl"
    rows = [{"sent": "the cup on the left", "split": "tr\x1b[2Jain"}, {"sent": "", "split": "val"}]
    listing.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    out, cache = (f"file://{tmp_path}/{name}?api_key={SECRET}" for name in ("out", "cache"))
    told = [
        run("phrases", "--llm", "rules", "--input", str(listing), "--out", out, "--cache", cache),
        run("phrases", "--llm", "rules", "--input", str(listing), "--out", out, "--plan", "--split", "no"),
        run("phrases", "--llm", "rules", "--input", str(listing), "--out", f"s3://a:{SECRET}@b/c?foo=1"),
        run("status", out), run("status", out, "--json"), run("verify", out), run("compact", out),
        run("report", out, "--out", str(tmp_path / "page.html")),
        run("score", "--out", out),
    ]  # fmt: skip
    (tmp_path / "c.yaml").write_text(f"out: '{out}'\ninput: {listing}\nphrases: {{llm: rules}}\n")
    told.append(run("run", str(tmp_path / "c.yaml")))
    assert SECRET not in "".join(told)
    assert "\x1b" not in "".join(told)
    assert any("tr\\x1b[2Jain" in text for text in told)
    (tmp_path / "c.yaml").unlink()
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path
    assert json.loads((tmp_path / "out/_state/phrases/manifest.json").read_text())["runs"]


def test_a_folder_is_opened_again_with_its_credentials() -> None:
    files = open_files(f"s3://key:{SECRET}@bucket/a?region=eu-west-1").folder("b")
    assert files.uri == "s3://bucket/a/b?region=eu-west-1"
    assert SECRET in files.address
    opened, (address,) = files.__reduce__()
    assert opened(address).filesystem.equals(files.filesystem)

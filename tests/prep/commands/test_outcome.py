"""Failure is not success: exit codes follow from the rows that failed, and what failed is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import pytest

import cli
from prep.commands.outcome import check_limit, exit_code
from prep.errors import PrepError
from tests.prep.commands.endpoint import Endpoint, serving


@pytest.mark.parametrize(
    ("failed", "rows", "limit", "code"),
    [
        (0, 0, "0", 0), (0, 5, "0", 0), (5, 5, "100%", 1), (1, 100, "1%", 0), (2, 100, "1%", 3),
        (1, 5, "1%", 3), (3, 9, "3", 0), (4, 9, "3", 3), (1, 1000, "0.1%", 0), (2, 1000, "0.1%", 3),
    ],
)  # fmt: skip
def test_the_share_of_failed_rows_decides(failed: int, rows: int, limit: str, code: int) -> None:
    assert exit_code(failed, rows, limit) == code


@pytest.mark.parametrize("limit", ["", "%", "-1", "1.5", "five", "1%%", "nan%"])
def test_a_limit_that_is_none_is_refused(limit: str) -> None:
    with pytest.raises(PrepError, match="--max-failed"):
        check_limit(limit)


def phrases(folder: Path, good: int, bad: int, *more: str) -> int:
    rows: list[dict[str, object]] = [{"sent": f"red cup {n}"} for n in range(good)]
    rows += [{"sent": "cup", "split": [n]} for n in range(bad)]
    file = folder / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["phrases", "--llm", "rules", "--input", str(file), "--out", str(folder / "st"), *more]
    return int(cli.prep_app(words, standalone_mode=False) or 0)


def test_a_command_tells_how_it_went(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a").mkdir()
    assert phrases(tmp_path / "a", 9, 0) == 0
    capsys.readouterr()
    assert phrases(tmp_path / "a", 9, 7) == 3
    told = capsys.readouterr()
    assert "line N: split is '...', not text: 7" in told.out
    assert told.out.count("line 10: split is '[0]'") == 1
    assert "7 of 16 rows of phrases have an error" in told.err
    assert phrases(tmp_path / "a", 9, 7) == 3  # a repetition makes no row better
    assert "7 of them from earlier runs" in capsys.readouterr().err
    assert phrases(tmp_path / "a", 9, 7, "--max-failed", "7") == 0
    assert phrases(tmp_path / "a", 9, 7, "--max-failed", "50%") == 0
    (tmp_path / "b").mkdir()
    assert phrases(tmp_path / "b", 0, 3) == 1


def test_a_run_says_what_it_begins_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert phrases(tmp_path, 3, 0, "--split", "train") == 0
    assert f"phrases by rules: mine (train); 1 worker; to {tmp_path}/st/phrases" in capsys.readouterr().err


def test_rows_of_other_inputs_and_splits_do_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad").mkdir()
    assert phrases(tmp_path / "bad", 0, 3) == 1
    good = tmp_path / "good.jsonl"
    good.write_text('{"sent": "a red cup", "split": "val"}\n{"sent": "", "split": "train"}\n')
    words = ["phrases", "--llm", "rules", "--input", str(good), "--out", str(tmp_path / "bad/st")]

    def code(*more: str) -> int:
        return int(cli.prep_app([*words, *more], standalone_mode=False) or 0)

    assert code("--split", "val") == 0
    assert code("--split", "train") == 1
    assert code() == 3
    capsys.readouterr()
    for _ in range(2):  # the second time the selection is known to be finished, and is not read
        assert code() == 3
        assert "1 of 2 rows of phrases have an error, 1 of them from earlier runs" in capsys.readouterr().err
    assert code("--split", "val") == 0
    entry = json.loads((tmp_path / "bad/st/_state/phrases/manifest.json").read_text())["finished"]
    assert sorted((one["rows"], one["failed"]) for one in entry.values()) == [(1, 0), (1, 1), (2, 1), (3, 3)]


class Refusing(Endpoint):
    """Refuses every request for an answer."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(400, b'{"error": {"message": "this model takes no temperature"}}')


class Warm(Endpoint):
    """Answers "cup", and notes the temperatures that it was asked for."""

    temperatures: ClassVar[list[float]] = []

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.temperatures.append(asked["temperature"])
        content = {"message": {"content": "the cup\nthe red cup"}, "finish_reason": "stop"}
        self.answer(200, json.dumps({"choices": [content]}).encode())


def test_the_temperature_reaches_the_model_and_is_part_of_the_key(tmp_path: Path) -> None:
    Warm.temperatures.clear()
    with serving(Warm) as address:
        model = ("--llm", f"openai:{address}/v1#m", "--cache", str(tmp_path / "cache"))
        assert phrases(tmp_path, 1, 0, *model, "--temperature", "0.7") == 0
        assert set(Warm.temperatures) == {0.7}
        with pytest.raises(PrepError, match=r"temperature.*0\.7"):
            phrases(tmp_path, 1, 0, *model)
        assert phrases(tmp_path, 1, 0, *model, "--replace") == 0
    assert set(Warm.temperatures) == {0.7, 0.0}


def test_a_model_that_refuses_every_request_is_no_success_however_few_they_were(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in kaapi-backend 723 and litellm 33987: a batch of which all failed was told as completed."""
    with serving(Refusing) as address:
        assert phrases(tmp_path, 3, 0, "--llm", f"openai:{address}/v1#m") == 1
    told = capsys.readouterr()
    assert "refused: 3 requests, the first with: HTTP 400: this model takes no temperature" in told.out
    assert "None of the model's answers were kept" in told.err

"""Where a path of this machine is wanted, a URI is refused by name before anything is read or written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import cli
from prep.errors import PrepError

URIS = ("s3://bucket/coco", "gs://bucket/coco", "az://container/coco", "hf://datasets/a/b", "memory://coco")


def refused(*words: str, program: Any = cli.prep_app) -> PrepError:
    with pytest.raises(PrepError) as error:
        program(list(words), standalone_mode=False)
    return error.value


@pytest.mark.parametrize("uri", URIS)
@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["phrases", "--data", "{}"], "--data"),
        (["phrases", "--input", "{}"], "--input"),
        (["sam", "--input", "mine.jsonl", "--image-root", "{}"], "--image-root"),
        (["sam", "--images", "{}"], "--images"),
        (["import", "{}", "--layout", "coco"], "masks"),
    ],
)
def test_a_uri_is_refused_at_once(
    words: list[str], name: str, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = refused(*(word.format(uri) for word in words))
    assert error.message.lower() == f"{name} takes a path of this machine, not {uri}."
    assert "mount it" in error.remedy
    assert list(tmp_path.iterdir()) == []


def test_of_the_other_program_too() -> None:
    error = refused("eval", "--checkpoint", "s3://user:secret@bucket/best.pt", program=cli.pcnet_app)
    assert error.message == "--checkpoint takes a path of this machine, not s3://bucket/best.pt."


def test_a_file_uri_is_told_as_a_path() -> None:
    error = refused("phrases", "--data", "file:///data/coco")
    assert (error.message, error.remedy) == (
        "--data takes a path, not file://data/coco.",
        "Give it as /data/coco",
    )


def test_a_folder_of_such_a_name_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s3:" / "bucket").mkdir(parents=True)
    assert "s3:/bucket/refer" in refused("phrases", "--llm", "rules", "--data", "s3:/bucket").message

"""`pcnet-prep export`: which options a layout takes, what is said, and the exit code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import typer
from click.exceptions import Exit

import cli
from prep.errors import PrepError


def run(*words: str | Path) -> int:
    """The exit code of `pcnet-prep export`."""
    try:
        return int(cli.prep_app(["export", *map(str, words)], standalone_mode=False) or 0)
    except (Exit, typer.Exit) as ended:
        return ended.exit_code


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from prep.demo.dataset import write

    place = tmp_path_factory.mktemp("world")
    write(place, images=6, seed=2)
    for words in ("phrases --llm rules", "sam --generator segments --min-area 20"):
        more = ["--data", str(place / "coco"), "--store", str(place / "store")]
        cli.prep_app([*words.split(), *more], standalone_mode=False)
    return place


def test_the_store_alone_is_enough_for_coco_and_a_split_selects(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "all", "--layout", "coco", "--store", world / "store", "--json") == 0
    (done,) = json.loads(capsys.readouterr().out)
    assert done["counts"]["images"] == 6
    words = ("--store", world / "store", "--data", world / "coco", "--split", "val")
    assert run(tmp_path / "val", "--layout", "coco", *words) == 0
    assert "1 images" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "val" / "instances.json").read_text())["images"]) == 1


def test_what_is_left_out_decides_the_exit_code(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        {"sent": "a", "image": "x.png", "mask": {"size": [2, 2], "counts": [0, 4]}},
        {"sent": "b", "image": "x.png"},
    ]
    mine = tmp_path / "mine.jsonl"
    mine.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ("--layout", "refer", "--store", world / "store", "--input", mine)
    assert run(tmp_path / "out", *words) == 3
    assert "left out: the line has no mask: 1" in capsys.readouterr().out
    assert run(tmp_path / "out", *words) == 3  # again, though nothing is written
    assert run(tmp_path / "out", *words, "--max-failed", "1") == 0
    mine.write_text(json.dumps(lines[1]) + "\n")
    assert run(tmp_path / "out", *words) == 1
    assert not list((tmp_path / "out").rglob("*.p"))


def test_options_of_other_layouts_are_refused(world: Path, tmp_path: Path) -> None:
    store = ("--store", world / "store", "--data", world / "coco")
    for words in (
        ("--layout", "coco", "--side", "64"),
        ("--layout", "coco", "--masks", "best"),
        ("--layout", "official", "--masks", "best"),
        ("--layout", "coco", "--max-failed", "some"),
        ("--layout", "pseudo-png"),  # the store has no scores
    ):
        with pytest.raises(PrepError):
            run(tmp_path / "out", *words, *store)
    assert run(tmp_path / "tree", *store) == 0  # the released code's tree, without --layout
    assert (tmp_path / "tree" / "refer" / "refcoco" / "SAM_Mask").is_dir()


def test_a_remedy_works_when_typed(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "store", tmp_path / "store")
    with pytest.raises(PrepError) as refused:
        run(tmp_path / "elsewhere", "--layout", "croissant", "--store", tmp_path / "store")
    command = refused.value.remedy.removeprefix("Run: pcnet-prep export ")
    assert run(*command.split()) == 0
    assert (tmp_path / "store" / "croissant.json").is_file()
    cli.prep_app(["verify", str(tmp_path / "store")], standalone_mode=False)


def test_a_place_that_is_no_local_folder_is_refused(
    world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PrepError, match=r"takes a path of this machine, not s3://bucket/exported"):
        run("s3://bucket/exported", "--layout", "coco", "--store", world / "store")
    assert list(tmp_path.iterdir()) == []

"""Everyday changes of a dataset and of a store, through the commands: they are followed, or refused."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import cli
from prep.cache.store import open_store
from prep.datasets.catalogue import open_jsonl
from prep.errors import PrepError

POLYGON = [[10, 5, 40, 5, 40, 25, 10, 25]]


def prep(*words: str | Path) -> None:
    cli.prep_app([*map(str, words)], standalone_mode=False)


def pcnet(*words: str | Path) -> None:
    cli.pcnet_app([*map(str, words)], standalone_mode=False)


def picture(path: Path, shade: int, size: tuple[int, int] = (64, 48)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (shade, 90, 60))
    image.paste((30, shade, 200), (10, 5, 40, 25))
    image.save(path)


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def kitchen(folder: Path, count: int = 6, **more: Any) -> Path:
    """A JSONL file with pictures beside it, some of its rows in another dataset than the file's name."""
    for number in range(count):
        picture(folder / f"{number}.png", 20 + 30 * number)
    rows = [
        {
            "sent": f"the blue box {number}",
            "image": f"{number}.png",
            "mask": POLYGON,
            "ref_id": number,
            **more,
        }
        for number in range(count)
    ]
    return write(folder / "mine.jsonl", rows)


def prepare(file: Path, store: Path) -> None:
    prep("phrases", "--llm", "rules", "--input", file, "--out", store)
    prep("sam", "--generator", "segments", "--min-area", "1", "--input", file, "--out", store)


TRAIN = ("--encoder", "tiny", "--steps", "1", "--batch-size", "2", "--size", "32", "--gpus", "0")


def train(file: Path, store: Path, out: Path, *words: str) -> None:
    pcnet("train", *TRAIN, "--input", file, "--store", store, "--out", out, *words)


@pytest.mark.slow
def test_a_rows_own_dataset_is_found_by_train_and_eval(tmp_path: Path) -> None:
    file = kitchen(tmp_path / "data", dataset="kitchen")
    prepare(file, tmp_path / "st")
    train(file, tmp_path / "st", tmp_path / "run")
    pcnet(
        "eval", "--checkpoint", tmp_path / "run/best.pt", "--input", file, "--store", tmp_path / "st",
        "--out", tmp_path / "ev",
    )  # fmt: skip
    assert json.loads((tmp_path / "ev/metrics.json").read_text())["n"] == 6


@pytest.mark.slow
def test_training_refuses_a_store_of_an_older_file_and_masks_of_another_root(tmp_path: Path) -> None:
    file = kitchen(tmp_path / "data")
    prepare(file, tmp_path / "st")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    write(file, [{**rows[0], "split": "val"}, *rows[1:]])
    with pytest.raises(PrepError, match="has changed since"):
        train(file, tmp_path / "st", tmp_path / "run")
    prep("phrases", "--llm", "rules", "--input", file, "--out", tmp_path / "st")
    train(file, tmp_path / "st", tmp_path / "run")
    for number in range(6):
        picture(tmp_path / "other" / f"{number}.png", 200 - number)
    with pytest.raises(PrepError, match="is not the image that"):
        train(file, tmp_path / "st", tmp_path / "run2", "--image-root", str(tmp_path / "other"))


@pytest.mark.parametrize("listed", [True, False], ids=["jsonl", "folders"])
def test_two_image_roots_of_the_same_names_are_not_mixed(tmp_path: Path, listed: bool) -> None:
    for folder, shade in (("a", 10), ("b", 200)):
        for number in range(2):
            picture(tmp_path / folder / f"{number}.png", shade + number)
        write(tmp_path / f"{folder}.jsonl", [{"sent": "box", "image": f"{n}.png"} for n in range(2)])

    def masks(folder: str) -> None:
        given = ("--input", tmp_path / f"{folder}.jsonl", "--image-root", tmp_path / folder)
        prep(
            "sam", "--generator", "segments", "--min-area", "1", "--out", tmp_path / "st",
            *(given if listed else ("--images", tmp_path / folder)),
        )  # fmt: skip

    masks("a")
    before = open_store(tmp_path / "st").stage("proposals").reader().read()
    with pytest.raises(PrepError) as raised:
        masks("b")
    assert str(tmp_path / "a") in str(raised.value)
    assert str(tmp_path / "b") in str(raised.value)
    assert open_store(tmp_path / "st").stage("proposals").reader().read().equals(before)
    picture(tmp_path / "a/0.png", 99)  # an edited image of the same root is followed
    masks("a")
    assert not open_store(tmp_path / "st").stage("proposals").reader().read().equals(before)


def test_values_that_cannot_be_used_are_errors_and_unknown_fields_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[dict[str, Any]] = [
        {"split": 0}, {"split": 1}, {"split": True}, {"split": ["val"]}, {"ref_id": "x7"}, {"ref_id": "7"},
        {"image_id": 2.5}, {"dataset": 3}, {"spilt": "val"}, {"split": None},
    ]  # fmt: skip
    file = write(tmp_path / "mine.jsonl", [{"sent": f"red cup {n}", **one} for n, one in enumerate(given)])
    prep("phrases", "--llm", "rules", "--input", file, "--out", tmp_path / "st")
    assert "fields of the input that are not used: 'spilt' (1)" in capsys.readouterr().out
    table = open_store(tmp_path / "st").stage("phrases").reader().read()
    rows = {row["expression"]: row for row in table.to_pylist()}
    wrong = {n for n in range(len(given)) if rows[f"red cup {n}"]["status"] == "error"}
    assert wrong == {2, 3, 4, 6}
    assert "line 3: split is 'True', not text" in rows["red cup 2"]["error"]
    assert [rows[f"red cup {n}"]["split"] for n in (0, 1, 8, 9)] == ["0", "1", "train", "train"]
    assert (rows["red cup 5"]["ref_id"], rows["red cup 7"]["dataset"]) == (7, "3")
    assert sorted(open_jsonl(file).splits()) == ["0", "1", "train"]


def lost(store: Path, table: str = "phrases") -> None:
    for shard in (store / table).glob("part-*.parquet"):
        shard.unlink()


def verify(store: Path, *words: str) -> int:
    """The exit code of the command."""
    return int(cli.prep_app(["verify", str(store), *words], standalone_mode=False) or 0)


def test_repair_works_on_the_store_that_is_named_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    file = kitchen(home)
    monkeypatch.chdir(home)
    prep("phrases", "--llm", "rules", "--input", file.name, "--out", "prepared")
    before = open_store(home / "prepared").stage("phrases").reader().read(["row_id"])
    shutil.move(home / "prepared", tmp_path / "renamed")
    lost(tmp_path / "renamed")
    monkeypatch.chdir(tmp_path)
    assert verify(Path("renamed"), "--repair") == 0
    after = open_store(tmp_path / "renamed").stage("phrases").reader().read(["row_id"])
    assert sorted(after["row_id"].to_pylist()) == sorted(before["row_id"].to_pylist())
    assert not (tmp_path / "prepared").exists()
    assert not (home / "prepared").exists()


def test_repair_changes_nothing_if_the_rows_cannot_be_made_again(tmp_path: Path) -> None:
    file = kitchen(tmp_path / "data")
    prep("phrases", "--llm", "rules", "--input", file, "--out", tmp_path / "st")
    lost(tmp_path / "st")
    file.rename(file.with_name("elsewhere.jsonl"))
    before = (tmp_path / "st/_state/phrases/manifest.json").read_bytes()
    with pytest.raises(
        PrepError, match=r"cannot be made again: .*mine\.jsonl is not a file.* Nothing was changed"
    ):
        prep("verify", tmp_path / "st", "--repair")
    assert (tmp_path / "st/_state/phrases/manifest.json").read_bytes() == before
    assert verify(tmp_path / "st") == 1


@pytest.mark.parametrize(
    "mistake", [("--split", "vall"), ("--input", "none.jsonl"), ("--llm", "openai:http://127.0.0.1:9/v1#m")]
)
def test_a_mistyped_replacement_leaves_the_rows(
    tmp_path: Path, mistake: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prep.phrases.engines.endpoint.ATTEMPTS", 1)
    file = kitchen(tmp_path / "data")
    words = ["phrases", "--llm", "rules", "--input", str(file), "--out", str(tmp_path / "st")]
    prep(*words)
    before = open_store(tmp_path / "st").stage("phrases").reader().read()
    with pytest.raises(PrepError):
        prep(*words, "--replace", *mistake)
    assert open_store(tmp_path / "st").stage("phrases").reader().read().equals(before)


@pytest.mark.slow
def test_random_journeys_end_in_the_store_that_is_made_from_scratch(tmp_path: Path) -> None:
    from benchmarks.soak import Journey

    for seed in range(1000, 1008):
        Journey(tmp_path / str(seed), seed).travel()


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in pytorch-lightning 4184: training again after the end wrote another checkpoint."""
    file = kitchen(tmp_path / "data")
    prepare(file, tmp_path / "st")
    train(file, tmp_path / "st", tmp_path / "run")
    names = ("best.pt", "last.pt", "losses.csv")
    before = [(tmp_path / "run" / name).read_bytes() for name in names]
    capsys.readouterr()
    train(file, tmp_path / "st", tmp_path / "run", "--val-split", "train")
    assert "Nothing was trained, so nothing was validated on train" in capsys.readouterr().out
    best, last, losses = ((tmp_path / "run" / name).read_bytes() for name in names)
    assert (best, losses) == (before[0], before[2])
    one, other = (torch.load(io.BytesIO(data), weights_only=True) for data in (before[1], last))
    assert one["training"]["step"] == other["training"]["step"] == 1
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])

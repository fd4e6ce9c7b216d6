"""--limit: the first of the selection, and nothing else is touched or taken for done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import cli
from prep.cache.store import open_store
from prep.datasets.catalogue import open_dataset
from prep.demo.dataset import write


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data"), images=6)


def prep(*words: str | Path) -> int:
    return int(cli.prep_app([*map(str, words)], standalone_mode=False) or 0)


def rows(store: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = open_store(store).stage(name).reader().read().to_pylist()
    return found


def test_the_first_of_the_selection_are_done_and_the_rest_is_left_alone(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    phrases = ("phrases", "--llm", "rules", "--data", data, "--out", tmp_path / "st")
    all_rows = [one.row_id for one in open_dataset(data, "refcoco").expressions()]
    prep(*phrases, "--limit", "5")
    assert "refcoco unc, the first 5; 1 worker" in capsys.readouterr().err
    assert [row["row_id"] for row in rows(tmp_path / "st", "phrases")] == all_rows[:5]
    prep(*phrases, "--limit", "3")  # rows beyond a limit are neither removed nor set aside
    assert len(rows(tmp_path / "st", "phrases")) == 5
    manifest = json.loads((tmp_path / "st/_state/phrases/manifest.json").read_text())
    assert manifest["finished"] == {}
    prep(*phrases, "--limit", "5", "--plan")
    assert "0 rows to make" in capsys.readouterr().out
    prep(*phrases)
    assert [row["row_id"] for row in rows(tmp_path / "st", "phrases")] == all_rows
    assert prep("verify", tmp_path / "st") == 0

    val = [one.row_id for one in open_dataset(data, "refcoco").expressions(["val"])]
    prep(*phrases[:-1], tmp_path / "val", "--split", "val", "--limit", "2")
    assert [row["row_id"] for row in rows(tmp_path / "val", "phrases")] == val[:2]


def test_the_images_are_those_of_the_first_expressions(data: Path, tmp_path: Path) -> None:
    given = ("--data", data, "--out", tmp_path / "st")
    sam = ("sam", "--generator", "segments", "--min-area", "1", *given)
    prep(*sam, "--limit", "2")
    images = [ref.image for ref in open_dataset(data, "refcoco").images()]
    assert [row["image"] for row in rows(tmp_path / "st", "proposals")] == images[:2]
    prep("phrases", "--llm", "rules", *given, "--limit", "2")
    assert {row["image"] for row in rows(tmp_path / "st", "phrases")} <= set(images[:2])
    # A changed image beyond the limit keeps its row until a run looks at it.
    prep(*sam)
    before = {row["image"]: row for row in rows(tmp_path / "st", "proposals")}
    changed = data / images[3]
    pixels = changed.read_bytes()
    changed.write_bytes((data / images[4]).read_bytes())
    prep(*sam, "--limit", "2")
    assert {row["image"]: row for row in rows(tmp_path / "st", "proposals")} == before
    prep(*sam, "--limit", "4")
    after = {row["image"]: row for row in rows(tmp_path / "st", "proposals")}
    assert [image for image in after if after[image] != before[image]] == [images[3]]
    changed.write_bytes(pixels)


def test_a_limit_is_over_all_sources_together(data: Path, tmp_path: Path) -> None:
    (tmp_path / "coco/refer").mkdir(parents=True)
    (tmp_path / "coco/train2014").symlink_to(data / "train2014")
    for name in ("refcoco", "refcoco+"):
        (tmp_path / "coco/refer" / name).symlink_to(data / "refer/refcoco")
    words = ("phrases", "--llm", "rules", "--data", tmp_path / "coco", "--out", tmp_path / "st")
    each = ("--dataset", "refcoco", "--dataset", "refcoco+")
    count = len(list(open_dataset(data, "refcoco").expressions()))
    prep(*words, *each, "--limit", str(count + 3))
    found = [row["dataset"] for row in rows(tmp_path / "st", "phrases")]
    assert found == ["refcoco"] * count + ["refcoco+"] * 3
    prep(*words, *each, "--limit", "1")
    assert len(rows(tmp_path / "st", "phrases")) == count + 3

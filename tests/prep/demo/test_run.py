"""A small demo by the installed programs, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from prep.cache.store import open_store
from prep.datasets.catalogue import open_dataset
from prep.datasets.truth import Truth
from prep.demo.run import DemoConfig, commands, demo, table
from prep.demo.samples import _student_masks
from prep.errors import PrepError


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(PrepError, match="does not contain a demo"):
        demo(DemoConfig(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/demo.json").write_text(json.dumps({"images": 3}))
    with pytest.raises(PrepError, match="contains a demo with"):
        demo(DemoConfig(tmp_path / "other"))
    with pytest.raises(PrepError, match="cannot be written"):
        demo(DemoConfig(tmp_path / "mine.txt" / "below"))


@pytest.mark.parametrize("change", [{"images": 1}, {"steps": 0}, {"shown": 0}])
def test_a_demo_that_shows_nothing_is_refused(tmp_path: Path, change: dict[str, int]) -> None:
    with pytest.raises(PrepError, match="is too small"):
        DemoConfig(tmp_path, **change)


def test_the_commands_are_those_a_person_would_type(tmp_path: Path) -> None:
    said = {what: " ".join(command) for what, command in commands(DemoConfig(tmp_path), tmp_path / "coco")}
    assert list(said) == ["phrases", "proposals", "train", "evaluate", "student", "evaluate the student"]
    assert "phrases --llm rules" in said["phrases"]
    assert "sam --generator segments --min-area 20" in said["proposals"]
    assert "--encoder tiny --recipe plus" in said["train"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_chain_runs_and_ends_in_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # One thread: on a busy machine two that wait for each other take far longer than one.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    said: list[str] = []
    config = DemoConfig(tmp_path / "demo", images=40, steps=4, shown=2)
    result = demo(config, said.append)
    data = tmp_path / "demo/data/coco"
    dataset = open_dataset(data, "refcoco")
    rows = list(dataset.expressions())
    store = open_store(tmp_path / "demo/prepared")
    phrases = store.stage("phrases").reader().read(columns=["row_id", "status"])
    assert sorted(phrases["row_id"].to_pylist()) == sorted(row.row_id for row in rows)
    assert set(phrases["status"].to_pylist()) == {"ok"}
    proposals = store.stage("proposals").reader().read(columns=["image", "status"])
    assert sorted(proposals["image"].to_pylist()) == sorted(image.image for image in dataset.images())

    validated = [row for row in rows if row.split == "val"]
    overall = result.figures[0]
    assert (overall.kind, overall.n) == ("all", len(validated))
    instances = json.loads((data / "refer/refcoco/instances.json").read_text())["annotations"]
    objects = [sum(one["image_id"] == row.image_id for one in instances) for row in validated]
    assert overall.random_baseline == pytest.approx(100 * sum(1 / count for count in objects) / len(objects))
    assert overall.model == pytest.approx(result.metrics["pointm"])
    assert {row.kind.split()[-1] for row in result.figures} <= {"all", "attribute", "position", "relation"}

    page = result.page.read_text()
    shown = re.findall(r"<h3><bdi>(.*?)</bdi>", page)
    assert len(shown) == 2
    assert set(shown) <= {row.text for row in validated}
    assert page.count("stage ") >= 2 * 2
    assert page.count("<figcaption>mask of the student<") == 2
    scored = json.loads((tmp_path / "demo/student_evaluation/metrics.json").read_text())
    assert f"PointM {scored['pointm']:.1f}%, mIoU {scored['miou']:.1f}%" in page
    judged = pq.read_table(tmp_path / "demo/student_evaluation/samples.parquet").to_pylist()
    masks = _student_masks(tmp_path / "demo/student_evaluation/masks", dataset.expressions(["val"]))
    truth, known = Truth(dataset), {row.row_id: row for row in validated}
    for row in judged:  # each file is the mask that was scored for this expression
        mask = np.load(masks[row["row_id"]]).astype(bool)
        assert (mask & truth.mask(known[row["row_id"]])).sum() == row["intersection"]
    assert any(line.startswith("$ pcnet train") or "$ pcnet train" in line for line in said)
    assert set(table(result.figures)) <= set(said)

    with pytest.raises(PrepError, match="contains a demo with"):
        demo(DemoConfig(config.out, images=41, steps=4))

"""What old versions wrote is still read; tests/data/README.md says how it was made."""

from __future__ import annotations

import csv
import json
import lzma
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prep.cache.compact import compact
from prep.cache.store import open_store
from prep.phrases.rules.decompose import RULES_VERSION

DATA = Path(__file__).parent / "data"
ROWS = {"phrases": 17, "proposals": 4, "scores": 17}
PHRASES = ("phrases", "--llm", "rules", "--data", "coco", "--out", "store")
SEGMENTS = ("sam", "--generator", "segments", "--min-area", "20", "--data", "coco", "--out", "store")
TRAIN = ("train", "--store", "store", "--data", "coco", "--encoder", "tiny", "--recipe", "paper",
         "--stages", "2", "--steps", "60", "--batch-size", "4", "--size", "32", "--gpus", "0",
         "--out", "run")  # fmt: skip
EVAL = ("eval", "--checkpoint", "run/last.pt", "--store", "store", "--data", "coco", "--split", "train",
        "--refine", "--gpus", "0", "--out", "again")  # fmt: skip
Call = Callable[..., Any]


@pytest.fixture(params=[folder.name for folder in sorted(DATA.glob("v*"))])
def old(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what a version wrote, as the current folder."""
    folder = tmp_path / request.param
    shutil.copytree(DATA / request.param, folder)
    packed = folder / "run" / "last.pt.xz"
    packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
    packed.unlink()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """``call(program, *words)``: what the program prints with ``--json``; it must end well."""

    def run(program: str, *words: str) -> Any:
        (entry,) = entry_points(group="console_scripts", name=program)
        monkeypatch.setattr(sys, "argv", [program, *words, "--json"])
        monkeypatch.setattr("threading.excepthook", sys.modules["threading"].excepthook)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            entry.load()()
        said = capsys.readouterr()
        assert ended.value.code == 0, said.err
        return json.loads(said.out)

    return run


def table(store: Path, stage: str) -> pa.Table:
    return pa.concat_tables([pq.read_table(file) for file in sorted((store / stage).glob("*.parquet"))])


def parts(store: Path) -> dict[str, bytes]:
    """The shards of the tables and of the response cache, by name.

    The record of image files that were read is left out: it holds their modification times, and a checkout
    gives the images new ones.
    """
    return {
        name: file.read_bytes()
        for file in store.rglob("*.parquet")
        if not (name := file.relative_to(store).as_posix()).startswith("cache/seen/")
    }


def losses(path: Path) -> list[dict[str, float]]:
    with path.open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def test_the_store_opens_and_is_whole(old: Path, call: Call) -> None:
    stages = call("pcnet-prep", "status", "store")["stages"]
    assert {stage["stage"]: stage["rows"] for stage in stages} == ROWS
    assert [stage["versions"]["pcnet-prep"] for stage in stages] == [old.name.removeprefix("v")] * 3
    checked = call("pcnet-prep", "verify", "store", "--data", "coco")["stages"]
    assert {stage["stage"]: stage["rows"] for stage in checked}.items() >= ROWS.items()
    assert [stage["problems"] for stage in checked] == [[]] * len(checked)


def test_the_rows_have_the_names_and_values_that_the_old_version_gave_them(old: Path) -> None:
    phrases = {row["row_id"]: row for row in table(old / "store", "phrases").to_pylist()}
    row = phrases["563fed88fe3c0c9f9fed3eb660fd25e8"]
    assert row["expression"] == "the white one on the far left"
    assert row["phrases"] == ["the one", "the white one", "the one on the far left"]
    proposals = {row["image_id"]: row for row in table(old / "store", "proposals").to_pylist()}
    assert [len(proposals[1]["masks"]), len(proposals[2]["masks"])] == [8, 16]
    first = proposals[1]["masks"][0]
    assert (first["area"], first["bbox"]) == (3823, [0.0, 0.0, 64.0, 64.0])
    assert first["counts"] == "0U]27ddM0000000000000H`0H000000000008@80000000000000k4"
    scores = {row["row_id"]: row for row in table(old / "store", "scores").to_pylist()}
    assert scores.keys() == phrases.keys()
    assert scores[row["row_id"]]["proposals_key"] == proposals[1]["key"]
    assert scores[row["row_id"]]["scores"][6] == pytest.approx(0.10606648)


@pytest.mark.parametrize(("selection", "wanted"), [((), 4), (("--split", "train"), 3)])
def test_every_row_is_taken_up_and_nothing_is_computed_anew(
    selection: tuple[str, ...], wanted: int, old: Path, call: Call
) -> None:
    before = parts(old / "store")
    (summary,) = call("pcnet-prep", *SEGMENTS, *selection)
    assert (summary["done"], summary["failed"]) == (0, 0)
    assert summary["reused"] == summary["total"] == wanted
    assert parts(old / "store") == before


def test_phrases_of_the_old_rules_are_not_mixed_with_those_of_the_present_ones(old: Path, call: Call) -> None:
    before = parts(old / "store")
    with pytest.raises(
        AssertionError, match=rf"version: the store has '1', this run has '{RULES_VERSION}'[^$]*--replace"
    ):
        call("pcnet-prep", *PHRASES)
    assert parts(old / "store") == before
    rows = open_store(old / "store").stage("phrases").reader().read().to_pylist()
    assert {row["repairs"] for row in rows} == {None}
    (summary,) = call("pcnet-prep", *PHRASES, "--replace")
    assert (summary["done"], summary["reused"]) == (ROWS["phrases"], 0)
    rows = table(old / "store", "phrases").to_pylist()
    assert [row["repairs"] for row in rows] == [[]] * ROWS["phrases"]


def test_old_shards_are_merged_with_new_ones(old: Path) -> None:
    stage = open_store(old / "store").stage("phrases")
    before = stage.reader().read().to_pylist()
    with stage.writer(stage.reader().settings) as writer:
        added = {**before[0], "row_id": "new", "repairs": ["split"]}
        writer.write(pa.Table.from_pylist([added], schema=stage.schema))
    compact(open_store(old / "store"), 1 << 30)
    after = {row["row_id"]: row for row in stage.reader().read().to_pylist()}
    assert after.pop("new")["repairs"] == ["split"]
    assert after == {row["row_id"]: row for row in before}


def test_the_checkpoint_gives_the_figures_of_the_old_version(old: Path, call: Call) -> None:
    printed = call("pcnet", *EVAL)
    stored = json.loads((old / "run" / "evaluation" / "metrics.json").read_text())
    for name in ("n", "empty", "miou", "oiou", "pointm", "hit", "oracle_miou", "proposal_miou"):
        assert printed[name] == pytest.approx(stored[name], rel=1e-3), name
    kept = pq.read_table(old / "run" / "evaluation" / "samples.parquet").to_pylist()
    made = {row["row_id"]: row for row in pq.read_table(old / "again" / "samples.parquet").to_pylist()}
    assert made.keys() == {row["row_id"] for row in kept}
    for row in kept:
        assert made[row["row_id"]]["iou"] == pytest.approx(row["iou"], abs=2e-3)
        assert made[row["row_id"]]["proposal_iou"] == pytest.approx(row["proposal_iou"])


def test_the_run_is_reported(old: Path, call: Call) -> None:
    made = call("pcnet", "report", "run", "--data", "coco")
    assert (made["runs"], made["evaluations"], made["expressions"]) == (1, 1, 14)
    assert (old / made["page"]).read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_the_run_goes_on_to_the_end_that_the_old_version_reached(old: Path, call: Call) -> None:
    before = losses(old / "run" / "losses.csv")
    call("pcnet", *TRAIN)
    after, wanted = losses(old / "run" / "losses.csv"), losses(old / "resumed.csv")
    assert after[: len(before)] == before
    assert [row["step"] for row in after] == [row["step"] for row in wanted] == list(range(1, 61))
    for row, expected in zip(after, wanted, strict=True):
        assert row == pytest.approx(expected, rel=0.02, abs=1e-3)
    assert (old / "run" / "best.pt").is_file()

"""The main job from outside: the public commands on data, their rows, and what a kill leaves behind."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
KEYS = {"phrases": "row_id", "proposals": "image"}


def command(*words: str | Path) -> list[str]:
    return [str(BIN / str(words[0])), *map(str, words[1:])]


def run(*words: str | Path) -> str:
    done = subprocess.run(command(*words), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(store: Path, stage: str) -> pa.Table:
    """A stage's rows sorted by key, as any Parquet reader sees them: by the files that are there."""
    files = sorted((store / stage).rglob("*.parquet"))
    table = pa.concat_tables([pq.read_table(file) for file in files])
    keys = table.column(KEYS[stage]).to_pylist()
    assert len(set(keys)) == len(keys)
    return table.sort_by(KEYS[stage])


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic dataset in the real layout."""
    from prep.demo.dataset import write

    root = tmp_path_factory.mktemp("tree")
    write(root, images=60, seed=3)
    return root / "coco"


@pytest.fixture(scope="module")
def store(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phrases and proposals of the tree, by one worker."""
    out = tmp_path_factory.mktemp("stores") / "one"
    run("pcnet-prep", "phrases", "--llm", "rules", "--data", tree, "--out", out)
    run("pcnet-prep", "sam", "--generator", "segments", "--min-area", "20", "--data", tree, "--out", out)
    return out


@pytest.mark.parametrize("stage", ["phrases", "proposals"])
def test_two_workers_give_the_rows_of_one(stage: str, tree: Path, store: Path, tmp_path: Path) -> None:
    words = {
        "phrases": ("phrases", "--llm", "rules"),
        "proposals": ("sam", "--generator", "segments", "--min-area", "20"),
    }[stage]
    out = tmp_path / "two"
    said = run("pcnet-prep", *words, "--data", tree, "--out", out, "--workers", "2", "--json")
    assert json.loads(said)[0]["done"] == rows(store, stage).num_rows
    assert rows(out, stage).equals(rows(store, stage))


def test_a_second_run_has_nothing_to_do(tree: Path, store: Path) -> None:
    said = run("pcnet-prep", "phrases", "--llm", "rules", "--data", tree, "--out", store, "--json")
    summary = json.loads(said)[0]
    assert (summary["done"], summary["failed"]) == (0, 0)
    assert summary["reused"] == summary["total"] == rows(store, "phrases").num_rows


def test_selections_accumulate(tree: Path, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "store"
    for split in ("val", "train"):
        run("pcnet-prep", "phrases", "--llm", "rules", "--data", tree, "--out", out, "--split", split)
    run("pcnet-prep", "phrases", "--llm", "rules", "--data", tree, "--out", out)
    assert rows(out, "phrases").equals(rows(store, "phrases"))


def test_other_settings_are_refused_with_both_values(tree: Path, tmp_path: Path) -> None:
    words = (
        "pcnet-prep",
        "sam",
        "--generator",
        "segments",
        "--data",
        tree,
        "--out",
        tmp_path,
        "--split",
        "val",
    )
    run(*words, "--min-area", "20")
    done = subprocess.run(command(*words, "--min-area", "30"), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "20" in done.stderr
    assert "30" in done.stderr
    assert "--replace" in done.stderr
    before = rows(tmp_path, "proposals")
    run(*words, "--min-area", "30", "--replace")
    assert not rows(tmp_path, "proposals").equals(before)
    again = json.loads(run(*words, "--min-area", "20", "--replace", "--json"))[0]
    assert rows(tmp_path, "proposals").equals(before)
    assert again["done"] == before.num_rows


def test_train_and_eval(tree: Path, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run("pcnet", "train", "--store", store, "--data", tree, "--encoder", "tiny", "--recipe", "paper",
        "--steps", "3", "--batch-size", "4", "--out", out)  # fmt: skip
    said = run("pcnet", "eval", "--checkpoint", out / "best.pt", "--store", store, "--data", tree,
               "--split", "val", "--json")  # fmt: skip
    figures = json.loads(said)
    truth = pickle.loads((tree / "refer" / "refcoco" / "refs(unc).p").read_bytes())
    assert figures["n"] == sum(len(ref["sentences"]) for ref in truth if ref["split"] == "val")
    assert all(0 <= figures[name] <= 100 for name in ("miou", "oiou", "pointm"))


def killed_while_working(words: list[str], out: Path, stage: str, delay: float) -> bool:
    """Kill a command ``delay`` seconds after its stage has begun; tells whether it was still running."""
    started = subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while started.poll() is None and not (out / "_state" / stage / "manifest.json").exists():
        time.sleep(0.01)
    time.sleep(delay)
    alive = started.poll() is None
    if alive:
        os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    return alive


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigkill_loses_nothing_and_doubles_nothing(
    workers: str, tree: Path, store: Path, tmp_path: Path
) -> None:
    draw = random.Random(int(workers))
    words = command("pcnet-prep", "sam", "--generator", "segments", "--min-area", "20", "--data", tree,
                    "--out", tmp_path, "--workers", workers)  # fmt: skip
    kills = 0
    for _ in range(2 if workers == "1" else 1):
        kills += killed_while_working(words, tmp_path, "proposals", draw.uniform(0.0, 1.0))
    subprocess.run(words, check=True, capture_output=True)
    assert kills
    assert rows(tmp_path, "proposals").equals(rows(store, "proposals"))


def test_real_tree(shared: Path, tmp_path: Path) -> None:
    """The commands on real COCO photos and RefCOCO expressions, trained and evaluated on the same few."""
    data, out = tmp_path / "coco", tmp_path / "prepared"
    shutil.copytree(shared / "data" / "coco" / "refer" / "refcoco", data / "refer" / "refcoco")
    refs = data / "refer" / "refcoco" / "refs(unc).p"
    refs.unlink()
    shutil.copy(shared / "data" / "formats" / "refs(unc).split_train.p", refs)
    (data / "train2014").symlink_to(shared / "data" / "coco" / "train2014")
    run("pcnet-prep", "phrases", "--llm", "rules", "--data", data, "--out", out)
    run("pcnet-prep", "sam", "--generator", "segments", "--data", data, "--out", out)
    assert rows(out, "phrases").num_rows == 59
    assert set(rows(out, "proposals").column("status").to_pylist()) == {"ok"}
    run("pcnet", "train", "--encoder", "tiny", "--store", out, "--data", data, "--steps", "2",
        "--out", tmp_path / "run")  # fmt: skip
    said = run("pcnet", "eval", "--checkpoint", tmp_path / "run" / "last.pt", "--store", out, "--data", data,
               "--split", "train", "--json")  # fmt: skip
    assert json.loads(said)["n"] == 59


def test_real_expressions_have_distinct_rows(shared: Path, tmp_path: Path) -> None:
    run("pcnet-prep", "phrases", "--llm", "rules", "--input", shared / "data" / "expressions.jsonl",
        "--out", tmp_path)  # fmt: skip
    table = rows(tmp_path, "phrases")
    assert table.num_rows == 20_970
    assert set(table.column("status").to_pylist()) == {"ok"}


def test_verify_finds_a_flipped_byte_and_repair_makes_just_those_rows_again(
    tree: Path, store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "store"
    run("pcnet-prep", "sam", "--generator", "segments", "--min-area", "20", "--data", tree, "--out", out)
    run("pcnet-prep", "verify", out, "--data", tree)
    shard = next((out / "proposals").glob("*.parquet"))
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    shard.write_bytes(bytes(damaged))
    found = subprocess.run(command("pcnet-prep", "verify", out), capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert shard.name in found.stdout
    run("pcnet-prep", "verify", out, "--repair")
    run("pcnet-prep", "verify", out)
    assert rows(out, "proposals").equals(rows(store, "proposals"))


def test_the_released_layout_and_back(tree: Path, store: Path, tmp_path: Path) -> None:
    run("pcnet-prep", "export", tmp_path / "tree", "--store", store, "--data", tree)
    released = tmp_path / "tree" / "refer" / "refcoco"
    run("pcnet-prep", "import", released, "--layout", "official", "--data", tree, "--out", tmp_path / "back")
    before, after = rows(store, "phrases"), rows(tmp_path / "back", "phrases")
    assert after.column("row_id").equals(before.column("row_id"))
    masks = [
        [[mask["counts"] for mask in row] for row in rows(where, "proposals").column("masks").to_pylist()]
        for where in (store, tmp_path / "back")
    ]
    assert masks[0] == masks[1]

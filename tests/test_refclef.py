"""RefClef's shared test sets count for each of theirs in every command: `testAB` is in testA and in testB."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest
from PIL import Image

import cli
from tests.test_exit_codes import clip_folder

__all__ = ["clip_folder"]
pytestmark = pytest.mark.slow
SPLITS = ("testA", "testAB", "testB", "testBC", "val")
IN_SPLIT = {"testA": {1, 2}, "testB": {2, 3, 4}, "testC": {4}, "val": {5}}


def tree(root: Path) -> Path:
    """A RefClef of five images, one reference and one expression each."""
    images, annotations, refs = [], [], []
    for number, split in enumerate(SPLITS, 1):
        path = root / "saiapr_tc-12/00/images" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGB", (60, 40), (200, 30 * number, 90))
        picture.paste((20, 20, 20), (10, 5, 40, 25))
        picture.save(path)
        images.append({"id": number, "file_name": f"{number}.jpg", "width": 60, "height": 40})
        annotations.append(
            {"id": 100 + number, "image_id": number, "segmentation": [[10, 5, 40, 5, 40, 25, 10, 25]]}
        )
        sentence = {"sent_id": number, "sent": f"the dark square {number}"}
        ref = {"ref_id": number, "ann_id": 100 + number, "image_id": number, "split": split}
        refs.append({**ref, "sentences": [sentence], "sent_ids": [number]})
    folder = root / "refer/refclef"
    folder.mkdir(parents=True)
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs))
    (folder / "instances.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return root


def prep(*words: str | Path) -> int:
    return int(cli.prep_app([*map(str, words)], standalone_mode=False) or 0)


def pcnet(*words: str | Path) -> int:
    return int(cli.pcnet_app([*map(str, words)], standalone_mode=False) or 0)


@pytest.mark.parametrize("given", ["own", "case"])
def test_each_command_takes_the_shared_test_sets(
    given: str,
    tmp_path: Path,
    clip_folder: Path,
    repository: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = repository.parent / "shared/cases/67-refclef-testAB/coco"
    data = tree(tmp_path / "coco") if given == "own" else case
    if not data.is_dir():
        pytest.skip("the folder of cases beside the checkout (../shared/cases) is absent")
    store, one = tmp_path / "st", ("--data", data, "--dataset", "refclef")
    prep("phrases", "--llm", "rules", *one, "--out", store)
    prep("sam", "--generator", "segments", "--min-area", "1", *one, "--out", store)
    tiny = ("--encoder", "tiny", "--steps", "1", "--batch-size", "2", "--size", "32", "--gpus", "0")
    for split, refs in IN_SPLIT.items():
        capsys.readouterr()
        score = ("score", "--model", clip_folder, "--weights", "", "--gpus", "0", *one, "--split", split)
        assert prep(*score, "--out", store, "--replace", "--json") == 0
        assert json.loads(capsys.readouterr().out)[0]["total"] == len(refs)
        run = ("--store", store, *one, "--out", tmp_path / split)
        assert pcnet("train", *tiny, *run, "--split", split) == 0
        assert f"training on {len(refs)} expressions" in capsys.readouterr().err
        evaluate = ("eval", "--checkpoint", tmp_path / split / "best.pt", "--store", store, *one)
        assert pcnet(*evaluate, "--split", split, "--gpus", "0", "--out", tmp_path / split / "ev") == 0
        assert json.loads((tmp_path / split / "ev/metrics.json").read_text())["n"] == len(refs)
        assert pcnet("report", tmp_path / split) == 0
        assert re.search(rf"1 evaluations, {len(refs)} expressions", capsys.readouterr().out)
        assert prep("export", tmp_path / f"tree-{split}", "--store", store, *one, "--split", split) == 0
        written = tmp_path / f"tree-{split}/refer/refclef/Mistral_7B_Ref_Sents"
        assert {int(path.stem) for path in written.glob("*.json")} == refs

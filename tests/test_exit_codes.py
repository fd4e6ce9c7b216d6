"""Every command that leaves something out because of an error says so with its exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import cli
from prep.cache.store import open_store
from prep.demo.dataset import write

pytestmark = pytest.mark.slow
CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}


def code(app: str, *words: str | Path) -> int:
    program = cli.pcnet_app if app == "pcnet" else cli.prep_app
    return int(program([*map(str, words)], standalone_mode=False) or 0)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from open_clip.model import CLIP as Model

    folder = tmp_path_factory.mktemp("clip")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP}))
    torch.save(Model(**CLIP).state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder


def damage(data: Path, count: int) -> None:
    for image in sorted((data / "train2014").iterdir())[:count]:
        image.write_bytes(b"not an image")


def test_an_image_that_cannot_be_read_counts_in_every_command(
    tmp_path: Path, clip_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, store = write(tmp_path / "coco", images=12), tmp_path / "st"
    damage(data, 2)  # one of them is in the split val
    given = ("--data", data, "--out", store)
    assert code("prep", "phrases", "--llm", "rules", *given) == 0
    assert code("prep", "sam", "--generator", "segments", "--min-area", "1", *given) == 3
    assert code("prep", "sam", "--from", store, "--out", tmp_path / "narrow") == 3
    score = ("score", "--model", clip_folder, "--weights", "", "--gpus", "0", *given)
    capsys.readouterr()
    assert code("prep", *score) == 3
    told = capsys.readouterr().err
    assert "expressions have no scores" in told
    begins = (
        r"scores by \S+clip\d+ on CPU: 57 expressions and 10 images, 14 left out: image could not be read; "
    )
    assert re.match(begins + rf"1 worker; to {store}/scores\n", told), told
    assert code("prep", *score) == 3  # a repetition does not make it better
    assert code("prep", *score, "--max-failed", "50%") == 0
    scores = open_store(store).stage("scores").reader().read().sort_by("row_id")
    next((store / "scores").glob("*.parquet")).write_bytes(b"damaged")
    assert code("prep", "verify", store, "--repair") == 0  # score reads the store that it is repeated on
    assert open_store(store).stage("scores").reader().read().sort_by("row_id").equals(scores)
    export = ("export", tmp_path / "tree", "--store", store, "--data", data)
    assert code("prep", *export) == 3
    told = capsys.readouterr()
    assert "images that could not be read: their masks are empty: 2" in told.out
    assert "sentences were written without phrases or masks of their own" in told.err
    assert code("prep", *export, "--max-failed", "50%") == 0
    masks = ("import", tmp_path / "tree/refer/refcoco", "--layout", "official", "--data", data)
    capsys.readouterr()
    assert code("prep", *masks, "--out", tmp_path / "again") == 3
    begins = (
        f"proposals by import of official masks in {tmp_path}/tree/refer/refcoco for 12 images: refcoco unc; "
    )
    assert capsys.readouterr().err.startswith(begins)
    assert code("prep", *masks, "--out", tmp_path / "again", "--max-failed", "50%") == 0
    run = ("--encoder", "tiny", "--steps", "1", "--batch-size", "2", "--size", "32", "--gpus", "0")
    assert code("pcnet", "train", *run, "--store", store, "--data", data, "--out", tmp_path / "run") == 0
    evaluate = ("eval", "--checkpoint", tmp_path / "run/best.pt", "--store", store, "--data", data)
    split = ("--split", "train", "--gpus", "0")
    capsys.readouterr()
    got = code("pcnet", *evaluate, *split)
    told = capsys.readouterr()
    assert got == 3, told
    assert "expressions could not be evaluated" in told.err
    begins = "evaluating on 68 expressions and 11 images of refcoco train; protocol standard, sentences all, "
    assert told.err.startswith(f"{begins}masks map, 32 px, batch 32; cpu; model {tmp_path}/run/best.pt")
    assert code("pcnet", *evaluate, *split, "--max-failed", "50%") == 0
    damage(data, 12)
    assert code("prep", "sam", "--generator", "segments", "--min-area", "1", *given) == 1
    assert code("prep", *score) == 1

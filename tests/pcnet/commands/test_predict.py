"""`pcnet predict`: checkpoint, images and texts by position, numbered files, stored masks, and mistakes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cli
from pcnet.data.tokenizers import WordTokenizer
from pcnet.model.checkpoint import save_checkpoint
from pcnet.model.pcnet import PCNet
from pcnet.recipes import model_config, recipe


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tokenizer = WordTokenizer.from_texts(["the red circle on the left"])
    plus = recipe("plus")
    path = tmp_path_factory.mktemp("model") / "best.pt"
    save_checkpoint(path, PCNet(model_config(plus, "tiny", tokenizer.vocabulary), plus), plus, tokenizer)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in (1, 2):
        pixels = np.full((40, 60, 3), 230, np.uint8)
        pixels[8:24, 8 : 20 + 10 * number] = (200, 40, 40)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs `pcnet predict` in an empty folder: (exit code, standard output, standard error)."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def typed(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["pcnet", "predict", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.pcnet_main()
        told = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, told.out, told.err

    return typed


def written(folder: str = "prediction") -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


def test_one_image_and_one_text(checkpoint, photos, run):
    code, out, _ = run(checkpoint, photos / "1.png", "the red circle")
    assert code == 0
    assert "phrases: the circle | the red circle" in out
    assert written() == ["mask.png", "prediction.json", "stages.png"]
    told = json.loads(Path("prediction/prediction.json").read_text())
    assert told["proposal"] is not None  # chosen among the masks of segments


def test_the_options_of_0_1_0_still_work(checkpoint, photos, run):
    by_position = run(checkpoint, photos / "1.png", "the circle", "--json")[1]
    by_option = run(
        "--checkpoint", checkpoint, "--image", photos / "1.png", "--text", "the circle", "--json"
    )[1]
    assert json.loads(by_option) == json.loads(by_position)


def test_several_images_and_texts_are_numbered(checkpoint, photos, run):
    texts = ["the circle", "the red circle"]
    code, out, _ = run(checkpoint, photos / "1.png", photos / "2.png", *texts, "-o", "many", "--json")
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(Path(line["image"]).name, line["text"]) for line in lines] == [
        (name, text) for name in ("1.png", "2.png") for text in texts
    ]
    assert [Path(line["files"]["mask"]).name for line in lines] == [f"mask-00{n}.png" for n in (1, 2, 3, 4)]
    assert len(written("many")) == 12
    for line in lines:
        of_file = json.loads(Path(line["files"]["json"]).read_text())
        assert of_file == {name: line[name] for name in of_file}


def test_a_folder_stands_for_its_images(checkpoint, photos, run):
    (photos / "broken.png").write_bytes(b"no image")
    code, out, err = run(checkpoint, photos, "the circle", "--json")
    assert [Path(json.loads(line)["image"]).name for line in out.splitlines()] == ["1.png", "2.png"]
    assert (code, "broken.png: not an image" in err) == (3, True)


def test_masks_and_phrases_come_from_the_store(checkpoint, photos, run):
    Path("own.jsonl").write_text(json.dumps({"sent": "the Circle", "image": "1.png"}) + "\n")
    for words in (["phrases", "--llm", "rules"], ["sam", "--generator", "segments", "--gpus", "0"]):
        given = [*words, "--input", "own.jsonl", "--image-root", str(photos)]
        cli.prep_app(given, standalone_mode=False)
    stored = run(checkpoint, photos / "1.png", "the circle", "--store", "prepared", "--json")
    generated = run(checkpoint, photos / "1.png", "the circle", "--json")
    assert stored[0] == generated[0] == 0
    assert json.loads(stored[1].splitlines()[-1])["mask"] == json.loads(generated[1])["mask"]
    code, _, err = run(checkpoint, photos / "2.png", "the circle", "--store", "prepared")
    assert code == 1
    assert "no proposals of" in err
    assert "2.png" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "No checkpoint is given."),
        (["best.pt"], "No image is given."),
        (["best.pt", "1.png"], "No text is given."),
        (["best.pt", "none.png", "the dog"], "There is no image none.png."),
        (["none.pt", "1.png", "the dog"], "There is no checkpoint none.pt."),
        (["best.pt", "empty", "the dog"], "empty has no images."),
        (
            ["best.pt", "1.png", "the dog", "--generator", "none", "--mask", "proposal"],
            "masks to choose from",
        ),
        (["best.pt", "1.png", "the dog", "--mask", "outline"], "--mask is 'outline'."),
        (["best.pt", "1.png", "the dog", "--store", "nowhere"], "nowhere"),
        (["best.pt", "1.png", "the dog", "--generator", "sams"], "Unknown generator 'sams'."),
    ],
)
def test_mistakes_are_named(words, said, checkpoint, photos, run):
    Path("best.pt").symlink_to(checkpoint)
    Path("1.png").symlink_to(photos / "1.png")
    Path("empty").mkdir()
    code, _, err = run(*words)
    assert code == 1
    assert said in err
    assert not Path("prediction").exists()

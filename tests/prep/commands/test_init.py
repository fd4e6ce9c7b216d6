"""`pcnet-prep init` and the example configurations: each can be run, and nothing is overwritten."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import cli
from prep.commands.init import configuration
from prep.commands.recipe_file import command_line, read_configuration
from prep.errors import PrepError

EXAMPLES = sorted((Path(__file__).parents[3] / "docs" / "examples").glob("*.yaml"))
EXAMPLES = [path for path in EXAMPLES if path.name != "ray-cluster.yaml"]


def lines(path: Path, *words: str) -> list[str]:
    """The command lines of a file, each parsed by its command."""
    made = []
    for section in read_configuration(path, words, cli._recipe_commands()):
        command = cli._recipe_commands()[section.command]
        command.make_context(section.command, [], default_map=dict(section.flags))
        made.append(command_line(section, command, "p"))
    return made


@pytest.mark.parametrize("on_gpu", [True, False])
@pytest.mark.parametrize("own", [True, False])
def test_what_init_writes_is_a_configuration(tmp_path: Path, on_gpu: bool, own: bool) -> None:
    path = tmp_path / "c.yaml"
    texts, root = (Path('my "texts".jsonl'), Path("pho: tos")) if own else (None, None)
    path.write_text(configuration(path, Path("#coco"), "refcoco+", texts, root, on_gpu=on_gpu))
    phrases, sam, train, evaluation = lines(path)
    source = (
        "--input 'my \"texts\".jsonl' --image-root 'pho: tos'" if own else "--data '#coco' --dataset refcoco+"
    )
    for line in (phrases, sam, train, evaluation):
        assert source in line
        assert "--store prepared" in line
    assert ("mistral-7b" in phrases, "--encoder RN50" in train) == (on_gpu, on_gpu)
    run = 'runs/my "texts"' if own else "runs/refcoco+"
    assert f"{run}/best.pt" in evaluation
    assert f"{run}/val" in evaluation


@pytest.mark.parametrize("masked", [True, False])
def test_own_lines_are_evaluated_where_they_have_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, masked: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"sent": "the dog", "image": "1.png"}, {"sent": "the cat", "image": "1.png"}]
    if masked:
        rows[1]["mask"] = "1_mask.png"
    Path("own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    cli.prep_app(["init", "--input", "own.jsonl"], standalone_mode=False)
    commands = lines(Path("prepare.yaml"))
    assert ["p eval" in line for line in commands] == [False, False, False, True][: len(commands)]
    assert len(commands) == (4 if masked else 3)
    with pytest.raises(PrepError, match=r"none\.jsonl is not a file"):
        cli.prep_app(["init", "b.yaml", "--input", "none.jsonl"], standalone_mode=False)


def test_init_overwrites_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cli.prep_app(["init"], standalone_mode=False)
    text = Path("prepare.yaml").read_text()
    with pytest.raises(PrepError, match=r"prepare\.yaml exists already"):
        cli.prep_app(["init", "--dataset", "refcocog"], standalone_mode=False)
    assert Path("prepare.yaml").read_text() == text
    with pytest.raises(PrepError, match="cannot be written"):
        cli.prep_app(["init", "no/such/folder.yaml"], standalone_mode=False)


def test_there_are_three_examples() -> None:
    assert [path.name for path in EXAMPLES] == ["cluster.yaml", "photos.yaml", "refcoco.yaml"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_can_be_run(path: Path) -> None:
    assert lines(path, "--gpus", "0")


@pytest.mark.slow
def test_the_laptop_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own photos from expressions to a trained network; only the steps are fewer."""
    import numpy as np
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    rows = []
    for number in range(4):
        pixels = np.full((64, 96, 3), 230, np.uint8)
        pixels[10:40, 10 + number : 50 + number] = (200, 40, 40)
        Image.fromarray(pixels).save(f"photos/{number}.jpg")
        rows += [
            {"sent": f"the {side} box", "image": f"{number}.jpg", "split": "train"}
            for side in ("left", "red")
        ]
    Path("expressions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    example = next(path for path in EXAMPLES if path.stem == "photos")
    cli.prep_app(["run", str(example), "--steps", "2", "--gpus", "0"], standalone_mode=False)
    assert Path("runs/expressions/best.pt").is_file()


def test_a_configuration_for_several_splits_evaluates_each_in_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "dataset: [refcoco, refcoco+]\ntrain:\neval:\n  split: [val, testA]\n  output-dir: here\n"
    )
    made = [line for line in lines(path) if " eval " in line]
    assert [line.split("--output-dir ")[1] for line in made] == [
        f"here/{name}/{split}" for name in ("refcoco", "refcoco+") for split in ("val", "testA")
    ]
    assert [line.split("--checkpoint ")[1].split()[0] for line in made] == [
        f"runs/{name}/best.pt" for name in ("refcoco", "refcoco+") for _ in range(2)
    ]


def test_names_of_one_flag_count_once(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("sam:\n  workers: 2\n  num-workers: 3\n")
    with pytest.raises(PrepError, match="workers and num-workers, which are the same flag"):
        lines(path)
    path.write_text("out: a\nstore: b\nsam:\n")
    with pytest.raises(PrepError, match="out and store, which are the same flag"):
        lines(path)
    path.write_text("sam:\n  num-workers: 3\n  dry-run: true\n")
    with pytest.raises(PrepError, match="no flag dry-run"):
        lines(path)
    path.write_text("out: a\nsam:\n  overwrite: true\ntrain:\n  learning-rate: 0.1\n")
    sam, train = lines(path, "--sam.num-workers", "4")
    assert sam == "p sam --store a --replace --workers 4"
    assert train == "p train --store a --lr 0.1"


@pytest.mark.parametrize("module", ["prep", "pcnet"])
def test_a_program_runs_as_a_module(module: str, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    import runpy

    monkeypatch.setattr(sys, "argv", [module, "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.split()[1] == __import__(module).__version__

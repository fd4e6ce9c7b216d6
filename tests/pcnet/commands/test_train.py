"""What `pcnet train` prints at its end: commands that can be typed, for a dataset and for own lines."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

import cli
from pcnet.commands.train import result_lines
from pcnet.training.trainer import TrainConfig, Trained


@pytest.mark.parametrize("own", [True, False])
def test_the_commands_at_the_end_can_be_typed(tmp_path: Path, own: bool) -> None:
    (tmp_path / "1 a.png").write_bytes(b"")
    lines = tmp_path / "own.jsonl"
    lines.write_text(json.dumps({"sent": "the dog's bowl", "image": "1 a.png"}) + "\n")
    best = tmp_path / "best.pt"
    config = TrainConfig(
        store="prepared",
        data=str(tmp_path),
        dataset="own" if own else "refcoco+",
        input=str(lines) if own else None,
        out=str(tmp_path),
    )
    printed = list(result_lines(Trained(best, best, 3, 1.0, {}, None), config))
    commands = [line.removeprefix("Next: ") for line in printed if "pcnet " in line]
    for line in commands:
        words = shlex.split(line)
        command = cli.typer.main.get_command(cli.pcnet_app).commands[words[1]]
        command.make_context(words[1], words[2:])
    names = ["predict", "eval"] if own else ["eval"]
    assert [shlex.split(line)[1] for line in commands] == names
    if own:
        assert shlex.split(commands[0])[2:] == [str(best), str(tmp_path / "1 a.png"), "the dog's bowl"]
        assert ["--input", str(lines), "--image-root", str(tmp_path)] == shlex.split(commands[1])[-4:]
    else:
        assert ["--data", str(tmp_path), "--dataset", "refcoco+"] == shlex.split(commands[0])[-4:]

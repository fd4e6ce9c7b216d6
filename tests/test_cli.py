"""The programs from outside: light help, options that explain themselves, errors a person can act on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import cli

HEAVY = ("torch", "ray", "vllm", "transformers", "numba", "skimage", "open_clip", "segment_anything")
APPS = {"pcnet-prep": cli.prep_app, "pcnet": cli.pcnet_app}


def commands() -> list[tuple[str, str]]:
    return [
        (program, name)
        for program, app in APPS.items()
        for name in typer.main.get_command(app).commands  # type: ignore[attr-defined]
    ]


def program(name: str, *arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """One of our programs in a process of its own, as installed beside this Python."""
    executable = Path(sys.executable).parent / name
    return subprocess.run(
        [executable, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd
    )


def test_help_of_every_command_loads_nothing_heavy() -> None:
    code = (
        "import sys, cli, contextlib, io\n"
        "for name, app in (('pcnet-prep', cli.prep_app), ('pcnet', cli.pcnet_app)):\n"
        "    import typer\n"
        "    for command in ['', *typer.main.get_command(app).commands]:\n"
        "        with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "            app([*([command] if command else []), '--help'], standalone_mode=False)\n"
        "        assert 'Usage' in out.getvalue(), command\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("name", "command"), commands())
def test_every_option_explains_itself(name: str, command: str) -> None:
    parameters = typer.main.get_command(APPS[name]).commands[command].params  # type: ignore[attr-defined]
    assert [p.name for p in parameters if not getattr(p, "help", None)] == []


@pytest.mark.parametrize("name", APPS)
def test_version(name: str) -> None:
    done = program(name, "--version")
    assert done.returncode == 0
    assert done.stdout.split()[0] == name


# What a newcomer types wrongly, and what the answer must name.
MISTAKES = [
    (("pcnet-prep", "phrases", "--llm", "rules", "--data", "nowhere"), ["nowhere", "--data"]),
    (("pcnet-prep", "phrases", "--llm", "rules", "--dataset", "refcok"), ["refcok", "refcoco"]),
    (("pcnet-prep", "phrases", "--llm", "./no-such-model", "--input", "{jsonl}"), ["no-such-model", "rules"]),
    (("pcnet-prep", "phrases", "--llm", "rules", "--input", "missing.jsonl"), ["missing.jsonl"]),
    (("pcnet-prep", "phrases", "--llm", "rules", "--input", "{jsonl}", "--split", "tset"), ["tset", "train"]),
    (("pcnet-prep", "phrases", "--llm", "rules", "--input", "{jsonl}", "--prompt", "p.txt"), ["p.txt"]),
    (("pcnet-prep", "sam", "--images", "missing"), ["missing", "--images"]),
    (("pcnet-prep", "sam", "--images", "{folder}", "--gpus", "0"), ["sam_vit_h_4b8939.pth", "curl"]),
    (("pcnet-prep", "sam", "--images", "{folder}", "--generator", "nothing"), ["nothing", "segments"]),
    (
        ("pcnet-prep", "sam", "--images", "{folder}", "--generator", "segments", "--max-overlap", "2"),
        ["--max-overlap"],
    ),
    (("pcnet-prep", "sam", "--bogus"), ["--bogus", "--help"]),
    (("pcnet", "train", "--store", "nowhere"), ["nowhere", "pcnet-prep phrases"]),
    (("pcnet", "eval", "--checkpoint", "none.pt", "--store", "nowhere"), ["none.pt"]),
]


@pytest.mark.parametrize(("words", "named"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_mistakes_are_answered_in_five_lines(
    words: tuple[str, ...], named: list[str], tmp_path: Path
) -> None:
    jsonl, folder = tmp_path / "own.jsonl", tmp_path / "photos"
    jsonl.write_text(json.dumps({"sent": "the man on the left", "split": "train"}) + "\n")
    folder.mkdir()
    done = program(words[0], *(w.format(jsonl=jsonl, folder=folder) for w in words[1:]), cwd=tmp_path)
    said = done.stderr.strip().splitlines()
    assert done.returncode not in (0, 70), done.stderr
    assert 1 <= len(said) <= 5, done.stderr
    assert "Traceback" not in done.stderr
    for word in named:
        assert word in done.stderr

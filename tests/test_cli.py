"""The programs from outside: light help, options that explain themselves, errors a person can act on."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

import cli
from prep.cache.store import open_store
from prep.errors import PrepError
from prep.phrases.rules.decompose import RULES_VERSION

HEAVY = (
    "torch",
    "ray",
    "vllm",
    "transformers",
    "numba",
    "skimage",
    "numpy",
    "pyarrow",
    "PIL",
    "open_clip",
    "segment_anything",
)
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


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Expressions of one's own: 60 to train, 30 to validate."""
    path = tmp_path_factory.mktemp("texts") / "own.jsonl"
    lines = [
        {"sent": f"the man number {n} on the left", "split": "train" if n < 60 else "val"} for n in range(90)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 20 small pictures."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(20):
        pixels = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((48, 40)).save(folder / f"{seed}.png")
    return folder


def prep(*words: str | Path) -> None:
    cli.prep_app([*map(str, words)], standalone_mode=False)


def printed(capsys: pytest.CaptureFixture[str], *words: str | Path) -> Any:
    """What a command of pcnet-prep prints with --json."""
    capsys.readouterr()
    prep(*words, "--json")
    return json.loads(capsys.readouterr().out)


def phrases(texts: Path, out: Path, *words: str) -> tuple[str | Path, ...]:
    return ("phrases", "--llm", "rules", "--input", texts, "--out", out, *words)


def test_a_plan_counts_what_is_left_and_runs_nothing(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "p"
    made = printed(capsys, *phrases(texts, out, "--plan"))
    assert (made["items"], made["seconds"]) == (90, None)
    assert not out.exists()
    prep(*phrases(texts, out, "--split", "train"))
    made = printed(capsys, *phrases(texts, out, "--plan", "--workers", "3"))
    assert (made["items"], made["workers"], made["pace"]["rows"]) == (30, 3, 60)
    assert printed(capsys, *phrases(texts, out, "--plan", "--split", "train"))["items"] == 0
    assert open_store(out).stage("phrases").reader().num_rows == 60
    prep(*phrases(texts, out, "--plan"))
    said = capsys.readouterr().out
    assert "30 rows to make" in said
    assert "based on a run of 60 rows" in said


def test_a_plan_is_refused_where_the_pace_is_of_other_settings(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("sam", "--generator", "segments", "--images", photos, "--out", tmp_path / "p")
    prep(*words)
    assert printed(capsys, *words, "--plan")["items"] == 0
    with pytest.raises(PrepError, match="other settings"):
        prep(*words, "--plan", "--min-area", "7")


def test_scores_are_planned_once_there_is_something_to_score(texts: Path, tmp_path: Path) -> None:
    prep(*phrases(texts, tmp_path / "p"))
    with pytest.raises(PrepError, match="no proposals yet"):
        prep("score", "--out", tmp_path / "p", "--gpus", "0", "--plan")


def test_a_manifest_is_enough_to_repeat_a_run(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    prep(*phrases(texts, first, "--split", "val"))
    manifest = first / "_state" / "phrases" / "manifest.json"
    done = printed(capsys, "phrases", "--from-manifest", manifest, "--out", again)[0]["done"]
    stores = [open_store(place).stage("phrases").reader() for place in (first, again)]
    assert done == 30
    assert stores[0].read().equals(stores[1].read())
    # What the repeated run keeps of itself repeats it once more: only the place differs.
    runs = [store.manifest.runs[-1]["arguments"] for store in stores if store.manifest]
    assert {**runs[0], "out": str(again)} == runs[1]


def test_a_repetition_that_would_not_be_one_is_refused(photos: Path, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "p"
    prep("sam", "--generator", "segments", "--images", photos, "--out", out, "--min-area", "5")
    manifest = out / "_state" / "proposals" / "manifest.json"
    with pytest.raises(PrepError, match=r"selection\.min_area: the store has 5, this run has 6"):
        prep("sam", "--from-manifest", manifest, "--out", tmp_path / "q", "--min-area", "6")
    with pytest.raises(PrepError, match="records a run of `pcnet-prep sam`"):
        prep("phrases", "--from-manifest", manifest)
    with pytest.raises(PrepError, match="is not JSON"):
        prep("phrases", "--from-manifest", texts)
    assert not (tmp_path / "q" / "proposals").exists()


def test_status_says_who_writes(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prep(*phrases(texts, tmp_path))
    capsys.readouterr()
    prep("status", tmp_path)
    assert "being written" not in capsys.readouterr().out
    with open_store(tmp_path).stage("phrases").writer({"llm": "rules", "version": RULES_VERSION}):
        prep("status", tmp_path)
    assert f"being written by pid {os.getpid()} on {socket.gethostname()} since 20" in capsys.readouterr().out


CONFIGURATION = """
input: {texts}
out: {out}
phrases:
  llm: rules
train:
  encoder: tiny
"""


def test_one_file_plans_and_runs_the_commands(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = tmp_path / "c.yaml", tmp_path / "p"
    config.write_text(CONFIGURATION.format(texts=texts, out=out))
    prep("run", config, "--plan")
    said = capsys.readouterr().out
    assert f"$ pcnet-prep phrases --llm rules --input {texts}" in said
    assert f"$ pcnet train --store {out} --input {texts} --encoder tiny" in said
    assert "90 rows to make (workers: 1); no run of 20 rows" in said
    assert not out.exists()
    config.write_text(CONFIGURATION.format(texts=texts, out=out).partition("train:")[0])
    prep("run", config, "--json", "--split", "val")
    (made,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert made[0]["done"] == 30
    prep("run", config, "--plan")
    assert "60 rows to make" in capsys.readouterr().out


@pytest.mark.slow
def test_a_training_that_cannot_begin_ends_the_run(
    texts: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(
        CONFIGURATION.format(texts=texts, out=tmp_path / "p") + "eval:\n  checkpoint: none.pt\n"
    )
    code = cli.prep_app(["run", str(config)], standalone_mode=False)
    said = capfd.readouterr()
    assert "pcnet-prep sam" in said.err  # what the child says: there are no masks to train with
    assert "pcnet eval" not in said.out
    assert code == 1


def test_every_section_is_checked_before_the_first_one_runs(texts: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(CONFIGURATION.format(texts=texts, out=tmp_path / "p") + "  epochs: none\n")
    with pytest.raises(PrepError, match=r"c\.yaml: train: Invalid value for '--epochs'"):
        prep("run", config)
    assert not (tmp_path / "p").exists()


def test_the_environment_is_heeded(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prep.devices import cpu_cores, visible_gpus

    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "5")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert (cpu_cores(), visible_gpus()) == (5, 2)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK")
    assert cpu_cores() == len(os.sched_getaffinity(0))
    # Inside a job of a Ray cluster that cluster is used: here one that is not there.
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(PrepError, match=r"127\.0\.0\.1:1 cannot be used"):
        prep(*phrases(texts, tmp_path / "p"))


@pytest.mark.parametrize("name", APPS)
def test_the_shell_completes_commands_and_flags(name: str) -> None:
    variable = f"_{name.upper().replace('-', '_')}_COMPLETE"
    command, flag = {"pcnet-prep": ("phrases", "--keep-raw"), "pcnet": ("train", "--recipe")}[name]
    executable = Path(sys.executable).parent / name
    for words, at, wanted in (
        (f"{name} {command[:3]}", 1, command),
        (f"{name} {command} {flag[:5]}", 2, flag),
    ):
        asked = {variable: "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(at)}
        done = subprocess.run(
            [executable], capture_output=True, text=True, check=False, env={**os.environ, **asked}
        )
        assert wanted in done.stdout.split(), done.stderr


ALIASES = {
    "phrases": "--store --out --output-dir -o --overwrite --num-workers --dry-run --tensor-parallel-size "
    "--gpu-memory-utilization --device",
    "sam": "--store --out --output-dir -o --overwrite --num-workers --dry-run --device",
    "score": "--store --out --output-dir -o --overwrite --num-workers --dry-run --device",
    "concepts": "--store --out --output-dir -o --overwrite --num-workers --dry-run --device",
    "import": "--store --out --output-dir -o --overwrite",
    "status": "--store",
    "verify": "--store",
    "compact": "--store",
    "export": "--store",
    "report": "--store --out -o",
    "train": "--store --out --output-dir -o --learning-rate --device",
    "distill": "--store --out --output-dir -o --learning-rate --device",
    "eval": "--store --out --output-dir -o --device",
    "export-onnx": "--out -o",
    "predict": "--store --out --output-dir -o",
}


@pytest.mark.parametrize("command", ALIASES)
def test_other_names_of_an_option_are_known(command: str) -> None:
    app = cli.prep_app if command in typer.main.get_command(cli.prep_app).commands else cli.pcnet_app  # type: ignore[attr-defined]
    parameters = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    assert set(ALIASES[command].split()) <= {name for parameter in parameters for name in parameter.opts}


def test_aliases_reach_the_same_flag(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "p"
    prep("phrases", "--llm", "rules", "--input", texts, "-o", out, "--device", "cpu", "--num-workers", "1")
    recorded = open_store(out).stage("phrases").reader().manifest
    assert recorded is not None
    arguments = recorded.runs[-1]["arguments"]
    assert (arguments["out"], arguments["workers"], arguments["gpus"]) == (str(out), 1, 0)
    by_position = printed(capsys, "status", out)
    assert by_position == printed(capsys, "status", "--store", out)
    prep("phrases", "--llm", "rules", "--input", texts, "--store", out, "--dry-run", "--overwrite")
    assert "90 rows to make" in capsys.readouterr().out


def test_quiet_prints_the_result_alone(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("phrases", "--llm", "rules", "--input", texts, "--store")
    prep(*command, tmp_path / "a", "-q")
    quiet = capsys.readouterr()
    prep(*command, tmp_path / "b")
    usual = capsys.readouterr()
    assert (quiet.err, "phrases by rules" in usual.err) == ("", True)
    assert quiet.out.count("\n") == usual.out.count("\n")
    with pytest.raises(PrepError):
        prep("phrases", "--llm", "rules", "--input", tmp_path / "none.jsonl", "--quiet")


def test_verbose_leaves_the_output_of_libraries_on_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from prep.display import set_level
    from prep.engine.chatter import chatter_to

    for level in ("verbose", "normal"):
        set_level(level)  # type: ignore[arg-type]
        with chatter_to(tmp_path / "log.txt"):
            os.write(1, f"said {level}\n".encode())
    assert capfd.readouterr().out == "said verbose\n"
    assert (tmp_path / "log.txt").read_text() == "said normal\n"


def test_a_run_says_how_much_there_is_and_what_cannot_be_used(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"sent": "the man"}, {"sent": "the dog", "split": True}, {"sent": ""}]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ("phrases", "--llm", "rules", "--input", tmp_path / "own.jsonl", "--store", tmp_path / "p")
    prep(*command, "--max-failed", "3")
    said = capsys.readouterr().err
    assert "own: 3 expressions in the input, 2 of them unusable (1 " in said
    prep(*command, "--max-failed", "3")
    assert "in the input" not in capsys.readouterr().err  # nothing has changed, so nothing is read
    prep("sam", "--generator", "segments", "--images", photos, "--gpus", "0", "--store", tmp_path / "p")
    assert "photos: 20 images in the input\n" in capsys.readouterr().err.replace(photos.name, "photos")

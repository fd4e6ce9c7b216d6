"""What a program sets up before its command runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import subprocess, sys
import typer
from prep.commands.entry import run_program

app = typer.Typer()

@app.command()
def main() -> None:
    subprocess.run([sys.executable, "-c", "import multiprocessing.spawn, json, runpy"], check=True)

run_program(app)
"""


@pytest.mark.parametrize("before", [None, ""])
def test_processes_that_are_started_import_nothing_of_the_current_folder(
    tmp_path: Path, before: str | None
) -> None:
    """``-c`` is how multiprocessing starts its processes: with the current folder first, without this."""
    (tmp_path / "program.py").write_text(PROGRAM)
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("multiprocessing", "json", "runpy"):
        (folder / f"{name}.py").write_text("open('ran', 'w')\nspawn = None\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    if before is not None:
        environment["PYTHONSAFEPATH"] = before
    command = [sys.executable, str(tmp_path / "program.py")]
    subprocess.run(command, cwd=folder, env=environment, check=True)
    assert not (folder / "ran").exists()


@pytest.mark.slow
def test_what_the_encoding_cannot_show_is_shown_as_an_escape(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"sent": "the red cup"}\n')
    code = "import cli, sys; sys.argv = ['pcnet-prep', *sys.argv[1:]]; cli.prep_main()"
    words = ("phrases", "--llm", "rules", "--input", "mine.jsonl", "--out", "caf\u00e9")
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "caf\\xe9/phrases" in done.stdout


LOADS_TORCH = """
import typer
from prep.commands.entry import run_program

app = typer.Typer()

@app.command()
def main() -> None:
    import torch

run_program(app)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="torch's packages contain GNU's OpenMP on Linux only")
@pytest.mark.parametrize(
    ("given", "policy", "spins"),
    [
        ({}, "PASSIVE", "1000"),
        ({"GOMP_SPINCOUNT": "7"}, "PASSIVE", "7"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "PASSIVE", "0"),
    ],
)
def test_waiting_threads_spin_briefly_unless_the_environment_says_how(
    tmp_path: Path, given: dict[str, str], policy: str, spins: str
) -> None:
    (tmp_path / "program.py").write_text(LOADS_TORCH)
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py")],
        env={**environment, "OMP_DISPLAY_ENV": "VERBOSE", **given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr

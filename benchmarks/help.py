"""Measures the time of ``--help`` of every command, in fresh processes: python benchmarks/help.py."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 5


def commands(program: str) -> list[list[str]]:
    """The argument lists of a program and of each of its commands."""
    import typer

    import cli

    app = {"pcnet-prep": cli.prep_app, "pcnet": cli.pcnet_app}[program]
    group = typer.main.get_command(app)
    return [[program], *([program, name] for name in sorted(group.commands))]  # type: ignore[attr-defined]


def main() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    folder = Path(sys.executable).parent
    for program in ("pcnet-prep", "pcnet"):
        for arguments in commands(program):
            executable = shutil.which(arguments[0], path=str(folder)) or arguments[0]
            seconds = []
            for _ in range(RUNS):
                start = time.perf_counter()
                subprocess.run([executable, *arguments[1:], "--help"], check=True, stdout=subprocess.DEVNULL)
                seconds.append(time.perf_counter() - start)
            print(f"{' '.join(arguments):24s} --help   {statistics.median(seconds):.2f} s (median of {RUNS})")


if __name__ == "__main__":
    main()

"""Finds the evaluations of a run that lie beside its folder, and words the command that makes one."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from prep.inputs import read_plain

# The files of an evaluation's folder.
FIGURES, ROWS, STAGES = "metrics.json", "samples.parquet", "stages"
MAX_JSON = 1 << 24


def evaluations_beside(run: Path) -> list[Path]:
    """The folders up to two levels below the parent of ``run`` that hold an evaluation of its checkpoints."""
    run = run.resolve()
    found = [path.parent for depth in ("*/", "*/*/") for path in sorted(run.parent.glob(f"{depth}{FIGURES}"))]
    return [
        folder
        for folder in found
        if not folder.is_relative_to(run) and (folder / ROWS).is_file() and _is_of(folder / FIGURES, run)
    ]


def _is_of(path: Path, run: Path) -> bool:
    """Whether an evaluation's checkpoint lies in ``run``: by its path, or by its name if the path is gone."""
    try:
        told = json.loads(read_plain(path, MAX_JSON))
        checkpoint = Path(told["settings"]["checkpoint"])
        if checkpoint.exists():
            return checkpoint.resolve().parent == run
        return checkpoint.parent.name == run.name and (run / checkpoint.name).is_file()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False  # not an evaluation of ours, or of an earlier version


def evaluation_command(run: Path, settings: Mapping[str, object]) -> str | None:
    """The command that evaluates a run with the data it was trained on; None if it has no checkpoint."""
    checkpoint = next((run / name for name in ("best.pt", "last.pt") if (run / name).is_file()), None)
    if checkpoint is None:
        return None
    trained = train if isinstance(train := settings.get("train"), dict) else {}
    options = {"checkpoint": checkpoint}
    own = trained.get("input") is not None
    names = ["store", "input"] if own else ["store", "data", "dataset", "split_by"]
    options |= {name: trained[name] for name in names if isinstance(trained.get(name), str)}
    if own and isinstance(trained.get("data"), str):
        options["image_root"] = trained["data"]
    options |= {"output_dir": run / "val", "save_stages": run / "val" / STAGES}
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    return shlex.join(["pcnet", "eval", *words, "--refine"])

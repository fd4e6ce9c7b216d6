"""Reads the outputs of training runs and evaluations for `pcnet report`: curves, settings,
metrics and rows.
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from pcnet.report.beside import FIGURES, MAX_JSON, ROWS, evaluation_command, evaluations_beside
from pcnet.training.log import CSV_NAME, SETTINGS_NAME, VALIDATION_NAME
from prep.errors import PrepError
from prep.inputs import read_plain
from prep.pages.saved import read_rows

if TYPE_CHECKING:
    import pyarrow as pa

# The numbers of FIGURES that the page shows.
NUMBERS = ("n", "miou", "oiou", "pointm", "hit", "box_accuracy", "proposal_miou", "oracle_miou")
# Maximum points of a curve on the page; longer logs are averaged down to this number.
POINTS = 400


@dataclass(frozen=True)
class Curve:
    """Columns of a log by name, all as long as ``step``; a missing value is None."""

    step: list[float]
    columns: dict[str, list[float | None]]


class EvaluationSettings(TypedDict, total=False):
    """What an evaluation was asked to do, as far as the page reads it."""

    dataset: str
    split_by: str | None
    split: str | None
    sentences: str
    store: str
    threshold: float


class Figures(TypedDict, total=False):
    """The JSON of an evaluation; its other entries are figures that the page shows as they are."""

    settings: EvaluationSettings


@dataclass(frozen=True)
class Evaluation:
    """The output of ``pcnet eval --output-dir``: its folder, label, metrics and one row per expression."""

    folder: Path
    label: str
    figures: Figures
    rows: pa.Table

    @property
    def threshold(self) -> float:
        """The fraction of a map's maximum above which a pixel belongs to the mask."""
        return float(self.figures.get("settings", {}).get("threshold", 0.0))


@dataclass(frozen=True)
class RunFiles:
    """A run: its curves (``losses`` is None if it was only evaluated), settings and evaluations.

    ``evaluate`` is the command that makes an evaluation; None if there is one, or no checkpoint.
    """

    name: str
    settings: dict[str, object]
    losses: Curve | None
    validation: Curve | None
    evaluations: dict[str, Evaluation]
    steps: int
    seconds: float
    evaluate: str | None = None


def read_run(folder: Path) -> RunFiles:
    """The run in ``folder`` or in its only run subfolder, with the evaluations up to two levels down, and
    those of its checkpoints that lie beside it.

    :raises PrepError: if there is no log and no evaluation, there are several logs, or a file is invalid.
    """
    if not folder.is_dir():
        raise PrepError(
            f"{folder} is not a folder.",
            "Use the --output-dir folder of pcnet train or pcnet eval.",
        )
    logs = [folder / CSV_NAME] if (folder / CSV_NAME).is_file() else sorted(folder.glob(f"*/{CSV_NAME}"))
    if len(logs) > 1:
        found = ", ".join(str(log.parent) for log in logs[:5])
        raise PrepError(f"{folder} contains {len(logs)} runs: {found}.", "Choose one or two of them.")
    folders = [path.parent for depth in ("", "*/", "*/*/") for path in _sorted(folder, depth)]
    known = {path.resolve() for path in folders}
    if logs:
        folders += [path for path in evaluations_beside(logs[0].parent) if path not in known]
    evaluations = _labelled(folders)
    if not logs and not evaluations:
        raise PrepError(
            f"{folder} contains no {CSV_NAME} and no {FIGURES} with {ROWS}.",
            "Use the --output-dir folder of pcnet train or pcnet eval.",
        )
    home = logs[0].parent if logs else folder
    table = _read_csv(logs[0]) if logs else None
    validated = home / VALIDATION_NAME
    settings = home / SETTINGS_NAME
    told = _read_json(settings) if settings.is_file() else {}
    return RunFiles(
        name=str(folder),
        settings=told,
        losses=thinned(table, {"step", "epoch", "seconds"}) if table else None,
        validation=thinned(_read_csv(validated), {"step", "n"}) if validated.is_file() else None,
        evaluations=evaluations,
        steps=int(table["step"][-1]) if table and len(table["step"]) else 0,
        seconds=float(np.nansum(table["seconds"])) if table else 0.0,
        evaluate=None if evaluations else evaluation_command(home, told),
    )


def thinned(table: dict[str, NDArray[np.float64]], without: set[str], points: int = POINTS) -> Curve:
    """The columns averaged over at most ``points`` intervals of equal length; ``step`` is the
    last of each.
    """
    total = len(table["step"])
    edges = np.unique(np.linspace(0, total, min(points, total) + 1).astype(int))
    step = [float(table["step"][end - 1]) for end in edges[1:]]
    columns = {}
    for name, values in table.items():
        if name not in without:
            parts = [values[a:b][np.isfinite(values[a:b])] for a, b in pairwise(edges)]
            columns[name] = [float(f"{part.mean():.6g}") if len(part) else None for part in parts]
    return Curve(
        step, {name: values for name, values in columns.items() if any(v is not None for v in values)}
    )


def _read_csv(path: Path) -> dict[str, NDArray[np.float64]]:
    """The columns of a log; a truncated line is skipped, an empty field becomes NaN."""
    with path.open(newline="", encoding="utf-8") as handle:
        lines = csv.reader(handle)
        header = next(lines, [])
        rows = [line for line in lines if len(line) == len(header)]
    try:
        numbers = np.array([[float(v) if v else np.nan for v in row] for row in rows]).reshape(
            -1, len(header)
        )
    except ValueError as error:
        raise PrepError(
            f"{path} is not the log of a run: {error}.", "Use a folder that `pcnet train` wrote."
        ) from error
    if "step" not in header:
        raise PrepError(f"{path} has no column step.", "Use a folder that `pcnet train` wrote.")
    return {name: numbers[:, at] for at, name in enumerate(header)}


def _sorted(folder: Path, depth: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"{depth}{FIGURES}") if path.with_name(ROWS).is_file())


def _labelled(folders: list[Path]) -> dict[str, Evaluation]:
    """Evaluations by dataset and split, such as "refcoco unc val"; duplicates also get their
    folder's name.
    """
    figures = {folder: _read_figures(folder / FIGURES) for folder in folders}
    labels = {folder: _label(folder, told) for folder, told in figures.items()}
    times = Counter(labels.values())
    found = {}
    for folder in folders:
        label = labels[folder] if times[labels[folder]] == 1 else f"{labels[folder]} ({folder.name})"
        found[label] = Evaluation(folder, label, figures[folder], read_rows(folder / ROWS))
    return found


def _label(folder: Path, figures: Figures) -> str:
    told = figures.get("settings", {})
    if "dataset" not in told:
        return folder.name
    first = "first expressions" if told.get("sentences") == "first" else None
    parts = (told["dataset"], told.get("split_by"), told.get("split"), first)
    return " ".join(str(part) for part in parts if part)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        told = json.loads(read_plain(path, MAX_JSON), parse_float=_finite, parse_constant=_finite)
    except (OSError, ValueError, RecursionError) as error:
        raise PrepError(
            f"{path} could not be read: {str(error).rstrip('.')}.", "Run the command that wrote it again."
        ) from error
    return told if isinstance(told, dict) else {}


def _read_figures(path: Path) -> Figures:
    """The figures of an evaluation: numbers, groups of numbers, and settings, as the page expects them."""
    told = _read_json(path)
    groups, settings = told.get("groups") or {}, told.get("settings") or {}
    parts = [told.get(name) or {} for name in ("skipped", "no_target")]
    tables = [told, *groups.values()] if isinstance(groups, dict) else []
    if (
        not tables
        or not all(isinstance(one, dict) for one in (*tables, *parts, settings))
        or not all(_is_number(one.get(name)) for one in tables for name in NUMBERS)
        or not all(_is_number(value) for part in parts for value in part.values())
        or not _is_number(settings.get("threshold"))
    ):
        raise PrepError(
            f"{path} holds another kind of value where a figure belongs.", "Evaluate again into this folder."
        )
    return cast("Figures", told)


def _is_number(value: object) -> bool:
    """Whether a value is a number, or absent."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _finite(text: str) -> float | None:
    """The number of a JSON text; None for one that JavaScript's JSON does not have."""
    return number if math.isfinite(number := float(text)) else None

"""Reads an evaluation for the report on a store: the scores, maps and true masks of its expressions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import numpy.typing as npt

from prep.cache.keys import is_row_id
from prep.errors import PrepError
from prep.pages.gallery import Gallery
from prep.pages.saved import read_rows
from prep.pages.store_data import Level, response_levels

if TYPE_CHECKING:
    from prep.datasets.truth import Truth


class EvaluatedRow(TypedDict, total=False):
    """A row of ``samples.parquet``; those of version 0.1.0 have fewer columns."""

    row_id: str
    image: str
    iou: float
    proposal_iou: float | None
    point: bool
    no_target: bool | None
    peak_y: int
    peak_x: int
    proposal: int | None
    margin: float | None
    entropy: float | None
    phrases: list[str] | None
    groups: list[str] | None


class EvaluatedRows:
    """The rows of ``samples.parquet`` by ``row_id``, with what else the folder tells; empty without one."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.rows = {} if folder is None else {row["row_id"]: row for row in _rows(folder)}
        self.threshold = 0.0 if folder is None else _threshold(folder / "metrics.json")

    def images(self, limit: int) -> list[str]:
        """At most ``limit`` images of the evaluated expressions: of the worst, the best, the next worst."""
        ranked = sorted(self.rows.values(), key=lambda row: (_overlap(row), row["row_id"]))
        names = [row.get("image") for row in ranked]
        turns = [name for pair in zip(names, names[::-1], strict=True) for name in pair]
        return [name for name in dict.fromkeys(turns) if name][:limit]

    def scores(self, gallery: Gallery) -> dict[str, list[object]]:
        """Row number -> hit (null without a target), IoU, peak row and column, the number of the selected
        mask, margin, entropy, the phrase that each stage read, and the groups.
        """
        found: dict[str, list[object]] = {}
        for at, row_id in enumerate(gallery.row_ids):
            if (row := self.rows.get(row_id)) is not None:
                hit = None if row.get("no_target") else bool(row["point"])
                found[str(at)] = [
                    hit, round(_overlap(row), 4), row["peak_y"], row["peak_x"], row.get("proposal"),
                    rounded(row.get("margin")), rounded(row.get("entropy")), row.get("phrases"),
                    list(row.get("groups") or ()),
                ]  # fmt: skip
        return found

    def maps(self, wanted: Mapping[str, int]) -> dict[str, list[Level]]:
        """Row number -> each stage's map as :func:`response_levels` gives it; ``wanted`` are rows by id."""
        if self.folder is None or not (self.folder / "stages").is_dir():
            return {}
        stages = self.folder / "stages"
        files = {at: stages / f"{row_id}.npy" for row_id, at in wanted.items() if is_row_id(row_id)}
        return {str(at): response_levels(path) for at, path in files.items() if path.is_file()}


class TrueMasks:
    """The ground-truth masks of a report's rows, of the datasets found in ``data``."""

    def __init__(self, data: Path | None) -> None:
        self.data = data
        self._truths: dict[tuple[str, str], Truth | None] = {}

    def mask(self, gallery: Gallery, at: int) -> npt.NDArray[np.bool_] | None:
        """The mask of row ``at``; None if the dataset is not there, or has no mask for it."""
        if self.data is None:
            return None
        from prep.datasets.catalogue import open_dataset
        from prep.datasets.truth import Truth

        row = gallery.expression(at)
        key = row.dataset, row.split_by
        try:
            if key not in self._truths:
                self._truths[key] = None
                self._truths[key] = Truth(open_dataset(self.data, *key))
            truth = self._truths[key]
            return truth.mask(row) if truth else None
        except PrepError:  # a folder with only images is also a valid data root
            self._truths[key] = None
            return None


def best_iou(truth: npt.NDArray[np.bool_], counts: list[str]) -> float:
    """The highest IoU of ``truth`` (H, W) with masks of the same size given as compressed RLE; 0 without any.

    Run lengths are column by column, so the pixels of the truth inside a run are a difference of its
    cumulative sum.
    """
    from prep.masks import rle

    before = np.concatenate([[0], np.cumsum(truth.ravel(order="F"))])
    best = 0.0
    for text in counts:
        ends = np.cumsum(rle.expand(text))
        starts, stops = ends[0::2][: len(ends[1::2])], ends[1::2]
        shared = int((before[stops] - before[starts]).sum())
        union = int((stops - starts).sum()) + int(before[-1]) - shared
        best = max(best, shared / union if union else 0.0)
    return best


def rounded(value: float | None) -> float | None:
    """A value for a page, which needs four digits."""
    return None if value is None else round(value, 4)


def _overlap(row: EvaluatedRow) -> float:
    selected = row.get("proposal_iou")
    return float(row["iou"] if selected is None else selected)


def _rows(folder: Path) -> list[EvaluatedRow]:
    path = folder / "samples.parquet"
    if not path.is_file():
        raise PrepError(f"{folder} has no samples.parquet.", "Give the --output-dir folder of pcnet eval.")
    rows: list[EvaluatedRow] = read_rows(path).to_pylist()
    return rows


def _threshold(path: Path) -> float:
    """The share of a map's maximum above which the evaluation counts a pixel as part of the mask."""
    if not path.is_file():
        return 0.0
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return float(told.get("settings", {}).get("threshold", 0.0))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise PrepError(
            f"{path} names no threshold.", "Give the --output-dir folder of pcnet eval."
        ) from error

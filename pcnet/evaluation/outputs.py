"""Writes the outputs of an evaluation: maps, pseudo masks, the raw maps of every stage, metrics and rows."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pcnet.metrics import binarise, normalise, proposal_under_peak

Map = NDArray[np.float32]


def save_cam(folder: Path, name: str, response: Map) -> None:
    """Write the normalised response as ``<name>.npy``, float32 (H, W) in [0, 1]."""
    soft = normalise(response).astype(np.float32)
    _replace(folder / f"{name}.npy", lambda path: np.save(path, soft))


def save_pseudo(
    folder: Path, name: str, response: Map, proposals: NDArray[np.bool_] | None, threshold: float
) -> None:
    """Write a pseudo mask as ``<name>.npy``, uint8 (H, W) in {0, 1}.

    It is the proposal under the peak if there are proposals (P, H, W), else the thresholded map.
    """
    chosen = None if proposals is None else proposal_under_peak(response, proposals)
    if chosen is not None and proposals is not None:
        mask = proposals[chosen]
    else:
        mask = binarise(response, threshold)
    _replace(folder / f"{name}.npy", lambda path: np.save(path, mask.astype(np.uint8)))


def save_stages(folder: Path, name: str, stages: Map) -> None:
    """Write the raw responses of every stage as ``<name>.npy``, float16 (stages, h, w) at their own
    resolution.
    """
    _replace(folder / f"{name}.npy", lambda path: np.save(path, stages.astype(np.float16)))


def write_report(
    folder: Path, figures: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> None:
    """Write ``metrics.json`` and ``samples.parquet``, so that two runs can be compared row by row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = json.dumps({**figures, "settings": dict(settings)}, indent=2, sort_keys=True)
    _replace(folder / "metrics.json", lambda path: path.write_text(text + "\n", encoding="utf-8"))
    table = pa.Table.from_pylist(list(rows))
    _replace(folder / "samples.parquet", lambda path: pq.write_table(table, path))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write under a temporary name, then rename, so that the file is never incomplete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    write(temporary)
    os.replace(temporary, path)

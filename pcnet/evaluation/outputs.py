"""Writes the outputs of an evaluation: maps, pseudo masks, the raw maps of every stage, metrics and rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pcnet.metrics import normalise
from prep.display import without_secrets
from prep.files import replacing, write_whole

Map = NDArray[np.float32]


def save_cam(folder: Path, name: str, response: Map) -> None:
    """Write the normalised response as ``<name>.npy``, float32 (H, W) in [0, 1]."""
    soft = normalise(response).astype(np.float32)
    _save(folder / f"{name}.npy", soft)


def save_pseudo(folder: Path, name: str, mask: NDArray[np.bool_]) -> None:
    """Write a pseudo mask as ``<name>.npy``, uint8 (H, W) in {0, 1}."""
    _save(folder / f"{name}.npy", mask.astype(np.uint8))


def save_stages(folder: Path, name: str, stages: Map) -> None:
    """The raw responses of every stage as ``<name>.npy``, float16 (stages, h, w) at their own resolution."""
    _save(folder / f"{name}.npy", stages.astype(np.float16))


def write_report(
    folder: Path,
    figures: Mapping[str, object],
    rows: Sequence[Mapping[str, object]],
    settings: Mapping[str, object],
) -> None:
    """Write ``metrics.json`` and ``samples.parquet``, so that two runs can be compared row by row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = without_secrets(json.dumps({**figures, "settings": dict(settings)}, indent=2, sort_keys=True))
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "metrics.json", f"{text}\n".encode())
    with replacing(folder / "samples.parquet") as file:
        pq.write_table(pa.Table.from_pylist(list(rows)), file)


def _save(path: Path, array: NDArray[np.generic]) -> None:
    """Write an array atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, durable=False) as file:
        np.save(file, array)

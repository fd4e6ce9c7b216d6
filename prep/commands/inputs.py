"""Opens the datasets and image folders that the options name, and determines the number of GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from prep.errors import PrepError

if TYPE_CHECKING:
    from prep.datasets.catalogue import Dataset
    from prep.proposals.job import Images


def open_sources(
    data: Path,
    datasets: Sequence[str],
    split_by: str | None,
    input: Path | None,
    image_root: Path | None,
) -> list[Dataset]:
    """The datasets of --data and --dataset, or the one of --input and --image-root."""
    from prep.datasets.catalogue import open_dataset, open_jsonl

    if input is not None:
        return [open_jsonl(input, image_root)]
    names = [name.value if isinstance(name, Enum) else name for name in datasets]
    return [open_dataset(data, name, split_by) for name in names]


def open_image_sources(
    folder: Path | None,
    data: Path,
    datasets: Sequence[str],
    split_by: str | None,
    input: Path | None,
    image_root: Path | None,
) -> Sequence[Images]:
    """The image folder of --images, or else the datasets."""
    if folder is None:
        return open_sources(data, datasets, split_by, input, image_root)
    from prep.datasets.catalogue import open_image_folder

    return [open_image_folder(folder)]


def gpu_count(asked: int | None, ray_address: str | None) -> int:
    """The number of GPUs to use. On a Ray cluster the driver's own GPUs do not count: the default is 0."""
    from prep.devices import visible_gpus

    if ray_address is not None or asked == 0:
        return asked or 0
    visible = visible_gpus()
    if asked is not None and asked > visible:
        raise PrepError(
            f"--gpus {asked}: {visible} NVIDIA GPUs are visible (see nvidia-smi and CUDA_VISIBLE_DEVICES).",
            "Use --gpus 0 to run on the CPU, or --ray-address to run on a cluster with GPUs.",
        )
    return visible if asked is None else asked

"""Runs the `hf:<id or folder>` generator: transformers' mask generation for SAM, SAM-HQ, SAM 2 and SAM 3."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from prep.allocator import keep_freed_memory
from prep.errors import PrepError, reason_of
from prep.hub import folder_sha256, model_folder
from prep.masks import rle
from prep.proposals.sam import settings as sam_settings
from prep.records import Proposal

FILES = ("*.json", "*.safetensors", "*.bin")


@dataclass(frozen=True, slots=True)
class HfSettings:
    """The options of transformers' mask generation under their original names (defaults: SAM's).

    ``device`` does not affect the masks and is not part of the key.
    """

    points_per_side: int = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.points_per_side < 1 or self.points_per_batch < 1:
            raise PrepError(
                "--points-per-side and --points-per-batch must be at least 1.",
                "Omit them to use the defaults.",
            )


def options(preset: str, given: Mapping[str, object], device: str) -> dict[str, object]:
    """The values of a preset (``pcnet``, ``sam``) for this generator, overridden by ``given``, on
    a device.

    :raises PrepError: for an option that this generator does not have.
    """
    start = sam_settings.preset(preset)
    shared = {field.name: getattr(start, field.name) for field in fields(HfSettings)}
    for name in given:
        if name not in shared:
            why = ": transformers' pipeline fails on crops of every model" if name.startswith("crop") else ""
            raise PrepError(
                f"The hf: generators have no option --{name.replace('_', '-')}{why}.",
                "Remove it, or use --generator sam or sam2 with the original weights.",
            )
    return {**shared, **given, "device": device}


class _Masks(TypedDict):
    """What transformers' pipeline returns for an image: a boolean H x W mask and a score for each."""

    masks: Sequence[npt.ArrayLike]
    scores: Sequence[float]


class HfGenerator:
    """The masks of a transformers mask-generation pipeline, in its order (by predicted IoU, then NMS).

    ``source`` is a model id on the Hugging Face hub or a local folder. The pipeline returns neither the
    stability nor the point of a mask. There is no option for crops: it stacks the image with its crops, of
    another size, which fails for every family of models (transformers 5.19).
    """

    def __init__(self, source: str, settings: HfSettings | None = None) -> None:
        self.source = source
        self.options = settings or HfSettings()
        self._weights_sha256: str | None = None
        self._pipeline: Callable[..., _Masks] | None = None
        # Every worker uses this number of threads: the last bits of a matrix product depend on it.
        self._threads = int(os.environ.get("OMP_NUM_THREADS", "0"))

    @property
    def name(self) -> str:
        """``hf:`` and the id, or the name of the folder."""
        return f"hf:{Path(self.source).name if Path(self.source).is_dir() else self.source}"

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the configuration and weight files (64 hex digits); downloads them if necessary."""
        if self._weights_sha256 is None:
            self._weights_sha256 = folder_sha256(self._folder(), FILES)
        return self._weights_sha256

    def settings(self) -> dict[str, object]:
        """Every option except the device."""
        return {name: value for name, value in asdict(self.options).items() if name != "device"}

    def open(self) -> None:
        """Load the model; raises PrepError if it could not be loaded or does not support mask generation."""
        import torch
        from transformers import logging, pipeline

        if self._threads:
            torch.set_num_threads(self._threads)
        keep_freed_memory(self.options.device)
        if not sys.stderr.isatty():
            logging.disable_progress_bar()
        folder = self._folder()
        try:
            self._pipeline = pipeline(
                "mask-generation", model=str(folder), device=self.options.device, trust_remote_code=False
            )
        except Exception as error:  # transformers and torch raise many types for an unsuitable folder
            raise PrepError(
                f"{self.source} could not be loaded for mask generation: {reason_of(error)}.",
                "Give a SAM, SAM-HQ, SAM 2 or SAM 3 tracker model with its image processor.",
            ) from error

    def propose(self, images: list[npt.NDArray[np.uint8]]) -> list[list[Proposal]]:
        """The masks of each H x W x 3 RGB image; none if all are filtered out."""
        return [self._propose(image) for image in images]

    def _propose(self, image: npt.NDArray[np.uint8]) -> list[Proposal]:
        from PIL import Image

        options = self.options
        assert self._pipeline is not None
        try:
            found = self._pipeline(
                Image.fromarray(image),
                points_per_crop=options.points_per_side,
                points_per_batch=options.points_per_batch,
                pred_iou_thresh=options.pred_iou_thresh,
                stability_score_thresh=options.stability_score_thresh,
                stability_score_offset=options.stability_score_offset,
                crops_nms_thresh=options.box_nms_thresh,
            )
        except IndexError:  # the pipeline raises it if all masks are filtered out
            return []
        scores = [float(score) for score in found["scores"]]
        return [_proposal(np.asarray(m), s) for m, s in zip(found["masks"], scores, strict=True)]

    def _folder(self) -> Path:
        """The folder with the model's files, downloaded if necessary."""
        elsewhere = "use a local folder (hf:DIR), or --generator segments, which needs no model"
        return model_folder(self.source, FILES, elsewhere)


def _proposal(mask: npt.NDArray[np.bool_], score: float) -> Proposal:
    runs = rle.encode(mask)
    x, y, w, h = (float(value) for value in rle.bounding_box(runs, mask.shape[0]))
    return Proposal(rle.compress(runs), rle.area(runs), (x, y, w, h), predicted_iou=score)

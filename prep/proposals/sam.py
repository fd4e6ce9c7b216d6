"""The `sam` generator: the official automatic masks on segment_anything's models."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from segment_anything import SamAutomaticMaskGenerator

from prep.proposals.sam_model import load_sam
from prep.proposals.sam_settings import SamSettings, find_checkpoint
from prep.records import Proposal

__all__ = ["SamGenerator", "SamSettings"]


class SamGenerator:
    """Proposes the masks of the official ``SamAutomaticMaskGenerator``, in its order.

    Picklable until :meth:`open`, which loads the model once. ``load`` makes the model (by default from the
    checkpoint that the settings name).
    """

    def __init__(self, settings: SamSettings, load: Callable[[SamSettings], Any] = load_sam) -> None:
        self.options = settings
        self._load = load
        self._weights_sha256: str | None = None
        self._model: Any = None

    @property
    def name(self) -> str:
        """The generator's name in the rows, such as ``sam:vit_h``."""
        return f"sam:{self.options.model}"

    def settings(self) -> dict[str, Any]:
        """Every setting that can change a mask (JSON values), for the content key."""
        return self.options.key()

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of the checkpoint file (64 hex digits); read once, without loading the model."""
        if self._weights_sha256 is None:
            with find_checkpoint(self.options.model, self.options.checkpoint).open("rb") as file:
                digest = hashlib.sha256()
                while chunk := file.read(1 << 22):
                    digest.update(chunk)
            self._weights_sha256 = digest.hexdigest()
        return self._weights_sha256

    def open(self) -> None:
        """Load the model; raises PrepError where the weights or the device are not there."""
        self._model = self._load(self.options)

    def propose(self, images: list[np.ndarray]) -> list[list[Proposal]]:
        """The masks of each image (H x W x 3, uint8, RGB) in the official order; none where none survive."""
        return [self._propose(image) for image in images]

    def _propose(self, image: np.ndarray) -> list[Proposal]:
        options = self.options
        grids = options.point_grids
        generator = SamAutomaticMaskGenerator(
            self._model,
            points_per_side=options.points_per_side,
            points_per_batch=options.points_per_batch,
            pred_iou_thresh=options.pred_iou_thresh,
            stability_score_thresh=options.stability_score_thresh,
            stability_score_offset=options.stability_score_offset,
            box_nms_thresh=options.box_nms_thresh,
            crop_n_layers=options.crop_n_layers,
            crop_nms_thresh=options.crop_nms_thresh,
            crop_overlap_ratio=options.crop_overlap_ratio,
            crop_n_points_downscale_factor=options.crop_n_points_downscale_factor,
            point_grids=None if grids is None else [np.array(grid) for grid in grids],
            min_mask_region_area=options.min_mask_region_area,
            output_mode="coco_rle",
        )
        return [
            Proposal(
                counts=record["segmentation"]["counts"],
                area=int(record["area"]),
                bbox=tuple(float(v) for v in record["bbox"]),  # type: ignore[arg-type]
                predicted_iou=float(record["predicted_iou"]),
                stability_score=float(record["stability_score"]),
                point=tuple(float(v) for v in record["point_coords"][0]),  # type: ignore[arg-type]
                crop_box=tuple(float(v) for v in record["crop_box"]),  # type: ignore[arg-type]
            )
            for record in generator.generate(image)
        ]

"""Runs the `sam` generator: the masks of the reference generator, computed faster.

The reference is ``SamAutomaticMaskGenerator`` of the ``segment_anything`` package, as on GitHub's main
branch; the release on PyPI gives the same masks on a CPU, and on a GPU fails if suppression is per category.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from prep.masks import rle
from prep.proposals.sam.candidates import MaskData
from prep.proposals.sam.crops import resized, scaled
from prep.proposals.sam.decoder import Decoder
from prep.proposals.sam.encoder import ExactEncoder, shrink
from prep.proposals.sam.fast_cpu import CpuEncoder, has_bfloat16, used
from prep.proposals.sam.fast_encoder import FastEncoder
from prep.proposals.sam.model import SamModel
from prep.proposals.sam.nms import suppress
from prep.proposals.sam.parts import Encoder
from prep.proposals.sam.point_grid import Image, PointGridGenerator
from prep.proposals.sam.postprocess import Thresholds
from prep.proposals.sam.settings import SamSettings, find_checkpoint
from prep.proposals.sam.small_regions import remove_small_regions
from prep.proposals.sam.upsample import Geometry, geometry
from prep.proposals.sam.weights import load_sam

log = logging.getLogger(__name__)
__all__ = ["SamGenerator", "SamSettings"]


class SamGenerator(PointGridGenerator[SamSettings, SamModel, torch.Tensor]):
    """Generates the masks of the reference ``SamAutomaticMaskGenerator``, in its order.

    ``load`` builds the model (by default from the checkpoint in the settings).
    """

    def __init__(self, settings: SamSettings, load: Callable[[SamSettings], SamModel] = load_sam) -> None:
        super().__init__(f"sam:{settings.model}", settings, load)
        self.images_at_once = settings.images_per_batch
        self._used = ""  # what the fast networks of a CPU do

    def _checkpoint(self) -> Path:
        return find_checkpoint(self.options.model, self.options.checkpoint)

    def _parts(self, fast: bool) -> tuple[Encoder[torch.Tensor], Decoder]:
        options, on_cpu = self.options, self._device.type == "cpu"
        if fast and on_cpu:
            low = has_bfloat16()
            self._used = used(low)
            log.warning(self._used)
            decoder = Decoder(self._model, 4, 1, trust=True, low=low)
            return CpuEncoder(self._model) if low else ExactEncoder(self._model, 1), decoder
        group = min(8, options.points_per_batch) if on_cpu else options.points_per_batch
        encoder = (FastEncoder if fast else ExactEncoder)(self._model, options.images_per_batch)
        return encoder, Decoder(self._model, group, 1 if on_cpu else group, trust=fast, low=fast)

    def _notes(self) -> set[str]:
        return super()._notes() | ({self._used} if self._used else set())

    def _thresholds(self) -> Thresholds:
        return Thresholds.of(self._model.mask_threshold, self.options.stability_score_offset)

    @property
    def _side(self) -> int:
        """The longer side of what the encoder sees, in pixels."""
        return self._model.image_encoder.img_size

    def _fits(self, size: tuple[int, int]) -> bool:
        return min(resized(size, self._side)) > 0

    def _resize(self, pixels: Image) -> torch.Tensor:
        return shrink(pixels, self._side)

    def _embed_points(self, layer: int, size: tuple[int, int]) -> list[torch.Tensor]:
        inside = resized(size, self._side)
        points = torch.as_tensor(scaled(self._points(layer, size), size, inside), device=self._device)
        step = self.options.points_per_batch
        return [self._decode.prompts(points[start : start + step]) for start in range(0, len(points), step)]

    def _geometry(self, features: torch.Tensor, size: tuple[int, int]) -> Geometry:
        return geometry(4 * features.shape[-1], self._side, resized(size, self._side), size, self._device)

    def _cleaned(self, found: MaskData, size: tuple[int, int]) -> MaskData:
        """Fill small holes and drop small islands, then apply NMS again, with unchanged masks first."""
        area = self.options.min_mask_region_area
        if area == 0:
            return found
        cleaned = list(
            self._pool.map(lambda runs: remove_small_regions(runs, size[0], size[1], area), found.runs)
        )
        boxes = np.array([rle.corners(runs, size[0]) for runs, _ in cleaned], np.float32)
        scores = torch.tensor([0.0 if changed else 1.0 for _, changed in cleaned])
        threshold = max(self.options.box_nms_thresh, self.options.crop_nms_thresh)
        # The reference always runs this step on the CPU.
        order = suppress(boxes, scores, threshold)
        for i, (runs, changed) in enumerate(cleaned):
            if changed:
                found.runs[i], found.boxes[i] = runs, boxes[i]
        return found.pick(order)

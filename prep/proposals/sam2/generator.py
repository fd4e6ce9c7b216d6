"""Runs the `sam2` generator: the masks of SAM 2's reference generator, computed faster.

The reference is ``SAM2AutomaticMaskGenerator`` of the package ``sam2`` 1.1.0, on the model that its
``build_sam2`` makes (with the fallback from one mask to three of ``apply_postprocessing``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from prep.proposals.sam.crops import Points
from prep.proposals.sam.parts import Encoder
from prep.proposals.sam.point_grid import Image, PointGridGenerator
from prep.proposals.sam.postprocess import Thresholds
from prep.proposals.sam.upsample import Geometry, geometry
from prep.proposals.sam2.network import Features, Sam2Decoder, Sam2Encoder, Sam2Model
from prep.proposals.sam2.settings import Sam2Settings, find_checkpoint
from prep.proposals.sam2.weights import load_sam2


class Sam2Generator(PointGridGenerator[Sam2Settings, Sam2Model, Features]):
    """Generates the masks of the reference ``SAM2AutomaticMaskGenerator``, in its order.

    ``load`` builds the model (by default from the checkpoint in the settings).
    """

    def __init__(self, settings: Sam2Settings, load: Callable[[Sam2Settings], Sam2Model] = load_sam2) -> None:
        super().__init__(f"sam2:{settings.model}", settings, load)
        self.masks_per_point = 3 if settings.multimask_output else 1

    def _checkpoint(self) -> Path:
        return find_checkpoint(self.options.model, self.options.checkpoint)

    def _parts(self, fast: bool) -> tuple[Encoder[Features], Sam2Decoder]:
        from sam2.utils.transforms import SAM2Transforms

        self._transforms = SAM2Transforms(self._model.image_size, mask_threshold=0.0)
        return Sam2Encoder(self._model, fast), Sam2Decoder(self._model, self.options)

    def _thresholds(self) -> Thresholds:
        return Thresholds.of(self.options.mask_threshold, self.options.stability_score_offset)

    def _fits(self, size: tuple[int, int]) -> bool:
        return min(size) > 0

    def _resize(self, pixels: Image) -> torch.Tensor:
        # The copy of an image that is only for reading keeps torch from warning of it.
        resized: torch.Tensor = self._transforms(np.require(pixels, requirements="W"))
        return resized

    def _points(self, layer: int, size: tuple[int, int]) -> Points:
        """The points of a crop of ``size`` (H, W), in its pixels; float32, as in the reference."""
        return np.asarray(super()._points(layer, size).astype(np.float32))

    def _embed_points(self, layer: int, size: tuple[int, int]) -> list[torch.Tensor]:
        points = torch.as_tensor(self._points(layer, size), device=self._device)
        step = self.options.points_per_batch
        batches = [points[start : start + step] for start in range(0, len(points), step)]
        scaled = [self._transforms.transform_coords(some, normalize=True, orig_hw=size) for some in batches]
        return [self._decode.prompts(some) for some in scaled]

    def _geometry(self, features: Features, size: tuple[int, int]) -> Geometry:
        """Logits are resized to the crop at once, three or one at a time."""
        low = 4 * features[0].shape[-1]
        channels = 3 if self.options.multimask_output and not self.options.use_m2m else 1
        return geometry(low, low, (low, low), size, self._device, channels)

"""Predicts masks at a point with transformers' SAM and SAM 2 models, with the methods of a SamPredictor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from prep.errors import PrepError, reason_of

Numbers = npt.NDArray[np.number]


class _Processor(Protocol):
    """The parts of transformers' ``SamProcessor`` and ``Sam2Processor`` that are used here."""

    def __call__(self, **given: object) -> Mapping[str, torch.Tensor]:
        """The model's inputs for images and points."""

    def post_process_masks(self, masks: torch.Tensor, *sizes: torch.Tensor) -> list[torch.Tensor]:
        """Masks (objects, m, H, W), bool, for each image."""


class _Predicted(Protocol):
    """The output of ``SamModel`` and ``Sam2Model``: logits and IoUs, (images, objects, m, ...)."""

    pred_masks: torch.Tensor
    iou_scores: torch.Tensor


class _MaskModel(Protocol):
    """The parts of transformers' ``SamModel`` and ``Sam2Model`` that are used here."""

    def get_image_embeddings(self, pixel_values: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """The embedding of images, of SAM 2 one for each level."""

    def __call__(
        self,
        *,
        image_embeddings: torch.Tensor | list[torch.Tensor],
        input_points: torch.Tensor,
        input_labels: torch.Tensor,
        multimask_output: bool,
    ) -> _Predicted:
        """The masks at points."""


class HfPredictor:
    """A model of the hub or of a local folder: ``set_image``, then ``predict`` at points of that image."""

    def __init__(self, source: str, device: str) -> None:
        from transformers import AutoModelForMaskGeneration, AutoProcessor

        self._device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        try:
            self._processor: _Processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
            model = AutoModelForMaskGeneration.from_pretrained(source, trust_remote_code=False)
            self._model: _MaskModel = model.to(self._device).eval()
        except Exception as error:  # transformers and the hub raise many types for an unsuitable source
            raise PrepError(
                f"{source} could not be loaded for prompting at a point: {reason_of(error)}.",
                "Give a SAM or SAM 2 model with its processor.",
            ) from error
        # SAM takes points as [image, object, point, xy] from version 2 on, as [image, point, xy] before.
        self._objects = "Sam2" in type(self._model).__name__
        self._image: npt.NDArray[np.uint8] | None = None
        self._embeddings: torch.Tensor | list[torch.Tensor] = []

    @torch.inference_mode()
    def set_image(self, image: npt.NDArray[np.uint8]) -> None:
        """Encode an RGB image, uint8 (H, W, 3)."""
        pixels = self._processor(images=image, return_tensors="pt")["pixel_values"].to(self._device)
        self._image, self._embeddings = image, self._model.get_image_embeddings(pixels)

    @property
    def device_type(self) -> str:
        """``cpu`` or ``cuda``."""
        return self._device

    def embedding(self) -> list[torch.Tensor]:
        """What ``set_image`` computed: one tensor, or SAM 2's one for each of its levels."""
        return [self._embeddings] if isinstance(self._embeddings, torch.Tensor) else list(self._embeddings)

    def restore(self, image: npt.NDArray[np.uint8], embedding: Sequence[torch.Tensor]) -> None:
        """As ``set_image``, with the embedding that it computed for this image before."""
        moved = [one.to(self._device) for one in embedding]
        self._image, self._embeddings = image, moved if len(moved) > 1 else moved[0]

    @torch.inference_mode()
    def predict(
        self, point_coords: Numbers, point_labels: Numbers, multimask_output: bool
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32], None]:
        """Points (n, 2) as x and y in pixels and labels (n,) -> masks (m, H, W) and predicted IoUs (m,)."""
        points, labels = [point_coords.tolist()], [point_labels.tolist()]
        if self._objects:
            points, labels = [points], [labels]
        given = self._processor(
            images=self._image, input_points=points, input_labels=labels, return_tensors="pt"
        )
        found = self._model(
            image_embeddings=self._embeddings,
            input_points=given["input_points"].to(self._device),
            input_labels=given["input_labels"].to(self._device),
            multimask_output=multimask_output,
        )
        sizes = [given["original_sizes"]]
        if not self._objects:
            sizes.append(given["reshaped_input_sizes"])
        masks = self._processor.post_process_masks(found.pred_masks.cpu(), *sizes)[0][0]
        return masks.numpy().astype(bool), found.iou_scores[0, 0].float().cpu().numpy(), None

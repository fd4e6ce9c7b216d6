"""The official predictor of SAM, whose embedding of an image can be taken out and put back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import segment_anything
import torch


class SamPredictor(segment_anything.SamPredictor):  # type: ignore[misc]  # without types
    """``segment_anything.SamPredictor`` with the methods of :class:`prep.proposals.embeddings.Encoder`."""

    @property
    def device_type(self) -> str:
        """``cpu`` or ``cuda``."""
        return str(self.device.type)

    def embedding(self) -> list[torch.Tensor]:
        """The features of the image, float32 (1, 256, 64, 64)."""
        return [self.get_image_embedding()]

    def restore(self, image: npt.NDArray[np.uint8], embedding: Sequence[torch.Tensor]) -> None:
        """Set what ``set_image`` sets for this image."""
        (features,) = embedding
        self.original_size = image.shape[:2]
        self.input_size = self.transform.get_preprocess_shape(*image.shape[:2], self.transform.target_length)
        self.features, self.is_image_set = features.to(self.device), True

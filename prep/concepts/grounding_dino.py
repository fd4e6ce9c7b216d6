"""Finds boxes of noun phrases with Grounding DINO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from prep.concepts.found import Found, Pixels, xywh

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

TOKENS = 256  # GroundingDinoConfig.max_text_len; a longer text is cut off


class GroundingDinoFinder:
    """The boxes of ``GroundingDinoForObjectDetection`` for each phrase alone, as its processor gives them.

    A phrase is written ``phrase.``, in lower case, as the processor writes a label. A full stop or question
    mark in it would separate two labels, and becomes a space. Image and text are mixed from the first layer
    of the encoder on, so that only the pixels are prepared once.
    """

    def __init__(
        self,
        model: GroundingDinoForObjectDetection,
        processor: GroundingDinoProcessor,
        threshold: float,
        batch: int,
    ) -> None:
        self._model, self._processor = model, processor
        self._threshold, self._batch = threshold, batch

    def find(self, pixels: Pixels, phrases: Sequence[str]) -> list[list[Found]]:
        """The boxes of each phrase, the highest score first."""
        import torch
        from PIL import Image

        found: list[list[Found]] = []
        with torch.inference_mode():
            image = self._processor.image_processor(Image.fromarray(pixels), return_tensors="pt")
            for start in range(0, len(phrases), self._batch):
                found += self._boxes(image, phrases[start : start + self._batch], pixels.shape[:2])
        return found

    def _boxes(
        self, image: Mapping[str, Tensor], phrases: Sequence[str], size: tuple[int, ...]
    ) -> list[list[Found]]:
        texts = [label(phrase) for phrase in phrases]
        tokens = self._processor.tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=TOKENS,
            return_token_type_ids=True,
            return_tensors="pt",
        )
        shared = {
            name: image[name].expand(len(texts), *image[name].shape[1:])
            for name in ("pixel_values", "pixel_mask")
        }
        given = {name: value.to(self._model.device) for name, value in {**shared, **tokens}.items()}
        results = self._processor.post_process_grounded_object_detection(
            self._model(**given),
            given["input_ids"],
            threshold=self._threshold,
            target_sizes=[size] * len(texts),
        )
        return [
            [
                Found(None, None, xywh(result["boxes"][at].tolist()), float(result["scores"][at]))
                for at in result["scores"].argsort(descending=True, stable=True).tolist()
            ]
            for result in results
        ]


def label(phrase: str) -> str:
    """A phrase as Grounding DINO reads one label."""
    return " ".join(phrase.lower().replace(".", " ").replace("?", " ").split()) + "."

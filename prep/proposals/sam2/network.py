"""Runs the networks of the package sam2: the image encoder, and the mask decoder at points.

The operations are those of ``SAM2ImagePredictor`` (sam2/sam2_image_predictor.py), without the masks that it
resizes to the image after every batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, Self

import torch

from prep.proposals.sam.decoder import Decoded, passing
from prep.proposals.sam.model import Pair, PromptEncoder
from prep.proposals.sam2.settings import Sam2Settings
from prep.proposals.sam2.small_regions import remove_small_regions

CLAMP = 32.0  # of the logits that the decoder takes as a prompt, as in SAM2ImagePredictor._predict
Features = tuple[torch.Tensor, list[torch.Tensor]]


class Sam2Model(Protocol):
    """The parts of ``sam2.modeling.sam2_base.SAM2Base`` that are used here; the package declares no types."""

    device: torch.device
    image_size: int
    directly_add_no_mem_embed: bool
    no_mem_embed: torch.Tensor
    sam_prompt_encoder: PromptEncoder
    sam_mask_decoder: Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]

    def load_state_dict(self, state_dict: Mapping[str, object]) -> object:
        """Set every weight; RuntimeError if one is missing or has another shape."""

    def to(self, device: torch.device) -> Self:
        """The model on ``device``."""

    def eval(self) -> Self:
        """The model in evaluation mode."""

    def forward_image(self, img_batch: torch.Tensor) -> object:
        """The outputs of the backbone for images (B, 3, S, S)."""

    def _prepare_backbone_features(
        self, backbone_out: object
    ) -> tuple[object, list[torch.Tensor], object, list[tuple[int, int]]]: ...


class Sam2Encoder:
    """The model's own image encoder, one image at a time as in the reference; ``fast`` in bfloat16."""

    def __init__(self, model: Sam2Model, fast: bool) -> None:
        self._model, self._fast = model, fast

    def __call__(self, images: Sequence[torch.Tensor]) -> list[Features]:
        """The embedding and the maps of higher resolution of each image (3, S, S), float32."""
        return [self._embed(image[None].to(self._model.device)) for image in images]

    def _embed(self, pixels: torch.Tensor) -> Features:
        """``SAM2ImagePredictor.set_image``, after the image was resized."""
        model, device = self._model, pixels.device.type
        low = torch.autocast(device, torch.bfloat16) if self._fast else contextlib.nullcontext()
        with low:
            _, found, _, sizes = model._prepare_backbone_features(model.forward_image(pixels))
            if model.directly_add_no_mem_embed:
                found[-1] = found[-1] + model.no_mem_embed
        maps = [each.permute(1, 2, 0).view(1, -1, *size) for each, size in zip(found, sizes, strict=True)]
        if self._fast:
            maps = [each.float() for each in maps]
        return maps[-1], maps[:-1]


class Sam2Decoder:
    """The model's own mask decoder, for batches of points on one image."""

    without_sharing = ""  # every batch is decoded by the reference's pass

    def __init__(self, model: Sam2Model, settings: Sam2Settings) -> None:
        self._model, self._settings = model, settings
        self._pe = model.sam_prompt_encoder.get_dense_pe()

    def prompts(self, points: torch.Tensor) -> torch.Tensor:
        """The points (n, 2), float32, in pixels of the model's input: they are embedded with their masks."""
        return points

    def __call__(self, features: Features, prompts: torch.Tensor, threshold: float) -> Decoded:
        """The candidates of an image with a predicted IoU above ``threshold`` (all, if <= 0).

        With ``use_m2m``, those of the refined masks.
        """
        options = self._settings
        logits, iou = self._predict(features, prompts, None, options.multimask_output)
        if options.use_m2m:
            logits, iou = self._refine(features, prompts, logits)
        index = passing(iou, threshold)
        found = logits[torch.div(index, logits.shape[1], rounding_mode="floor"), index % logits.shape[1]]
        if options.min_mask_region_area > 0:
            found = remove_small_regions(found, options.min_mask_region_area)
        return Decoded(index.cpu(), iou.flatten()[index], found)

    def _predict(
        self, features: Features, points: torch.Tensor, masks: torch.Tensor | None, multimask: bool
    ) -> Pair:
        """Logits (n, m, L, L) and predicted IoUs (n, m): ``SAM2ImagePredictor._predict``."""
        labels = torch.ones((len(points), 1), dtype=torch.int, device=points.device)
        sparse, dense = self._model.sam_prompt_encoder(
            points=(points[:, None, :], labels), boxes=None, masks=masks
        )
        logits, iou, _, _ = self._model.sam_mask_decoder(
            image_embeddings=features[0],
            image_pe=self._pe,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            repeat_image=len(points) > 1,
            high_res_features=features[1],
        )
        return logits.float(), iou

    def _refine(self, features: Features, points: torch.Tensor, logits: torch.Tensor) -> Pair:
        """Each mask predicted again from its logits: ``SAM2AutomaticMaskGenerator.refine_with_m2m``."""
        again = points.repeat_interleave(logits.shape[1], dim=0)
        masks = logits.flatten(0, 1).clamp(-CLAMP, CLAMP)[:, None]
        step = self._settings.points_per_batch
        found = [
            self._predict(features, again[start : start + step], masks[start : start + step], False)
            for start in range(0, len(again), step)
        ]
        return torch.cat([logits for logits, _ in found]), torch.cat([iou for _, iou in found])

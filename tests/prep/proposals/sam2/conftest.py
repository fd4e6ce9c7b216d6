"""SAM 2 at a twelfth of its width, and the official generator's records as proposals."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from prep.proposals.sam2.weights import build
from prep.records import Proposal

NARROW = (
    "image_encoder.trunk.embed_dim=8",
    "image_encoder.trunk.stages=[1,1,2,1]",
    "image_encoder.trunk.global_att_blocks=[3]",
    "image_encoder.neck.d_model=16",
    "image_encoder.neck.backbone_channel_list=[64,32,16,8]",
    "image_encoder.neck.position_encoding.num_pos_feats=16",
    "memory_attention.num_layers=1",
    "image_size=256",
)


class Smooth:
    """A mask decoder that runs and is then overruled: smooth masks around each point, as trained weights make
    them.

    As in the tests of SAM: three sizes a point, which follow the image; predicted IoUs come from the
    decoder's own head, spread over 0 to 1. A prompt of logits shrinks or grows the masks.
    """

    def predict_masks(self, *given: Any, **inputs: Any) -> Any:
        masks, iou, tokens, score = super().predict_masks(*given, **inputs)  # type: ignore[misc]
        image, prompts = inputs["image_embeddings"], inputs["sparse_prompt_embeddings"]
        near = torch.einsum("nc,chw->nhw", prompts[:, 0], inputs["image_pe"][0])
        side = near.shape[-1]
        cell = near.flatten(1).argmax(1)
        y, x = torch.meshgrid(torch.arange(side) * 1.0, torch.arange(side) * 1.0, indexing="ij")
        row, column = torch.div(cell, side, rounding_mode="floor"), cell % side
        far = torch.hypot(y - row[:, None, None], x - column[:, None, None]) / side
        likeness = image[0].mean(0)
        likeness = likeness / likeness.abs().max()
        changed = inputs["dense_prompt_embeddings"].mean((1, 2, 3))[:, None, None, None]
        sizes = torch.tensor([0.22, 0.15, 0.3, 0.5])[None, :, None, None] + 0.1 * torch.sin(500 * changed)
        field = 16 * (sizes - far[:, None]) + likeness
        smooth = F.interpolate(field, size=masks.shape[-2:], mode="bicubic")
        return smooth, 0.5 + 0.5 * torch.sin(900 * iou), tokens, score


def narrow_model(smooth: bool = False) -> Any:
    from sam2.build_sam import build_sam2

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = build_sam2(
            "configs/sam2.1/sam2.1_hiera_t.yaml", device="cpu",
            hydra_overrides_extra=[f"++model.{setting}" for setting in NARROW],
        )  # fmt: skip
    for name, weight in model.named_parameters():
        if "pos_embed" in name or name == "no_mem_embed":  # zero or almost so at birth
            torch.nn.init.normal_(weight, std=0.2)
    return smoothed(model) if smooth else model


def smoothed(model: Any) -> Any:
    """The model with masks as trained weights make them."""
    decoder = model.sam_mask_decoder
    decoder.__class__ = type("SmoothDecoder", (Smooth, type(decoder)), {})
    return model


@pytest.fixture(scope="session")
def ragged() -> Any:
    """Random weights: masks ragged everywhere."""
    return narrow_model()


@pytest.fixture(scope="session")
def smooth() -> Any:
    """Smooth masks of several sizes that differ from point to point."""
    return narrow_model(smooth=True)


@pytest.fixture(scope="session")
def released() -> Any:
    """sam2.1_hiera_t in its full size, with seeded random weights and smooth masks."""
    torch.manual_seed(0)
    return smoothed(build("sam2.1_hiera_t").eval())


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """Blocks of colour with noise, 90 x 131, RGB."""
    rng = np.random.default_rng(5)
    blocks = np.kron(rng.integers(0, 200, (9, 11, 3)), np.ones((10, 12, 1)))[:, :131]
    return (blocks + rng.integers(0, 50, blocks.shape)).astype(np.uint8)


@pytest.fixture(scope="session")
def official() -> Callable[..., list[Proposal]]:
    """The masks of the official generator, given a model, an image and options by their official names."""

    from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

    def generate(model: Any, image: np.ndarray, **options: Any) -> list[Proposal]:
        generator = SAM2AutomaticMaskGenerator(model, output_mode="coco_rle", **options)
        # The package writes the sizes of a model of 1,024 pixels into the predictor.
        generator.predictor._bb_feat_sizes = [(model.image_size // part,) * 2 for part in (4, 8, 16)]
        return [
            Proposal(
                counts=record["segmentation"]["counts"],
                area=record["area"],
                bbox=tuple(record["bbox"]),
                predicted_iou=record["predicted_iou"],
                stability_score=record["stability_score"],
                point=tuple(record["point_coords"][0]),
                crop_box=tuple(record["crop_box"]),
            )
            for record in generator.generate(image)
        ]

    return generate

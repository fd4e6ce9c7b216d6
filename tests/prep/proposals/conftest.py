"""Small but real SAM models, and the official generator's records as proposals."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch.nn import functional as F

from prep.records import Proposal

SIDE, WIDTH = 128, 32


class SmoothDecoder(MaskDecoder):
    """A decoder that runs and is then overruled: smooth masks around each point, as trained weights make
    them.

    Random weights give ragged masks that all span the image, on which suppression, crops and the edge filter
    do little. These have three sizes a point and follow the image; predicted IoUs come from the decoder's own
    head.
    """

    def forward(self, image_embeddings, image_pe, sparse_prompt_embeddings, **rest):  # type: ignore[no-untyped-def]
        _, iou = super().forward(image_embeddings, image_pe, sparse_prompt_embeddings, **rest)
        near = torch.einsum("nc,chw->nhw", sparse_prompt_embeddings[:, 0], image_pe[0])
        side = near.shape[-1]
        cell = near.flatten(1).argmax(1)
        y, x = torch.meshgrid(torch.arange(side) * 1.0, torch.arange(side) * 1.0, indexing="ij")
        far = (
            torch.hypot(
                y - torch.div(cell, side, rounding_mode="floor")[:, None, None],
                x - cell[:, None, None] % side,
            )
            / side
        )
        likeness = image_embeddings[0].mean(0)
        likeness = likeness / likeness.abs().max()
        sizes = torch.tensor([0.15, 0.3, 0.5])[None, :, None, None]
        field = 16 * (sizes - far[:, None]) + likeness
        masks = F.interpolate(field, scale_factor=4, mode="bicubic")
        return masks, 0.5 + 0.5 * torch.sin(90 * iou)


def tiny_model(seed: int = 0, smooth: bool = False) -> Sam:
    torch.manual_seed(seed)
    grid = SIDE // 16
    decoder = SmoothDecoder if smooth else MaskDecoder
    model = Sam(
        image_encoder=ImageEncoderViT(
            depth=2, embed_dim=16, img_size=SIDE, mlp_ratio=2, norm_layer=partial(torch.nn.LayerNorm,
            eps=1e-6), num_heads=2, patch_size=16, qkv_bias=True, use_rel_pos=True, global_attn_indexes=(1,),
            window_size=3, out_chans=WIDTH,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=WIDTH, image_embedding_size=(grid, grid), input_image_size=(SIDE, SIDE),
            mask_in_chans=16
        ),
        mask_decoder=decoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=WIDTH, mlp_dim=64, num_heads=4),
            transformer_dim=WIDTH, iou_head_depth=3, iou_head_hidden_dim=32,
        ),
    )  # fmt: skip
    for name, weight in model.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:  # zero at birth
            torch.nn.init.normal_(weight, std=0.2)
    return model.eval()


@pytest.fixture(scope="session")
def ragged() -> Sam:
    """Random weights: masks ragged everywhere."""
    return tiny_model()


@pytest.fixture(scope="session")
def smooth() -> Sam:
    """Smooth masks of several sizes that differ from point to point."""
    return tiny_model(smooth=True)


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """Blocks of colour with noise, 90 x 131, RGB."""
    rng = np.random.default_rng(5)
    blocks = np.kron(rng.integers(0, 200, (9, 11, 3)), np.ones((10, 12, 1)))[:, :131]
    return (blocks + rng.integers(0, 50, blocks.shape)).astype(np.uint8)


@pytest.fixture(scope="session")
def official() -> Callable[..., list[Proposal]]:
    """The masks of the official generator, given a model, an image and options by their official names."""

    def generate(model: Sam, image: np.ndarray, **options: Any) -> list[Proposal]:
        records = SamAutomaticMaskGenerator(model, output_mode="coco_rle", **options).generate(image)
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
            for record in records
        ]

    return generate

"""Runs the image encoder in bfloat16 with fused attention, for `--fidelity fast`.

The masks are close to the exact ones, but not equal. The relative positions of SAM's attention are a bias of
every query for every row and every column of keys. Appended to each query as extra dimensions, with keys that
encode their row and column one-hot, they are part of the same product as the attention itself, so no kernel
needs a bias and none is stored.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence

import torch
from segment_anything.modeling.image_encoder import get_rel_pos, window_partition, window_unpartition
from torch.nn import functional as F

from prep.proposals.sam.encoder import prepared
from prep.proposals.sam.model import EncoderAttention, EncoderBlock, Layer, SamModel

log = logging.getLogger(__name__)


class FastEncoder:
    """The model's image encoder in bfloat16, ``size`` images at a time; compiled on a GPU.

    The last group is padded, so an image's embedding never depends on the number of images.
    """

    def __init__(self, model: SamModel, size: int) -> None:
        self._model, self._size = model, size
        self._encoder = copy.deepcopy(model.image_encoder).to(torch.bfloat16).eval()
        self._forward: Layer = self._encode
        self._compile = model.device.type == "cuda"

    def __call__(self, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The embedding (1, C, h, w), float32, of each image (3, h, w), uint8."""
        out: list[torch.Tensor] = []
        for start in range(0, len(images), self._size):
            group = [prepared(self._model, image) for image in images[start : start + self._size]]
            filled = torch.stack(group + group[:1] * (self._size - len(group)))
            embedded = self._run(filled.to(torch.bfloat16)).float()
            out += [embedded[i : i + 1] for i in range(len(group))]
        return out

    def _run(self, pixels: torch.Tensor) -> torch.Tensor:
        """Run the encoder on one full batch; compiled at the first call if possible."""
        if self._compile:
            self._compile = False
            compiled = torch.compile(self._encode, dynamic=False)
            try:
                first: torch.Tensor = compiled(pixels)
            except Exception as error:  # e.g. no compiler or an old driver: slower, with the same result
                log.warning("The encoder runs uncompiled: %s", str(error).splitlines()[0])
            else:
                self._forward = compiled
                return first
        result: torch.Tensor = self._forward(pixels)
        return result

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        encoder = self._encoder
        x = encoder.patch_embed(pixels)
        if encoder.pos_embed is not None:
            x = x + encoder.pos_embed
        for block in encoder.blocks:
            x = _block(block, x)
        out: torch.Tensor = encoder.neck(x.permute(0, 3, 1, 2))
        return out


def _block(block: EncoderBlock, x: torch.Tensor) -> torch.Tensor:
    """One transformer block on (B, H, W, C)."""
    y, window = block.norm1(x), block.window_size
    if window > 0:
        size = y.shape[1:3]
        y, padded = window_partition(y, window)
        y = window_unpartition(_attend(block.attn, y), window, padded, size)
    else:
        y = _attend(block.attn, y)
    x = x + y
    out: torch.Tensor = x + block.mlp(block.norm2(x))
    return out


def _attend(layer: EncoderAttention, x: torch.Tensor) -> torch.Tensor:
    """Attention with relative positions on (B, H, W, C)."""
    batch, height, width, _ = x.shape
    qkv = layer.qkv(x).reshape(batch, height * width, 3, layer.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)  # (B, heads, H W, D)
    scaled = q * layer.scale
    if layer.use_rel_pos:
        rows = get_rel_pos(height, height, layer.rel_pos_h)  # (H, H, D)
        columns = get_rel_pos(width, width, layer.rel_pos_w)
        grid = q.unflatten(2, (height, width))
        by_row = torch.einsum("bnhwc,hkc->bnhwk", grid, rows).flatten(2, 3)
        by_column = torch.einsum("bnhwc,wkc->bnhwk", grid, columns).flatten(2, 3)
        scaled = torch.cat([scaled, by_row, by_column], dim=-1)
        k = torch.cat([k, _marks(height, width, k).expand(*k.shape[:2], -1, -1)], dim=-1)
    mixed = F.scaled_dot_product_attention(scaled, k, v, scale=1.0)
    out: torch.Tensor = layer.proj(mixed.transpose(1, 2).reshape(batch, height, width, -1))
    return out


def _marks(height: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """For each of H W keys, its row and then its column one-hot: (1, 1, H W, H + W)."""
    rows = torch.eye(height, dtype=like.dtype, device=like.device)[:, None].expand(-1, width, -1)
    columns = torch.eye(width, dtype=like.dtype, device=like.device)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)[None, None]

"""Runs the image encoder on a GPU for `--fidelity fast`: matrix products and attention in bfloat16.

The masks are close to the exact ones, but not equal. The sum over layers and its normalisation stay in
float32, because their rounding would be most of the error. The relative positions of SAM's attention are a
bias of every query for every row and every column of keys. Appended to each query as extra dimensions, with
keys that encode their row and column one-hot, they are part of the same product as the attention itself, so
no kernel needs a bias and none is stored. Queries, keys and values are padded with zeros to one width, a
multiple of 8: torch's fastest kernels take no other shapes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from segment_anything.modeling.image_encoder import get_rel_pos, window_partition, window_unpartition
from torch.nn import functional as F

from prep.proposals.sam.compiled import Compiled
from prep.proposals.sam.encoder import prepared
from prep.proposals.sam.model import EncoderAttention, EncoderBlock, ImageEncoder, SamModel


class FastEncoder:
    """The model's image encoder, ``size`` images at a time; compiled on a GPU.

    The last group is padded, so an image's embedding never depends on the number of images.
    """

    def __init__(self, model: SamModel, size: int) -> None:
        self._model, self._size = model, size
        self._encoder = with_bfloat16(model.image_encoder)
        # One block at a time: all blocks with the same window share what is compiled.
        self._block: Callable[[EncoderBlock, torch.Tensor], torch.Tensor] = _block
        if model.device.type == "cuda":
            self._block = Compiled(_block, "The encoder")

    def __call__(self, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The embedding (1, C, h, w), float32, of each image (3, h, w), uint8."""
        out: list[torch.Tensor] = []
        for start in range(0, len(images), self._size):
            group = [prepared(self._model, image) for image in images[start : start + self._size]]
            filled = torch.stack(group + group[:1] * (self._size - len(group)))
            out += self._encode(filled)[: len(group)].split(1)
        return out

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return encode(self._encoder, pixels, self._block)


def with_bfloat16(encoder: ImageEncoder) -> ImageEncoder:
    """A copy of the encoder in which the weights of its blocks' matrix products are bfloat16."""
    encoder = copy.deepcopy(encoder).eval()
    for layer in encoder.blocks.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.to(torch.bfloat16)
    return encoder


def encode(
    encoder: ImageEncoder,
    pixels: torch.Tensor,
    block: Callable[[EncoderBlock, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """The embeddings (B, C, h, w) of images (B, 3, S, S), float32, each block run by ``block``."""
    x = encoder.patch_embed(pixels).contiguous()  # the convolution leaves the channels apart in memory
    if encoder.pos_embed is not None:
        x = x + encoder.pos_embed
    for one in encoder.blocks:
        x = block(one, x)
    out: torch.Tensor = encoder.neck(x.permute(0, 3, 1, 2))
    return out


def run_block(
    block: EncoderBlock,
    x: torch.Tensor,
    attend: Callable[[EncoderAttention, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """One transformer block on (B, H, W, C), float32; ``attend`` and the products get the weights' dtype."""
    low, size, window = block.mlp.lin1.weight.dtype, x.shape[1:3], block.window_size
    y = block.norm1(x).to(low)
    if window > 0:
        y, padded = window_partition(y, window)
        y = window_unpartition(attend(block.attn, y), window, padded, size)
    else:
        y = attend(block.attn, y)
    x = x + y
    return x.add_(block.mlp(block.norm2(x).to(low)))


def _block(block: EncoderBlock, x: torch.Tensor) -> torch.Tensor:
    return run_block(block, x, _attend)


def _attend(layer: EncoderAttention, x: torch.Tensor) -> torch.Tensor:
    """Attention with relative positions on (B, H, W, C)."""
    batch, height, width, _ = x.shape
    qkv = layer.qkv(x).reshape(batch, height * width, 3, layer.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)  # (B, heads, H W, D)
    scaled = q * layer.scale
    if layer.use_rel_pos:
        rows = get_rel_pos(height, height, layer.rel_pos_h).to(q.dtype)  # (H, H, D)
        columns = get_rel_pos(width, width, layer.rel_pos_w).to(q.dtype)
        grid = q.unflatten(2, (height, width))
        by_row = torch.einsum("bnhwc,hkc->bnhwk", grid, rows).flatten(2, 3)
        by_column = torch.einsum("bnhwc,wkc->bnhwk", grid, columns).flatten(2, 3)
        scaled = torch.cat([scaled, by_row, by_column], dim=-1)
        k = torch.cat([k, _marks(height, width, k).expand(*k.shape[:2], -1, -1)], dim=-1)
    width_of_head = v.shape[-1]
    wide = -(-k.shape[-1] // 8) * 8
    scaled, k, v = (F.pad(one, (0, wide - one.shape[-1])) for one in (scaled, k, v))
    mixed = F.scaled_dot_product_attention(scaled, k, v, scale=1.0)[..., :width_of_head]
    out: torch.Tensor = layer.proj(mixed.transpose(1, 2).reshape(batch, height, width, -1))
    return out


def _marks(height: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """For each of H W keys, its row and then its column one-hot: (1, 1, H W, H + W)."""
    rows = torch.eye(height, dtype=like.dtype, device=like.device)[:, None].expand(-1, width, -1)
    columns = torch.eye(width, dtype=like.dtype, device=like.device)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)[None, None]

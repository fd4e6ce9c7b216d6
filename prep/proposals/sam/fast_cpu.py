"""Runs the image encoder on a CPU for `--fidelity fast`: attention in blocks, matrix products in bfloat16.

The reference writes the scores of all pairs of tokens to memory. Here, the scores of a block of queries at a
time stay in the caches. Relative positions, softmax, normalisation and the sum over layers are float32. A
processor without instructions for bfloat16 would emulate it, which takes longer than float32, so it runs the
reference's encoder instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from segment_anything.modeling.image_encoder import get_rel_pos

from prep.proposals.sam.encoder import prepared
from prep.proposals.sam.fast_encoder import encode, run_block, with_bfloat16
from prep.proposals.sam.model import EncoderAttention, EncoderBlock, SamModel

BLOCK = 2**20  # scores at a time, 4 MiB; from 2 to 8 MiB, the time is the same within 10 %


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 matrices (AVX-512 BF16 or AMX)."""
    able: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch does not have it
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def used(low: bool) -> str:
    """What the fast networks of a CPU do, in words, for the log and the manifest."""
    if low:
        return "fidelity fast on this CPU: matrix products in bfloat16, attention in blocks"
    return (
        "fidelity fast on this CPU: float32 as in exact; torch reports no instructions for bfloat16 "
        "(AVX-512 BF16 or AMX)"
    )


class CpuEncoder:
    """The model's image encoder in bfloat16, one image at a time."""

    def __init__(self, model: SamModel) -> None:
        self._model, self._encoder = model, with_bfloat16(model.image_encoder)

    def __call__(self, images: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The embedding (1, C, h, w), float32, of each image (3, h, w), uint8."""
        return [encode(self._encoder, prepared(self._model, image)[None], _block) for image in images]


def _block(block: EncoderBlock, x: torch.Tensor) -> torch.Tensor:
    return run_block(block, x, _attend)


def _attend(layer: EncoderAttention, x: torch.Tensor) -> torch.Tensor:
    """Attention with relative positions on (B, H, W, C), in the dtype of the weights."""
    batch, height, width, _ = x.shape
    qkv = layer.qkv(x).reshape(batch, height * width, 3, layer.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)  # (B, heads, H W, D)
    by_row = by_column = None
    if layer.use_rel_pos:
        rows = get_rel_pos(height, height, layer.rel_pos_h)  # (H, H, D)
        columns = get_rel_pos(width, width, layer.rel_pos_w)
        grid = q.float().unflatten(2, (height, width))
        by_row = torch.einsum("bnhwc,hkc->bnhwk", grid, rows).flatten(2, 3)
        by_column = torch.einsum("bnhwc,wkc->bnhwk", grid, columns).flatten(2, 3)
    k, v = k.transpose(2, 3).contiguous(), v.contiguous()
    mixed = torch.empty((batch, height * width, layer.num_heads, q.shape[-1]), dtype=x.dtype)
    some = min(q.shape[2], max(1, BLOCK // q.shape[2]))  # queries, and heads, of a block
    heads = max(1, BLOCK // (some * q.shape[2]))
    for item in range(batch):
        for head in range(0, layer.num_heads, heads):
            every = item, slice(head, head + heads)
            for query in range(0, q.shape[2], some):
                at = (*every, slice(query, query + some))
                scores = torch.bmm(q[at], k[every])
                if by_row is not None and by_column is not None:
                    bias = (by_row[at].unsqueeze(-1) + by_column[at].unsqueeze(-2)).flatten(-2)
                    scores = bias.add_(scores, alpha=layer.scale)
                else:
                    scores = scores.float() * layer.scale
                found = torch.bmm(scores.softmax(-1).to(v.dtype), v[every])
                mixed[item, at[2], at[1]] = found.transpose(0, 1)
    out: torch.Tensor = layer.proj(mixed.flatten(2)).unflatten(1, (height, width))
    return out

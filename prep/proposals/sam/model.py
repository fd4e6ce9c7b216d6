"""Describes the parts of ``segment_anything``'s models that are used here; the package declares no types."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, Self

import torch
from torch import nn

Layer = Callable[[torch.Tensor], torch.Tensor]
Pair = tuple[torch.Tensor, torch.Tensor]


class _Placed(Protocol):
    """What is common to modules that are copied, moved or cast."""

    def to(self, dtype: torch.dtype) -> Self:
        """The module with its weights in ``dtype``, in place."""

    def eval(self) -> Self:
        """The module in evaluation mode."""


class EncoderAttention(Protocol):
    """``segment_anything.modeling.image_encoder.Attention``."""

    num_heads: int
    scale: float
    qkv: Layer
    proj: Layer
    use_rel_pos: bool
    rel_pos_h: torch.Tensor
    rel_pos_w: torch.Tensor


class Mlp(Protocol):
    """``segment_anything.modeling.common.MLPBlock``."""

    lin1: nn.Linear

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(..., C) to the same shape."""


class EncoderBlock(Protocol):
    """``segment_anything.modeling.image_encoder.Block``."""

    norm1: Layer
    attn: EncoderAttention
    norm2: Layer
    mlp: Mlp
    window_size: int


class EncoderBlocks(Protocol):
    """The blocks of an image encoder, an ``nn.ModuleList``."""

    def __iter__(self) -> Iterator[EncoderBlock]:
        """The blocks in order."""

    def modules(self) -> Iterator[nn.Module]:
        """Every module in them."""


class ImageEncoder(_Placed, Protocol):
    """``segment_anything.modeling.ImageEncoderViT``."""

    img_size: int
    patch_embed: Layer
    pos_embed: torch.Tensor | None
    blocks: EncoderBlocks
    neck: Layer

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, S, S) to embeddings (B, C, h, w)."""


class PromptEncoder(Protocol):
    """``segment_anything.modeling.PromptEncoder``, and that of the package ``sam2``."""

    no_mask_embed: nn.Embedding

    def get_dense_pe(self) -> torch.Tensor:
        """The positional encoding (1, C, h, w) of the embedding's cells."""

    def __call__(self, points: Pair | None, boxes: None, masks: torch.Tensor | None) -> Pair:
        """The sparse (n, N, C) and dense (n, C, h, w) embeddings of prompts."""


class DecoderAttention(Protocol):
    """``segment_anything.modeling.transformer.Attention``."""

    num_heads: int
    q_proj: Layer
    k_proj: Layer
    v_proj: Layer
    out_proj: Layer

    def _separate_heads(self, x: torch.Tensor, num_heads: int) -> torch.Tensor: ...

    def _recombine_heads(self, x: torch.Tensor) -> torch.Tensor: ...

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Attention of (n, N, C) to (n, M, C)."""


class TwoWayLayer(Protocol):
    """``segment_anything.modeling.transformer.TwoWayAttentionBlock``."""

    skip_first_layer_pe: bool
    self_attn: DecoderAttention
    norm1: Layer
    cross_attn_token_to_image: DecoderAttention
    norm2: Layer
    mlp: Layer
    norm3: Layer
    norm4: Layer
    cross_attn_image_to_token: DecoderAttention


class Transformer(Protocol):
    """``segment_anything.modeling.TwoWayTransformer``."""

    layers: Sequence[TwoWayLayer]
    final_attn_token_to_image: DecoderAttention
    norm_final_attn: Layer


class MaskDecoder(_Placed, Protocol):
    """``segment_anything.modeling.MaskDecoder``."""

    transformer: Transformer
    iou_token: nn.Embedding
    mask_tokens: nn.Embedding
    output_upscaling: Layer
    output_hypernetworks_mlps: Sequence[Layer]
    iou_prediction_head: Layer

    def __call__(
        self,
        *,
        image_embeddings: torch.Tensor,
        image_pe: torch.Tensor,
        sparse_prompt_embeddings: torch.Tensor,
        dense_prompt_embeddings: torch.Tensor,
        multimask_output: bool,
    ) -> Pair:
        """Logits (n, 3, L, L) and predicted IoUs (n, 3)."""


class SamModel(Protocol):
    """``segment_anything.modeling.Sam``."""

    device: torch.device
    mask_threshold: float
    image_encoder: ImageEncoder
    prompt_encoder: PromptEncoder
    mask_decoder: MaskDecoder
    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

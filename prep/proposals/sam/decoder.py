"""Runs SAM's mask decoder, computing the parts that do not depend on the points once per image.

In addition to the reference's forward pass there is :meth:`Decoder.shared`, with the same weights and the
same operations in the same order, but

- what depends on the image only (keys, values and queries of the first layer) is projected once, not per
point;
- positional embeddings are added by broadcasting, not copied per point;
- points are processed in groups that fit a processor's caches;
- masks are computed only for points with a mask that passes the predicted IoU threshold.

Whether float32 kernels give the same bits for other shapes depends on the machine, so the first batch of each
size is computed both ways. The shared pass is used from then on only if every bit agrees; otherwise the
reference's is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from prep.proposals.sam.compiled import Compiled
from prep.proposals.sam.model import DecoderAttention, Pair, SamModel, Transformer, TwoWayLayer


@dataclass(frozen=True)
class Decoded:
    """The k candidates that pass the predicted IoU threshold, from n points with 3 masks each.

    ``index`` (k, int64, on the CPU) is 3 * point + mask, ascending; ``iou`` (k) and ``logits`` (k, L, L)
    float32.
    """

    index: torch.Tensor
    iou: torch.Tensor
    logits: torch.Tensor


class Decoder:
    """The mask decoder of one model, for batches of points on one image.

    ``group`` is the number of points per shared pass and ``masks`` the number of masks per mask-head call;
    both are fixed shapes (padded), so no result depends on the rest of the batch. ``trust`` skips the
    comparison with the reference, for fidelities that do not guarantee its bits; ``low`` also runs the shared
    pass in bfloat16, on a GPU compiled. What belongs to the few tokens, not to the pixels, stays in float32,
    with the weights of their masks and the predicted IoUs: it takes little time, and in bfloat16 it would add
    as much error as all the rest.
    """

    def __init__(
        self, model: SamModel, group: int, masks: int, trust: bool = False, low: bool = False
    ) -> None:
        self._model = model
        self._dtype = torch.bfloat16 if low else torch.float32
        self._tokens = model.mask_decoder
        self._pixels = copy.deepcopy(model.mask_decoder).to(self._dtype) if low else model.mask_decoder
        self._group, self._masks, self._trust = group, masks, trust
        self._agrees: dict[int, bool] = {}
        self._dense_pe = model.prompt_encoder.get_dense_pe()
        self._no_mask = model.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
        self._attended: Callable[[_Image, torch.Tensor], Pair] = self._attend
        self._enlarged: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = self._enlarge
        if low and model.device.type == "cuda":
            self._attended = Compiled(self._attend, "The decoder")
            self._enlarged = Compiled(self._enlarge, "The decoder's last part")

    def prompts(self, points: torch.Tensor) -> torch.Tensor:
        """The embeddings (n, 2, C) of n foreground points (n, 2), float64, in pixels of the model's input."""
        labels = torch.ones((len(points), 1), dtype=torch.int, device=points.device)
        sparse: torch.Tensor
        sparse, _ = self._model.prompt_encoder(points=(points[:, None, :], labels), boxes=None, masks=None)
        return sparse

    def __call__(self, features: torch.Tensor, prompts: torch.Tensor, threshold: float) -> Decoded:
        """The candidates of an image (1, C, h, w) with a predicted IoU above ``threshold`` (all, if <= 0)."""
        count = len(prompts)
        if self._trust or self._agrees.get(count):
            return self.shared(features, prompts, threshold)
        logits, iou = self.reference(features, prompts)
        if count not in self._agrees:
            ours = self.shared(features, prompts, -math.inf)
            self._agrees[count] = torch.equal(ours.iou, iou.flatten()) and torch.equal(
                ours.logits, logits.flatten(0, 1)
            )
        index = passing(iou, threshold)
        return Decoded(index.cpu(), iou.flatten()[index], logits.flatten(0, 1)[index])

    @property
    def agrees(self) -> dict[int, bool]:
        """For each batch size seen: whether the shared pass gave the reference's bits."""
        return dict(self._agrees)

    @property
    def without_sharing(self) -> str:
        """Why some batches are decoded by the reference's pass; empty if none are."""
        if all(self._agrees.values()):
            return ""
        return "the decoder's shared pass is not used, because its bits differ from the reference's here"

    def reference(self, features: torch.Tensor, prompts: torch.Tensor) -> Pair:
        """Logits (n, 3, L, L) and predicted IoUs (n, 3) by the model's own forward pass."""
        dense = self._no_mask.expand(len(prompts), -1, *features.shape[-2:])
        logits, iou = self._tokens(
            image_embeddings=features,
            image_pe=self._dense_pe,
            sparse_prompt_embeddings=prompts,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        return logits, iou

    def shared(self, features: torch.Tensor, prompts: torch.Tensor, threshold: float) -> Decoded:
        """The result of :meth:`__call__`, by the shared pass."""
        low = self._dtype
        image = _projected(
            self._pixels.transformer, (features + self._no_mask).to(low), self._dense_pe.to(low)
        )
        ious, indices, kept = [], [], []
        for start in range(0, len(prompts), self._group):
            part = prompts[start : start + self._group]
            filled = torch.cat([part, part[:1].expand(self._group - len(part), -1, -1)])
            tokens, pixels = self._attended(image, filled)
            iou = self._tokens.iou_prediction_head(tokens[:, 0, :])[: len(part), 1:]
            index = passing(iou, threshold)
            if len(index):
                kept.append(self._masks_of(tokens, pixels, index))
            ious.append(iou.flatten()[index])
            indices.append(index + 3 * start)
        side = 4 * features.shape[-1]
        logits = torch.cat(kept).float() if kept else features.new_empty((0, side, side))
        return Decoded(torch.cat(indices).cpu(), torch.cat(ious), logits)

    def _attend(self, image: _Image, prompts: torch.Tensor) -> Pair:
        """Tokens (n, T, C) and pixels (n, h w, C) after the two-way transformer."""
        decoder, transformer = self._tokens, self._tokens.transformer
        outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight], dim=0)
        asked = torch.cat((outputs.unsqueeze(0).expand(len(prompts), -1, -1), prompts), dim=1)
        queries, keys = asked, image.keys
        layers = zip(transformer.layers, self._pixels.transformer.layers, strict=True)
        for number, (layer, of_pixels) in enumerate(layers):
            first = image if number == 0 else None
            queries, keys = _two_way(layer, of_pixels, queries, keys, asked, image.pe, first)
        final, project = (one.transformer.final_attn_token_to_image for one in (decoder, self._pixels))
        k, v = project.k_proj(keys + image.pe), project.v_proj(keys)
        attended = final.out_proj(_attention(final, final.q_proj(queries + asked), k, v))
        return transformer.norm_final_attn(queries + attended), keys

    def _masks_of(self, tokens: torch.Tensor, pixels: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """The logits (k, L, L) of candidates ``index`` (3 * point + mask) of a group."""
        points, place = torch.unique(torch.div(index, 3, rounding_mode="floor"), return_inverse=True)
        heads = [
            mlp(tokens[:, 1 + number, :]) for number, mlp in enumerate(self._tokens.output_hypernetworks_mlps)
        ]
        weights = torch.stack(heads, dim=1).to(pixels.dtype)
        made = []
        for some in points.split(self._masks):
            if self._masks == 1:
                # A view of one point alone would count as another memory layout.
                at = slice(int(some[0]), int(some[0]) + 1)
                masks = self._enlarged(_fields(pixels)[at], weights[at])
            else:
                filled = torch.cat([some, some[:1].expand(self._masks - len(some))])
                masks = self._enlarged(_fields(pixels[filled]), weights[filled])
            made.append(masks[: len(some), 1:])
        return torch.cat(made)[place, index % 3]

    def _enlarge(self, fields: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The masks (n, 4, L, L) of fields (n, C, h, w) and the weights (n, 4, C / 8) of their channels."""
        field = self._pixels.output_upscaling(fields)
        masks = weights @ field.view(*field.shape[:2], -1)
        return masks.view(*masks.shape[:2], *field.shape[-2:])


def _fields(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels (n, h w, C) as fields (n, C, h, w). The view keeps the channels last in memory, as in the
    reference: torch selects its kernels by it.
    """
    side = math.isqrt(pixels.shape[1])
    return pixels.transpose(1, 2).view(len(pixels), -1, side, side)


class _Image(NamedTuple):
    """The inputs of the decoder's first layer that depend on the image only; each tensor is (1, h w, C)."""

    keys: torch.Tensor
    pe: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    q: torch.Tensor


def _projected(transformer: Transformer, features: torch.Tensor, pe: torch.Tensor) -> _Image:
    """The image's part of the first layer, of its embedding and positional encoding (1, C, h, w)."""
    first = transformer.layers[0]
    keys, places = features.flatten(2).permute(0, 2, 1), pe.flatten(2).permute(0, 2, 1)
    placed = keys + places
    return _Image(
        keys,
        places,
        first.cross_attn_token_to_image.k_proj(placed),
        first.cross_attn_token_to_image.v_proj(keys),
        first.cross_attn_image_to_token.q_proj(placed),
    )


def _two_way(
    layer: TwoWayLayer,
    of_pixels: TwoWayLayer,
    queries: torch.Tensor,
    keys: torch.Tensor,
    asked: torch.Tensor,
    pe: torch.Tensor,
    image: _Image | None,
) -> Pair:
    """One layer of the two-way transformer; ``image`` has the first layer's projections.

    ``layer`` and ``of_pixels`` have the same weights, in the dtypes of the tokens and of the pixels.
    """
    if layer.skip_first_layer_pe:
        queries = layer.self_attn(q=queries, k=queries, v=queries)
    else:
        placed = queries + asked
        queries = queries + layer.self_attn(q=placed, k=placed, v=queries)
    queries = layer.norm1(queries)

    count, attend, project = (
        len(queries),
        layer.cross_attn_token_to_image,
        of_pixels.cross_attn_token_to_image,
    )
    placed_keys = keys + pe
    k, v = (image.k, image.v) if image else (project.k_proj(placed_keys), project.v_proj(keys))
    q = attend.q_proj(queries + asked)
    read = _attention(attend, q, k.expand(count, -1, -1), v.expand(count, -1, -1))
    queries = layer.norm2(queries + attend.out_proj(read))
    queries = layer.norm3(queries + layer.mlp(queries))

    attend, project = layer.cross_attn_image_to_token, of_pixels.cross_attn_image_to_token
    q = image.q if image else project.q_proj(placed_keys)
    k, v = attend.k_proj(queries + asked), attend.v_proj(queries)
    read = _attention(attend, q.expand(count, -1, -1), k.to(q.dtype), v.to(q.dtype))
    keys = of_pixels.norm4(keys + project.out_proj(read))
    return queries, keys


def _attention(layer: DecoderAttention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The reference's attention between its projections, in the dtype of ``k``; the dtype of ``q``."""
    dtype = q.dtype
    q, k, v = (layer._separate_heads(x, layer.num_heads) for x in (q.to(k.dtype), k, v))
    weights = q @ k.permute(0, 1, 3, 2)
    weights = torch.softmax(weights / math.sqrt(q.shape[-1]), dim=-1)
    return layer._recombine_heads(weights @ v).to(dtype)


def passing(iou: torch.Tensor, threshold: float) -> torch.Tensor:
    """Which of the flattened (n, 3) predicted IoUs pass; as in the reference, all do if the threshold is <=
    0.
    """
    flat = iou.flatten()
    if threshold > 0.0:
        return torch.nonzero(flat > threshold).flatten()
    return torch.arange(len(flat), device=flat.device)

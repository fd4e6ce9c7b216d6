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
from dataclasses import dataclass

import torch

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
    pass in bfloat16.
    """

    def __init__(
        self, model: SamModel, group: int, masks: int, trust: bool = False, low: bool = False
    ) -> None:
        self._model = model
        self._dtype = torch.bfloat16 if low else torch.float32
        self._decoder = copy.deepcopy(model.mask_decoder).to(self._dtype) if low else model.mask_decoder
        self._group, self._masks, self._trust = group, masks, trust
        self._agrees: dict[int, bool] = {}
        self._dense_pe = model.prompt_encoder.get_dense_pe()
        self._no_mask = model.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)

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
        logits, iou = self._decoder(
            image_embeddings=features,
            image_pe=self._dense_pe,
            sparse_prompt_embeddings=prompts,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        return logits, iou

    def shared(self, features: torch.Tensor, prompts: torch.Tensor, threshold: float) -> Decoded:
        """The result of :meth:`__call__`, by the shared pass."""
        low, prompts = self._dtype, prompts.to(self._dtype)
        image = _Image(self._decoder.transformer, (features + self._no_mask).to(low), self._dense_pe.to(low))
        ious, indices, kept = [], [], []
        for start in range(0, len(prompts), self._group):
            part = prompts[start : start + self._group]
            filled = torch.cat([part, part[:1].expand(self._group - len(part), -1, -1)])
            tokens, pixels = self._attend(image, filled)
            iou = self._decoder.iou_prediction_head(tokens[:, 0, :])[: len(part), 1:]
            index = passing(iou, threshold)
            if len(index):
                kept.append(self._masks_of(tokens, pixels, index))
            ious.append(iou.flatten()[index])
            indices.append(index + 3 * start)
        side = 4 * features.shape[-1]
        logits = torch.cat(kept).float() if kept else features.new_empty((0, side, side))
        return Decoded(torch.cat(indices).cpu(), torch.cat(ious).float(), logits)

    def _attend(self, image: _Image, prompts: torch.Tensor) -> Pair:
        """Tokens (n, T, C) and pixels (n, h w, C) after the two-way transformer."""
        decoder, transformer = self._decoder, self._decoder.transformer
        outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight], dim=0)
        asked = torch.cat((outputs.unsqueeze(0).expand(len(prompts), -1, -1), prompts), dim=1)
        queries, keys = asked, image.keys
        for number, layer in enumerate(transformer.layers):
            first = image if number == 0 else None
            queries, keys = _two_way(layer, queries, keys, asked, image.pe, first)
        final = transformer.final_attn_token_to_image
        attended = _attention(
            final, final.q_proj(queries + asked), final.k_proj(keys + image.pe), final.v_proj(keys)
        )
        return transformer.norm_final_attn(queries + attended), keys

    def _masks_of(self, tokens: torch.Tensor, pixels: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """The logits (k, L, L) of candidates ``index`` (3 * point + mask) of a group."""
        decoder = self._decoder
        side = math.isqrt(pixels.shape[1])
        points, place = torch.unique(torch.div(index, 3, rounding_mode="floor"), return_inverse=True)
        heads = [
            mlp(tokens[:, 1 + number, :]) for number, mlp in enumerate(decoder.output_hypernetworks_mlps)
        ]
        weights = torch.stack(heads, dim=1)
        fields = pixels.transpose(1, 2).view(len(pixels), -1, side, side)
        made = []
        for some in points.split(self._masks):
            if self._masks == 1:
                # A slice keeps the memory layout, by which torch selects its kernels; a gathered copy of one
                # point would not.
                at = slice(int(some[0]), int(some[0]) + 1)
                field, weight = decoder.output_upscaling(fields[at]), weights[at]
            else:
                filled = torch.cat([some, some[:1].expand(self._masks - len(some))])
                field, weight = decoder.output_upscaling(fields[filled]), weights[filled]
            masks = weight @ field.view(*field.shape[:2], -1)
            made.append(masks[: len(some), 1:].unflatten(-1, field.shape[-2:]))
        return torch.cat(made)[place, index % 3]


class _Image:
    """The inputs of the decoder's first layer that depend on the image only; each tensor is (1, h w, C)."""

    def __init__(self, transformer: Transformer, features: torch.Tensor, pe: torch.Tensor) -> None:
        first = transformer.layers[0]
        self.keys = features.flatten(2).permute(0, 2, 1)
        self.pe = pe.flatten(2).permute(0, 2, 1)
        placed = self.keys + self.pe
        self.k = first.cross_attn_token_to_image.k_proj(placed)
        self.v = first.cross_attn_token_to_image.v_proj(self.keys)
        self.q = first.cross_attn_image_to_token.q_proj(placed)


def _two_way(
    layer: TwoWayLayer,
    queries: torch.Tensor,
    keys: torch.Tensor,
    asked: torch.Tensor,
    pe: torch.Tensor,
    image: _Image | None,
) -> Pair:
    """One layer of the two-way transformer; ``image`` has the first layer's projections."""
    if layer.skip_first_layer_pe:
        queries = layer.self_attn(q=queries, k=queries, v=queries)
    else:
        placed = queries + asked
        queries = queries + layer.self_attn(q=placed, k=placed, v=queries)
    queries = layer.norm1(queries)

    count, attend = len(queries), layer.cross_attn_token_to_image
    placed_keys = keys + pe
    k, v = (image.k, image.v) if image else (attend.k_proj(placed_keys), attend.v_proj(keys))
    q = attend.q_proj(queries + asked)
    queries = layer.norm2(queries + _attention(attend, q, k.expand(count, -1, -1), v.expand(count, -1, -1)))
    queries = layer.norm3(queries + layer.mlp(queries))

    attend = layer.cross_attn_image_to_token
    q = image.q if image else attend.q_proj(placed_keys)
    k, v = attend.k_proj(queries + asked), attend.v_proj(queries)
    keys = layer.norm4(keys + _attention(attend, q.expand(count, -1, -1), k, v))
    return queries, keys


def _attention(layer: DecoderAttention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The reference's attention, given its projections."""
    q, k, v = (layer._separate_heads(x, layer.num_heads) for x in (q, k, v))
    weights = q @ k.permute(0, 1, 3, 2)
    weights = torch.softmax(weights / math.sqrt(q.shape[-1]), dim=-1)
    return layer.out_proj(layer._recombine_heads(weights @ v))


def passing(iou: torch.Tensor, threshold: float) -> torch.Tensor:
    """Which of the flattened (n, 3) predicted IoUs pass; as in the reference, all do if the threshold is <=
    0.
    """
    flat = iou.flatten()
    if threshold > 0.0:
        return torch.nonzero(flat > threshold).flatten()
    return torch.arange(len(flat), device=flat.device)

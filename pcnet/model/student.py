"""The student: a network that maps an image and an expression to a mask, without phrases or proposals.

It has the encoders and projections of its teacher (so the weights of both are interchangeable) and a light
decoder. Legend: B images, R texts per image, L tokens, C the shared width, D the decoder's width, (H,W) the
image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pcnet.config import ModelConfig, Recipe
from pcnet.model.encoders import ClipEncoder
from pcnet.model.inputs import Scope
from pcnet.model.pcnet import PCNet

STRIDE = 4  # of the decoder's last features
SUBCELLS = 2  # its head predicts SUBCELLS x SUBCELLS logits per position
DILATIONS = (1, 2, 4, 1)  # together they see 17 positions, so objects can be compared across the image
MAX_WIDTH = 256


class Student(PCNet):
    """A network of one stage whose response is the decoder's logits: positive where the mask is.

    ``responses`` gives logits at half the image's size, (B,1,H/2,W/2), and ignores the phrases. The single
    stage's cosines of positions and expression are an input of the decoder, so the projections keep their
    meaning (PRMS uses them). An encoder without a ``pyramid`` gives two levels: its features, and the same
    pooled by two.
    """

    def __init__(self, config: ModelConfig, recipe: Recipe | None = None) -> None:
        super().__init__(config, recipe)
        first = config.hidden + 1
        finer = getattr(self.backbone, "finer_channels", (first,))
        self.decoder = MaskDecoder([first, *finer], config.hidden, min(config.hidden, MAX_WIDTH))

    def forward(self, images: Tensor, expression_ids: Tensor, *phrases: object, **more: object) -> Tensor:
        """In evaluation, (B,3,H,W) and (B,L) to the response after ReLU at image size, (B,1,H,W); in
        training, (B,3,H,W) and (B,R,L) to the logits (B,R,H/2,W/2).
        """
        if self.training:
            return self.logits(images, expression_ids)
        logits = self.logits(images, expression_ids[:, None])
        return F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False).relu()

    def responses(self, images: Tensor, expression_ids: Tensor, phrase_ids: Tensor) -> tuple[Tensor, ...]:
        """(B,3,H,W), (B,L) -> one response, the logits (B,1,H/2,W/2); the phrases are not read."""
        return (self.logits(images, expression_ids[:, None]),)

    def logits(self, images: Tensor, ids: Tensor) -> Tensor:
        """(B,3,H,W), (B,R,L) -> (B,R,H/2,W/2); an image is encoded once for all its texts."""
        each = ids.shape[1]
        backbone = self.backbone
        pyramid = (
            backbone.pyramid(images)
            if isinstance(backbone, ClipEncoder)
            else (backbone.encode_image(images),)
        )
        visual, text = self.c4_vis_project(pyramid[0]), self.textual(ids.flatten(0, 1))
        levels = [_repeated(level, each) for level in (visual, *pyramid[1:])]
        cosines = self.grounded(levels[0], text[None, :, None], Scope(pairwise=False))[0]
        levels[0] = torch.cat([levels[0], cosines.to(levels[0].dtype)], 1)
        if len(levels) == 1:
            levels = [F.avg_pool2d(levels[0], 2, ceil_mode=True), *levels]
        size = -(-images.shape[2] // STRIDE), -(-images.shape[3] // STRIDE)
        logits: Tensor = self.decoder(levels, text, size)
        return logits.view(-1, each, *logits.shape[2:])


class MaskDecoder(nn.Module):
    """From features, coarsest first with ``channels`` each, and a text of ``width`` to mask logits.

    Blocks with growing dilation read the coarsest features, conditioned on the text; each finer level is
    added and refined by one more block, the last at stride 4.
    """

    def __init__(self, channels: Sequence[int], width: int, hidden: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(one, hidden, 1) for one in channels)
        self.context = nn.ModuleList(TextBlock(hidden, width, dilation) for dilation in DILATIONS)
        self.finer = nn.ModuleList(TextBlock(hidden, width) for _ in channels[1:])
        self.head = nn.Conv2d(hidden, SUBCELLS**2, 1)

    def forward(self, levels: Sequence[Tensor], text: Tensor, size: tuple[int, int]) -> Tensor:
        """Levels (B,*,h,w), a text (B,C) and the size at stride 4 -> logits (B,1,2 * size)."""
        levels = [level.contiguous(memory_format=torch.channels_last) for level in levels]  # faster
        x = self.lateral[0](levels[0])
        for block in self.context:
            x = block(x, text)
        sizes = [*(tuple(level.shape[2:]) for level in levels[1:-1]), size]
        for lateral, block, level, own in zip(self.lateral[1:], self.finer, levels[1:], sizes, strict=True):
            x = block(_resized(x, own) + _resized(lateral(level), own), text)
        logits: Tensor = F.pixel_shuffle(self.head(x), SUBCELLS)
        return logits.float()


class TextBlock(nn.Module):
    """A residual block whose normalised features are scaled and shifted by the text (FiLM)."""

    def __init__(self, hidden: int, width: int, dilation: int = 1) -> None:
        super().__init__()
        self.mix = nn.Conv2d(hidden, hidden, 1)
        self.spread = nn.Conv2d(hidden, hidden, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm2d(hidden, affine=False)
        self.condition = nn.Linear(width, 2 * hidden)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """(B,D,h,w) features and a text (B,C) -> (B,D,h,w)."""
        scale, shift = self.condition(text)[:, :, None, None].chunk(2, dim=1)
        mixed = torch.relu(self.mix(x))
        changed: Tensor = mixed + torch.relu(self.norm(self.spread(mixed)) * (1 + scale) + shift)
        return changed


def _repeated(level: Tensor, each: int) -> Tensor:
    return level if each == 1 else level.repeat_interleave(each, 0)


def _resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resize of (B,D,h,w) to ``size``, pixel centres aligned."""
    if x.shape[2:] == tuple(size):
        return x
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)

"""Defines the image and text encoders: CLIP with a ResNet image tower (open_clip), and a small one trained
from scratch.

Both offer ``encode_image`` (B,3,H,W) -> (B,Cv,h,w), ``encode_text`` (M,L) -> (M,Cl), and the widths ``Cv`` =
``visual_channels`` and ``Cl`` = ``text_width``. Parameter names are those of a released checkpoint's
``backbone``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from pcnet.config import CLIP_SIZES, ClipSizes, ModelConfig
from pcnet.model.clip_text import clip_text
from pcnet.model.vit import VitEncoder
from prep.errors import PrepError

if TYPE_CHECKING:
    from open_clip.model import CLIP

HEAD_WIDTH = 64  # channels per attention head in every released CLIP


def build_encoder(config: ModelConfig) -> ClipEncoder | TinyEncoder | VitEncoder:
    """The encoder of ``config``, with random weights."""
    if config.towers is not None:
        return VitEncoder(config.towers, config.vit_features)
    if config.encoder == "tiny":
        return TinyEncoder(config.vocabulary)
    sizes = config.clip or CLIP_SIZES.get(config.encoder)
    if sizes is None:
        raise PrepError(
            "The encoder 'clip' was requested without its sizes.", "Use RN50 or RN101, or load a checkpoint."
        )
    return ClipEncoder(sizes)


class ClipEncoder(nn.Module):
    """CLIP's modified ResNet up to its last residual layer, and its text transformer.

    The response map needs the feature grid, so the attention pooling of the image tower is kept (checkpoints
    contain it) but never run. Texts may be shorter than CLIP's context: positions and the causal mask are
    truncated to the given length, and the text feature is read at the largest id, the end token.
    """

    def __init__(self, sizes: ClipSizes) -> None:
        super().__init__()
        clip = _open_clip(sizes)
        self.visual = clip.visual
        self.transformer = clip.transformer
        self.token_embedding = clip.token_embedding
        self.positional_embedding = clip.positional_embedding
        self.ln_final = clip.ln_final
        self.text_projection = clip.text_projection
        self.logit_scale = clip.logit_scale
        self.visual_channels = sizes.vision_width * 32
        self.finer_channels = (sizes.vision_width * 16, sizes.vision_width * 8, sizes.vision_width * 4)
        self.text_width = sizes.embed_dim
        for unused in (*self.visual.attnpool.parameters(), self.logit_scale):
            unused.requires_grad_(
                False
            )  # otherwise data-parallel training waits for gradients that are never computed

    def encode_image(self, images: Tensor) -> Tensor:
        """(B,3,H,W) -> (B,Cv,H/32,W/32), the last residual layer's features."""
        return self.pyramid(images)[0]

    def pyramid(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B,3,H,W) -> the features of :meth:`encode_image`, then those of the earlier layers at strides 16,
        8 and 4, with the channels ``finer_channels``.
        """
        tower = self.visual
        first = tower.layer1(tower.stem(images))
        second = tower.layer2(first)
        third = tower.layer3(second)
        return tower.layer4(third), third, second, first

    def encode_text(self, ids: Tensor) -> Tensor:
        """(M,L) token ids, L at most the context -> (M,Cl)."""
        return clip_text(self, ids)


class TinyEncoder(nn.Module):
    """A small encoder trained from scratch: stride 4, receptive field 23 pixels, 64 channels.

    The receptive field is small on purpose: with a large one the peak of a response falls next to the object.
    Position words need coordinates, which are added to the image (two extra channels) and to the feature map
    (a linear embedding). Texts are encoded by word embeddings and a bidirectional GRU; id 0 is padding.
    """

    visual_channels = 64
    text_width = 128

    def __init__(self, vocabulary: int, width: int = 64) -> None:
        super().__init__()
        if vocabulary < 2:
            raise PrepError(
                "The tiny text encoder has an empty vocabulary.",
                "Build its tokenizer from the training texts first.",
            )
        self.layers = nn.Sequential(
            _convolution(5, width // 2, stride=2),
            _convolution(width // 2, width, stride=2),
            _Residual(width),
            _Residual(width),
        )
        self.place = nn.Conv2d(2, width, 1)
        self.words = nn.Embedding(vocabulary, width, padding_idx=0)
        self.sentence = nn.GRU(width, width, batch_first=True, bidirectional=True)

    def encode_image(self, images: Tensor) -> Tensor:
        """(B,3,H,W) -> (B,64,H/4,W/4)."""
        x = torch.cat([images, _coordinates(images)], 1)
        x = self.layers(x.contiguous(memory_format=torch.channels_last))  # faster convolutions
        placed: Tensor = x + self.place(_coordinates(x))
        return placed

    def encode_text(self, ids: Tensor) -> Tensor:
        """(M,L) word ids, 0 = padding -> (M,128), the last state of each direction."""
        lengths = (ids != 0).sum(1).clamp(min=1)
        ids = ids[:, : int(lengths.max())]
        packed = pack_padded_sequence(
            self.words(ids), lengths.to("cpu"), batch_first=True, enforce_sorted=False
        )
        _, state = self.sentence(packed)
        return torch.cat([state[0], state[1]], 1)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _convolution(width, width), nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def _convolution(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


def _coordinates(like: Tensor) -> Tensor:
    """(B,2,H,W) x and y of each position in [-1, 1]."""
    batch, _, height, width = like.shape
    y = torch.linspace(-1, 1, height, device=like.device, dtype=like.dtype).view(1, 1, height, 1)
    x = torch.linspace(-1, 1, width, device=like.device, dtype=like.dtype).view(1, 1, 1, width)
    return torch.cat([x.expand(batch, 1, height, width), y.expand(batch, 1, height, width)], 1)


def _open_clip(sizes: ClipSizes) -> CLIP:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    return CLIP(
        embed_dim=sizes.embed_dim,
        vision_cfg=CLIPVisionCfg(
            layers=sizes.vision_layers, width=sizes.vision_width, image_size=sizes.image_resolution
        ),
        text_cfg=CLIPTextCfg(
            context_length=sizes.context_length,
            vocab_size=sizes.vocab_size,
            width=sizes.text_width,
            heads=max(1, sizes.text_width // HEAD_WIDTH),
            layers=sizes.text_layers,
        ),
        quick_gelu=True,  # OpenAI's weights were trained with the quick approximation
    )

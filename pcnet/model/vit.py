"""Encodes images by the patch tokens of a vision transformer, and texts by the model's own text encoder.

The encoders are those of open_clip (ResNets, ViT, EVA, SigLIP) and transformers, built from a description
(:mod:`pcnet.model.towers`). Positional embeddings are resized to the image, so any multiple of the patch size
can be used. An image encoder's features are its last block's output (``tokens``), or the values of that
block's attention (``values``), which keep the position of an object better: each token attends to itself
alone (MaskCLIP, Zhou et al., ECCV 2022, section 3.1).
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pcnet.config import Towers
from pcnet.data.images import MEAN, STD
from pcnet.model.clip_text import clip_text
from pcnet.model.towers import checked, patch_size, text_length
from prep.errors import PrepError, reason_of
from prep.records import Untyped

if TYPE_CHECKING:
    from open_clip.model import CLIP
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.transformer import VisionTransformer


class VitEncoder(nn.Module):
    """``encode_image`` (B,3,H,W) -> (B,Cv,H/p,W/p) and ``encode_text`` (M,L) -> (M,Cl), p the patch size.

    Images are normalised with ImageNet's statistics, as for every encoder here; they are normalised again
    with those of ``towers``. Parameters that no feature depends on are not trained.
    """

    def __init__(self, towers: Towers, features: str = "tokens") -> None:
        super().__init__()
        self._towers, self._features = checked(towers), features
        self.patch = patch_size(towers)
        build = _open_clip if towers["kind"] == "open_clip" else _transformers
        try:
            self.image, self.text = build(towers)
        except PrepError:
            raise
        except Exception as error:  # a configuration that its library cannot build
            raise PrepError(
                f"The encoder cannot be built: {type(error).__name__}: {reason_of(error)}.",
                "Use another --encoder.",
            ) from error
        scale = torch.tensor(STD) / torch.tensor(towers["std"])
        shift = (torch.tensor(MEAN) - torch.tensor(towers["mean"])) / torch.tensor(towers["std"])
        self.register_buffer("_scale", scale.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_shift", shift.view(1, 3, 1, 1), persistent=False)
        self.visual_channels, self.text_width = self._probe()

    def encode_image(self, images: Tensor) -> Tensor:
        """(B,3,H,W) -> (B,Cv,H/p,W/p).

        :raises PrepError: if H or W is not a multiple of the patch size p.
        """
        height, width = images.shape[2:]
        if height % self.patch or width % self.patch:
            raise PrepError(
                f"An image of {width} x {height} pixels is not a multiple of the patch size {self.patch}.",
                f"Use --size {max(1, height // self.patch) * self.patch}.",
            )
        images = images * self.get_buffer("_scale") + self.get_buffer("_shift")
        if hasattr(self.image, "layer4"):  # a ResNet
            return _resnet(self.image, images)
        tokens = _tokens(self.image, images, self._features)
        grid = height // self.patch, width // self.patch
        return tokens[:, -grid[0] * grid[1] :].transpose(1, 2).reshape(len(images), -1, *grid)

    def encode_text(self, ids: Tensor) -> Tensor:
        """(M,L) token ids of the model's tokenizer -> (M,Cl)."""
        if self._towers["kind"] == "hf":
            return _hf_text(self.text, ids)
        if isinstance(self.text, _ClipText):
            return clip_text(self.text, ids)
        found: Tensor = self.text(ids)
        return found

    def _probe(self) -> tuple[int, int]:
        """Encode one small image and text; returns (Cv, Cl).

        Parameters that no feature depends on are excluded from training.
        """
        training = self.training
        self.eval()
        with torch.enable_grad():
            image = self.encode_image(torch.zeros(1, 3, 2 * self.patch, 2 * self.patch))
            text = self.encode_text(torch.ones(1, text_length(self._towers, 4), dtype=torch.int64))
            torch.autograd.backward(image.sum() + text.sum())
        for parameter in self.parameters():
            parameter.requires_grad_(parameter.grad is not None)
            parameter.grad = None
        self.train(training)
        return image.shape[1], text.shape[1]


class _ClipText(nn.Module):
    """The text part of an open_clip CLIP, whose parts lie beside its image encoder."""

    def __init__(self, clip: CLIP) -> None:
        super().__init__()
        self.transformer, self.token_embedding = clip.transformer, clip.token_embedding
        self.positional_embedding, self.ln_final = clip.positional_embedding, clip.ln_final
        self.text_projection = clip.text_projection


def _open_clip(towers: Towers) -> tuple[nn.Module, nn.Module]:
    """The image and the text encoder of a model of open_clip, with random weights."""
    from open_clip.model import CLIP, CustomTextCLIP

    config = dict(towers["config"])
    if config.pop("custom_text", False):
        whole = CustomTextCLIP(**config)
        return _flexible(whole.visual), whole.text
    clip = CLIP(**config)
    return _flexible(clip.visual), _ClipText(clip)


def _flexible(visual: nn.Module) -> nn.Module:
    """An image encoder that takes images of any size: timm's models have a switch for it."""
    trunk = getattr(visual, "trunk", None)
    if trunk is None:
        return visual
    embed = getattr(trunk, "patch_embed", None)
    if embed is None or not hasattr(trunk, "dynamic_img_size"):
        raise PrepError(
            f"The image encoder {type(trunk).__name__} has no patch tokens of one size.",
            "Use a ViT, EVA or SigLIP model.",
        )
    from timm.layers.format import Format

    trunk.dynamic_img_size, embed.strict_img_size = True, False
    embed.flatten, embed.output_fmt = False, Format.NHWC
    return visual


def _transformers(towers: Towers) -> tuple[nn.Module, nn.Module]:
    """The image and the text encoder of models of transformers, with random weights."""
    from transformers import AutoConfig, AutoModel

    built = []
    for part, name in ((towers["image"], "vision_model"), (towers["text"], "text_model")):
        values = dict(part)
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        model = AutoModel.from_config(config, trust_remote_code=False)
        built.append(getattr(model, name, model))
    return built[0], built[1]


def _resnet(tower: ModifiedResNet, images: Tensor) -> Tensor:
    found: Tensor = tower.layer4(tower.layer3(tower.layer2(tower.layer1(tower.stem(images)))))
    return found


def _tokens(tower: nn.Module, images: Tensor, features: str) -> Tensor:
    """(B,N,Cv): the tokens after the last block and the final norm.

    The last h w are those of the patches; class and register tokens come before them.
    """
    block, norm = _last(tower)
    seen: list[Tensor] = []
    hooks = [block.register_forward_pre_hook(lambda _, given: seen.append(given[0]))]
    hooks.append(block.register_forward_hook(lambda _, given, made: seen.append(_first(made))))
    try:
        _run(tower, images)
    finally:
        for hook in hooks:
            hook.remove()
    if features == "tokens":
        return norm(seen[1])  # type: ignore[no-any-return]
    return norm(_values(block, seen[0]))  # type: ignore[no-any-return]


def _run(tower: nn.Module, images: Tensor) -> None:
    """Run an image encoder, with positions for the size of the images."""
    trunk = getattr(tower, "trunk", None)
    if trunk is not None:
        sides = zip(images.shape[2:], trunk.patch_embed.patch_size, strict=True)
        rotary = getattr(trunk, "rope", None)
        if rotary is not None and hasattr(rotary, "update_feat_shape"):
            rotary.update_feat_shape([side // patch for side, patch in sides])
        trunk.forward_features(images)
    elif hasattr(tower, "class_embedding") and hasattr(tower, "conv1"):
        _run_open_clip(tower, images)
    elif "interpolate_pos_encoding" in inspect.signature(tower.forward).parameters:
        tower(pixel_values=images, interpolate_pos_encoding=True)
    else:
        tower(pixel_values=images)


def _run_open_clip(tower: VisionTransformer, images: Tensor) -> None:
    x = tower.conv1(images)
    grid = x.shape[2:]
    x = x.flatten(2).transpose(1, 2)
    first = tower.class_embedding.to(x.dtype).expand(len(x), 1, -1)
    x = torch.cat([first, x], 1) + _resized(tower.positional_embedding, tower.grid_size, grid)
    tower.transformer(tower.ln_pre(tower.patch_dropout(x)))


def _resized(positions: Tensor, grid: Sequence[int], size: Sequence[int]) -> Tensor:
    """Positional embeddings (1 + g g, C) of a class token and a grid, resized bicubically to another grid."""
    if tuple(grid) == tuple(size):
        return positions
    patches = positions[1:].reshape(1, *grid, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, tuple(size), mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([positions[:1], patches[0].flatten(1).T])


def _last(tower: Untyped) -> tuple[nn.Module, nn.Module]:
    """The last block of an image encoder and the norm after it."""
    if hasattr(tower, "trunk"):
        return tower.trunk.blocks[-1], tower.trunk.norm
    if hasattr(tower, "transformer") and hasattr(tower, "ln_post"):
        return tower.transformer.resblocks[-1], tower.ln_post
    encoder = getattr(tower, "encoder", tower)
    inner = getattr(tower, "model", encoder)
    blocks = next(
        (
            found
            for holder in (encoder, inner)
            for name in ("layers", "layer")
            if isinstance(found := getattr(holder, name, None), nn.ModuleList)
        ),
        None,
    )
    names = ("post_layernorm", "layernorm", "norm")
    norm = next((getattr(tower, name) for name in names if hasattr(tower, name)), None)
    if blocks is None or norm is None:
        raise PrepError(
            f"The image encoder {type(tower).__name__} has no blocks that are known here.",
            "Use a CLIP, SigLIP, ViT, DINOv2 or DINOv3 model.",
        )
    return blocks[-1], norm


def _values(block: nn.Module, tokens: Tensor) -> Tensor:
    """What the attention of a block gives if each token attends to itself alone: its projected value."""
    attention = next(
        (getattr(block, n) for n in ("attn", "self_attn", "attention") if hasattr(block, n)), None
    )
    norm = next(
        (
            getattr(block, n)
            for n in ("ln_1", "norm1", "layer_norm1", "layernorm_before")
            if hasattr(block, n)
        ),
        None,
    )
    if attention is None or norm is None:
        raise PrepError(
            f"--vit-features values is not known for {type(block).__name__}.", "Use --vit-features tokens."
        )
    alone = norm(tokens).flatten(0, 1)[:, None]
    try:
        whole = (alone, alone, alone) if isinstance(attention, nn.MultiheadAttention) else (alone,)
        made = attention(*whole)
    except TypeError as error:  # an attention that needs more than the tokens, such as rotated positions
        raise PrepError(
            f"--vit-features values is not known for {type(block).__name__}.", "Use --vit-features tokens."
        ) from error
    return _first(made).reshape(tokens.shape[0], tokens.shape[1], -1)


def _first(made: Tensor | Sequence[Tensor]) -> Tensor:
    return made if isinstance(made, Tensor) else made[0]


def _hf_text(model: nn.Module, ids: Tensor) -> Tensor:
    """(M,L) ids -> (M,Cl): the pooled output of a text model, or its last state at the last token."""
    made = model(input_ids=ids)
    pooled: Tensor | None = getattr(made, "pooler_output", None)
    if pooled is not None:
        return pooled
    ends = (ids != 0).sum(1).clamp(min=1) - 1
    last: Tensor = made.last_hidden_state[torch.arange(len(ids), device=ids.device), ends]
    return last

"""The network of FreeSOLO: backbone, instance branch and mask branch, built to fit given weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from prep.errors import PrepError
from prep.proposals.freesolo.backbone import Pyramid, ResNet

GRIDS = (40, 36, 24, 16, 12)  # freesolo/config.py:56
STRIDES = (8, 8, 16, 32, 32)  # freesolo/config.py:46
GROUPS = 32  # of every group norm: solov2.py:789,900,945


class InstanceHead(nn.Module):
    """Scores and kernels on each level's grid (solov2.py:732-868, ``SOLOv2InsHead``).

    ``emb_pred`` is not built: no mask depends on it (solov2.py:543-729).
    """

    def __init__(self, inputs: int, channels: int, classes: int, kernels: int, convs: int) -> None:
        super().__init__()
        self.cate_tower = _tower(inputs, channels, convs)
        self.kernel_tower = _tower(inputs + 2, channels, convs)
        self.cate_pred = nn.Conv2d(channels, classes, 3, padding=1)
        self.kernel_pred = nn.Conv2d(channels, kernels, 3, padding=1)

    def forward(self, levels: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Five B x C x H x W maps to logits (B x classes x S x S) and kernels (B x kernels x S x S)."""
        scores, kernels = [], []
        for side, level in zip(GRIDS, levels, strict=True):
            grid = F.interpolate(with_coordinates(level), size=(side, side), mode="bilinear")
            kernels.append(self.kernel_pred(self.kernel_tower(grid)))
            scores.append(self.cate_pred(self.cate_tower(grid[:, :-2])))
        return scores, kernels


class MaskHead(nn.Module):
    """The mask features at stride 4 (solov2.py:871-983, ``SOLOv2MaskHead``)."""

    def __init__(self, inputs: int, channels: int, masks: int) -> None:
        super().__init__()
        levels = [_level(inputs + 2 * (level == 3), channels, level) for level in range(4)]
        self.convs_all_levels = nn.ModuleList(levels)
        self.conv_pred = nn.Sequential(
            nn.Conv2d(channels, masks, 1, bias=False), nn.GroupNorm(GROUPS, masks), nn.ReLU()
        )

    def forward(self, levels: list[torch.Tensor]) -> torch.Tensor:
        """p2 to p5 to B x masks x H/4 x W/4; p5 gets the coordinates."""
        total = self.convs_all_levels[0](levels[0])
        for at in (1, 2, 3):
            total = total + self.convs_all_levels[at](with_coordinates(levels[at]) if at == 3 else levels[at])
        features: torch.Tensor = self.conv_pred(total)
        return features


class Network(nn.Module):
    """Image to logits, kernels and mask features (solov2.py:143-196)."""

    def __init__(self, backbone: Pyramid, ins_head: InstanceHead, mask_head: MaskHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.ins_head = ins_head
        self.mask_head = mask_head

    def forward(self, images: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
        """B x 3 x H x W, normalised float32, sides multiples of 32."""
        levels = self.backbone(images)
        p2, p3, p4, p5, p6 = levels
        half = F.interpolate(p2, scale_factor=0.5, mode="bilinear")
        last = F.interpolate(p6, size=p5.shape[-2:], mode="bilinear")  # solov2.py:505-511
        return (*self.ins_head([half, p3, p4, p5, last]), self.mask_head(levels[:4]))


def with_coordinates(level: torch.Tensor) -> torch.Tensor:
    """``level`` (B x C x H x W) with two more channels, x and y from -1 to 1 (solov2.py:844-850)."""
    batch, _, height, width = level.shape
    x = torch.linspace(-1, 1, width, device=level.device).expand(batch, 1, height, width)
    y = torch.linspace(-1, 1, height, device=level.device)[:, None].expand(batch, 1, height, width)
    return torch.cat([level, x, y], 1)


def build(weights: Mapping[str, Any], source: str) -> Network:
    """The network of ``weights`` (name -> tensor), whose sizes are read from their shapes.

    :raises PrepError: if a parameter is missing or has another shape; ``source`` is named.
    """
    names = "backbone.bottom_up.", "ins_head.", "mask_head."
    try:
        shape = {name: tuple(value.shape) for name, value in weights.items()}
        stem = shape[f"{names[0]}stem.conv1.weight"][0]
        width, _, _, _ = shape[f"{names[0]}res2.0.conv1.weight"]
        expansion = shape[f"{names[0]}res2.0.conv3.weight"][0] // width
        blocks = [sum(f"{names[0]}res{s}.{n}.conv1.weight" in shape for n in range(64)) for s in range(2, 6)]
        channels = shape["backbone.fpn_lateral2.weight"][0]
        classes, instance, _, _ = shape[f"{names[1]}cate_pred.weight"]
        kernels = shape[f"{names[1]}kernel_pred.weight"][0]
        convs = sum(f"{names[1]}cate_tower.{3 * n}.weight" in shape for n in range(16))
        masks, mask, _, _ = shape[f"{names[2]}conv_pred.0.weight"]
        resnet = ResNet(stem, width, blocks, expansion)
        pyramid = Pyramid(resnet, [(width << stage) * expansion for stage in range(4)], channels)
        head = InstanceHead(channels, instance, classes, kernels, convs)
        network = Network(pyramid, head, MaskHead(channels, mask, masks))
        wanted = network.state_dict()
        network.load_state_dict({name: weights[name] for name in wanted})
    except (KeyError, AttributeError, ValueError, IndexError, RuntimeError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise PrepError(
            f"{source} contains no FreeSOLO weights that fit: {type(error).__name__}: {reason}.",
            "Set --checkpoint to the trained model of NVlabs/FreeSOLO.",
        ) from error
    return network.eval()


def _tower(inputs: int, channels: int, convs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for at in range(convs):
        layers += _convolution(channels if at else inputs, channels)
    return nn.Sequential(*layers)


def _level(inputs: int, channels: int, level: int) -> nn.Sequential:
    """Level 0: one convolution; level n: n times a convolution and a doubling of the size."""
    found = nn.Sequential()
    for at in range(max(1, level)):
        found.add_module(f"conv{at}", nn.Sequential(*_convolution(channels if at else inputs, channels)))
        if level:
            found.add_module(f"upsample{at}", nn.Upsample(scale_factor=2, mode="bilinear"))
    return found


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.GroupNorm(GROUPS, outputs), nn.ReLU()]

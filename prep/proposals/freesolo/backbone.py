"""The ResNet with feature pyramid of FreeSOLO, with detectron2's parameter names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class FrozenNorm(nn.Module):
    """Batch norm with fixed statistics, eps 1e-5 (detectron2/layers/batch_norm.py, ``FrozenBatchNorm2d``)."""

    weight: torch.Tensor
    bias: torch.Tensor
    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """B x C x H x W, float32, to the same shape."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=1e-5)


class NormedConv(nn.Conv2d):
    """A convolution without bias, followed by its ``norm``."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm = FrozenNorm(outputs)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """B x C x H x W, float32, to the convolved and normalised map."""
        normed: torch.Tensor = self.norm(super().forward(input))
        return normed


class Block(nn.Module):
    """A bottleneck; the 3 x 3 convolution has the stride (freesolo_30k.yaml:11, STRIDE_IN_1X1 False)."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.shortcut = NormedConv(inputs, outputs, 1, stride) if inputs != outputs else None
        self.conv1 = NormedConv(inputs, width, 1)
        self.conv2 = NormedConv(width, width, 3, stride)
        self.conv3 = NormedConv(width, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """B x C x H x W, float32, to the block's output."""
        out = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(out + (x if self.shortcut is None else self.shortcut(x)))


class Stem(nn.Module):
    """The first 7 x 7 convolution and the max pooling: stride 4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = NormedConv(3, width, 7, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """B x 3 x H x W, float32, to B x width x H/4 x W/4."""
        return F.max_pool2d(F.relu(self.conv1(x)), 3, 2, 1)


class ResNet(nn.Module):
    """Stages ``res2`` to ``res5`` of strides 4, 8, 16 and 32 (detectron2/modeling/backbone/resnet.py)."""

    def __init__(self, stem: int, width: int, blocks: Sequence[int], expansion: int) -> None:
        super().__init__()
        self.stem = Stem(stem)
        inputs = stem
        for stage, number in enumerate(blocks):
            middle = width << stage
            outputs = middle * expansion
            built = [
                Block(inputs if at == 0 else outputs, middle, outputs, 2 if at == 0 and stage else 1)
                for at in range(number)
            ]
            self.add_module(f"res{stage + 2}", nn.Sequential(*built))
            inputs = outputs

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """B x 3 x H x W, float32, to the maps of the four stages."""
        x, found = self.stem(x), []
        for stage in ("res2", "res3", "res4", "res5"):
            x = self.get_submodule(stage)(x)
            found.append(x)
        return found


class Pyramid(nn.Module):
    """The feature pyramid p2 to p6 (detectron2/modeling/backbone/fpn.py:130-200), summed, without norms."""

    def __init__(self, bottom_up: ResNet, inputs: Sequence[int], channels: int) -> None:
        super().__init__()
        self.bottom_up = bottom_up
        for level, each in enumerate(inputs, 2):
            self.add_module(f"fpn_lateral{level}", nn.Conv2d(each, channels, 1))
            self.add_module(f"fpn_output{level}", nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """B x 3 x H x W, sides multiples of 32, to p2 to p6 (strides 4 to 64)."""
        stages = self.bottom_up(x)
        found: list[torch.Tensor] = []
        above = None
        for level in (5, 4, 3, 2):
            here = self.get_submodule(f"fpn_lateral{level}")(stages[level - 2])
            above = here if above is None else here + F.interpolate(above, scale_factor=2.0, mode="nearest")
            found.insert(0, self.get_submodule(f"fpn_output{level}")(above))
        return [*found, F.max_pool2d(found[-1], 1, 2)]

"""The network against torchvision's ResNet, and its names against those of the released checkpoint."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torchvision.models.resnet import Bottleneck
from torchvision.models.resnet import ResNet as Reference

from prep.errors import PrepError
from prep.proposals.freesolo.backbone import ResNet
from prep.proposals.freesolo.network import Network, build, with_coordinates


def _torchvision_name(name: str) -> str:
    name = name.replace("stem.conv1.norm", "bn1").replace("stem.", "")
    for at in range(1, 5):
        name = name.replace(f"res{at + 1}.", f"layer{at}.")
    for at in range(1, 4):
        name = name.replace(f"conv{at}.norm", f"bn{at}")
    return name.replace("shortcut.norm", "downsample.1").replace("shortcut.", "downsample.0.")


def test_backbone_equals_torchvision() -> None:
    torch.manual_seed(1)
    ours, reference = ResNet(64, 64, (2, 1, 2, 1), 4).eval(), Reference(Bottleneck, [2, 1, 2, 1]).eval()
    weights = {name: value + 0.1 * torch.rand_like(value) for name, value in ours.state_dict().items()}
    ours.load_state_dict(weights)
    named = {_torchvision_name(name): value for name, value in weights.items()}
    missing = reference.load_state_dict(named, strict=False)
    assert not missing.unexpected_keys
    assert set(missing.missing_keys) == {"fc.weight", "fc.bias"}
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        found = ours(x)
        y = reference.maxpool(reference.relu(reference.bn1(reference.conv1(x))))
        for level, layer in zip(found, ("layer1", "layer2", "layer3", "layer4"), strict=True):
            y = getattr(reference, layer)(y)
            torch.testing.assert_close(level, y)


def test_pyramid_adds_the_enlarged_level_above(network: Network) -> None:
    pyramid = network.backbone
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        c = pyramid.bottom_up(x)
        lateral = [getattr(pyramid, f"fpn_lateral{n}")(each) for n, each in enumerate(c, 2)]
        for at in (2, 1, 0):
            lateral[at] = lateral[at] + lateral[at + 1].repeat_interleave(2, 2).repeat_interleave(2, 3)
        expected = [getattr(pyramid, f"fpn_output{n}")(each) for n, each in enumerate(lateral, 2)]
        found = pyramid(x)
    for one, other in zip(found, [*expected, expected[-1][:, :, ::2, ::2]], strict=True):
        torch.testing.assert_close(one, other)


def test_coordinates_are_x_then_y() -> None:
    found = with_coordinates(torch.zeros(1, 1, 2, 3))
    assert found[0, 1].tolist() == [[-1, 0, 1], [-1, 0, 1]]
    assert found[0, 2].tolist() == [[-1, -1, -1], [1, 1, 1]]


def test_instance_head_takes_coordinates_for_kernels_only(network: Network) -> None:
    head = network.ins_head
    levels = [torch.randn(1, 32, side, side + 4) for side in (48, 40, 20, 10, 10)]
    with torch.inference_mode():
        scores, kernels = head(levels)
        for at, side in enumerate((40, 36, 24, 16, 12)):
            plain = F.interpolate(levels[at], size=(side, side), mode="bilinear")
            both = F.interpolate(with_coordinates(levels[at]), size=(side, side), mode="bilinear")
            torch.testing.assert_close(scores[at], head.cate_pred(head.cate_tower(plain)))
            torch.testing.assert_close(kernels[at], head.kernel_pred(head.kernel_tower(both)))


def test_mask_head_adds_four_levels(network: Network) -> None:
    head = network.mask_head
    levels = [torch.randn(1, 32, 64 >> n, 32 >> n) for n in range(4)]
    with torch.inference_mode():
        total = head.convs_all_levels[0].conv0(levels[0])
        for n in (1, 2, 3):
            x = with_coordinates(levels[3]) if n == 3 else levels[n]
            for at in range(n):
                x = getattr(head.convs_all_levels[n], f"conv{at}")(x)
                x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            total = total + x
        torch.testing.assert_close(head(levels), head.conv_pred(total))


def test_names_and_shapes_are_those_of_the_release() -> None:
    weights = _released_shapes()
    network = build(weights, "the release")
    state = network.state_dict()
    assert set(state) == set(weights)
    assert sum(value.numel() for value in state.values()) > 60_000_000


def _released_shapes() -> dict[str, Any]:
    """Names and shapes as the released code builds them for R-101, written down by hand from it."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, outputs: int, inputs: int, kernel: int, norm: bool) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs, kernel, kernel)
        for part in ("weight", "bias", "running_mean", "running_var") if norm else ():
            shapes[f"{name}.norm.{part}"] = (outputs,)
        if not norm:
            shapes[f"{name}.bias"] = (outputs,)

    def tower(name: str, outputs: int, inputs: int, kernel: int = 3) -> None:
        shapes[f"{name}0.weight" if name.endswith(".") else name] = (outputs, inputs, kernel, kernel)

    conv("backbone.bottom_up.stem.conv1", 64, 3, 7, True)
    before = 64
    for stage, (number, width) in enumerate(((3, 64), (4, 128), (23, 256), (3, 512)), 2):
        for at in range(number):
            name = f"backbone.bottom_up.res{stage}.{at}"
            if at == 0:
                conv(f"{name}.shortcut", width * 4, before, 1, True)
            conv(f"{name}.conv1", width, before, 1, True)
            conv(f"{name}.conv2", width, width, 3, True)
            conv(f"{name}.conv3", width * 4, width, 1, True)
            before = width * 4
        conv(f"backbone.fpn_lateral{stage}", 256, before, 1, False)
        conv(f"backbone.fpn_output{stage}", 256, 256, 3, False)

    def normed(name: str, follows: str, outputs: int, inputs: int, kernel: int = 3) -> None:
        tower(f"{name}.weight", outputs, inputs, kernel)
        shapes[f"{follows}.weight"] = shapes[f"{follows}.bias"] = (outputs,)

    for branch, extra in (("cate", 0), ("kernel", 2)):
        for at in (0, 3, 6, 9):
            name = f"ins_head.{branch}_tower"
            normed(f"{name}.{at}", f"{name}.{at + 1}", 512, 512 if at else 256 + extra)
    conv("ins_head.cate_pred", 2, 512, 3, False)
    conv("ins_head.kernel_pred", 256, 512, 3, False)
    for level, number in enumerate((1, 1, 2, 3)):
        for at in range(number):
            name = f"mask_head.convs_all_levels.{level}.conv{at}"
            normed(f"{name}.0", f"{name}.1", 128, 128 if at else 256 + 2 * (level == 3))
    normed("mask_head.conv_pred.0", "mask_head.conv_pred.1", 256, 128, 1)
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def test_other_weights_are_refused(network: Network) -> None:
    state = dict(network.state_dict())
    with pytest.raises(PrepError, match=r"x\.pth contains no FreeSOLO weights"):
        build({"image_encoder.pos_embed": torch.zeros(1)}, "x.pth")
    with pytest.raises(PrepError, match="fpn_output4"):
        build({name: value for name, value in state.items() if name != "backbone.fpn_output4.bias"}, "x.pth")
    with pytest.raises(PrepError, match="res4"):
        build({**state, "backbone.bottom_up.res4.0.conv2.weight": torch.zeros(1)}, "x.pth")
    with pytest.raises(PrepError, match="no FreeSOLO weights"):
        build({**state, "ins_head.cate_pred.weight": 3}, "x.pth")

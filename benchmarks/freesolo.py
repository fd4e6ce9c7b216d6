"""Compares FreeSOLO's network and masks with mmdet's SOLOv2 on the same seeded random weights.

The weights have the shapes of the release (ResNet-101, two classes). Printed: the largest difference of each
part, relative to the part's largest value, and how many masks of the two are equal, in order.

Needs mmdet 3.3 with mmcv-lite or mmcv, mmengine and torch, in an environment of their own; this project is
read from its folder:

pip install mmdet==3.3.0 mmcv-lite mmengine && python benchmarks/freesolo.py
"""

from __future__ import annotations

import argparse
import re
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prep.proposals.freesolo.backbone import Pyramid, ResNet
from prep.proposals.freesolo.inference import enlarge, matrix_nms, points_nms, select
from prep.proposals.freesolo.network import GRIDS, STRIDES, InstanceHead, MaskHead, Network
from prep.proposals.freesolo.settings import FreeSoloSettings

CHANNELS = (256, 512, 1024, 2048)
MASKS = "head.mask_feature_head"
# The names in mmdet of our parameters, which are the release's.
NAMES = (
    (r"backbone\.bottom_up\.stem\.conv1\.norm\.", "backbone.bn1."),
    (r"backbone\.bottom_up\.stem\.conv1\.", "backbone.conv1."),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.conv(\d)\.norm\.", r"backbone.layer<\1>.\2.bn\3."),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.conv(\d)\.", r"backbone.layer<\1>.\2.conv\3."),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut\.norm\.", r"backbone.layer<\1>.\2.downsample.1."),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut\.", r"backbone.layer<\1>.\2.downsample.0."),
    (r"backbone\.fpn_lateral(\d)\.", r"neck.lateral_convs.[\1].conv."),
    (r"backbone\.fpn_output(\d)\.", r"neck.fpn_convs.[\1].conv."),
    (r"ins_head\.cate_pred\.", "head.conv_cls."),
    (r"ins_head\.kernel_pred\.", "head.conv_kernel."),
    (r"mask_head\.convs_all_levels\.(\d)\.conv(\d)\.0\.", rf"{MASKS}.convs_all_levels.\1.conv\2.conv."),
    (r"mask_head\.convs_all_levels\.(\d)\.conv(\d)\.1\.", rf"{MASKS}.convs_all_levels.\1.conv\2.gn."),
    (r"mask_head\.conv_pred\.0\.", f"{MASKS}.conv_pred.conv."),
    (r"mask_head\.conv_pred\.1\.", f"{MASKS}.conv_pred.gn."),
)  # fmt: skip


def load_mmdet() -> Any:
    """mmdet's modules; its compiled operations, which SOLOv2 does not use, are replaced where they lack."""
    try:
        import mmcv
    except ModuleNotFoundError:
        raise SystemExit(
            "Install mmdet in an environment of its own first: see the top of this file."
        ) from None
    mmcv.__version__ = "2.1.0"  # mmdet 3.3 refuses 2.2
    try:
        import mmcv.ops
    except ModuleNotFoundError:
        for name in ("", ".nms", ".carafe", ".merge_cells", ".roi_align", ".modulated_deform_conv"):
            sys.modules[f"mmcv.ops{name}"] = _Absent(f"mmcv.ops{name}")
        mmcv.ops = sys.modules["mmcv.ops"]
        import mmcv.cnn.bricks.transformer as bricks

        bricks.MultiScaleDeformableAttention = type("MultiScaleDeformableAttention", (), {})
    from mmdet.models.backbones.resnet import ResNet as MmResNet
    from mmdet.models.dense_heads.solov2_head import SOLOV2Head
    from mmdet.models.necks.fpn import FPN

    return MmResNet, FPN, SOLOV2Head


class _Absent(types.ModuleType):
    """A module whose names are empty classes."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__ = []
        self.__spec__ = ModuleSpec(name, None)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def random_network(seed: int) -> Network:
    """Our network in the released shapes, with scores around one half and masks that vary."""
    torch.manual_seed(seed)
    pyramid = Pyramid(ResNet(64, 64, (3, 4, 23, 3), 4), CHANNELS, 256)
    network = Network(pyramid, InstanceHead(256, 512, 2, 256, 4), MaskHead(256, 128, 256)).eval()
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif name.endswith(("norm.weight", "norm.bias", "running_mean")):
            value.add_(torch.randn_like(value) * 0.1)
    network.ins_head.cate_pred.weight.data.mul_(4)
    network.ins_head.kernel_pred.weight.data.mul_(4)
    return network


def theirs(settings: FreeSoloSettings) -> torch.nn.Module:
    """mmdet's backbone, neck and head with the settings of FreeSOLO."""
    from mmengine.config import ConfigDict

    backbone, neck, head = load_mmdet()
    norm = {"type": "GN", "num_groups": 32}
    features = {"feat_channels": 128, "start_level": 0, "end_level": 3, "out_channels": 256, "mask_stride": 4}
    test = {
        "nms_pre": settings.nms_pre, "score_thr": settings.score_thr, "mask_thr": settings.mask_thr,
        "filter_thr": settings.update_thr, "kernel": settings.nms_kernel, "sigma": settings.nms_sigma,
        "max_per_img": settings.max_per_img,
    }  # fmt: skip
    model = torch.nn.Module()
    model.backbone = backbone(depth=101, style="pytorch", norm_eval=True)
    model.neck = neck(in_channels=list(CHANNELS), out_channels=256, num_outs=5)
    model.head = head(
        num_classes=2, in_channels=256, feat_channels=512, stacked_convs=4, strides=list(STRIDES),
        num_grids=list(GRIDS), norm_cfg=norm, cls_down_index=0, dynamic_conv_size=1,
        mask_feature_head={**features, "norm_cfg": norm}, test_cfg=ConfigDict(test),
        loss_mask={"type": "DiceLoss"}, loss_cls={"type": "FocalLoss", "use_sigmoid": True},
    )  # fmt: skip
    return model.eval()


def renamed(name: str) -> str:
    """Our parameter's name in mmdet."""
    if found := re.match(r"ins_head\.(cate|kernel)_tower\.(\d+)\.(\w+)", name):
        tower = {"cate": "cls", "kernel": "kernel"}[found[1]]
        return f"head.{tower}_convs.{int(found[2]) // 3}.{('conv', 'gn')[int(found[2]) % 3]}.{found[3]}"
    for pattern, other in NAMES:
        if re.match(pattern, name):
            name = re.sub(pattern, other, name, count=1)
            name = re.sub(r"<(\d)>", lambda level: str(int(level[1]) - 1), name)
            return re.sub(r"\[(\d)\]", lambda level: str(int(level[1]) - 2), name)
    raise KeyError(name)


def told(what: str, ours: list[Any], others: list[Any]) -> None:
    """Print the largest difference of some tensors."""
    for at, (one, other) in enumerate(zip(ours, others, strict=True)):
        label = what if len(ours) == 1 else f"{what} {at}"
        apart = float((one - other).abs().max() / other.abs().max().clamp(min=1e-12))
        print(f"{label:28s} {tuple(one.shape)!s:24s} {apart:.1e}")
        if not apart < 1e-5:
            raise SystemExit(f"FAILED: {label} differs.")


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, nargs=2, default=[640, 800], help="height and width shown")
    given = parser.parse_args()
    settings = FreeSoloSettings()
    other, network = theirs(settings), random_network(given.seed)
    weights = {renamed(name): value for name, value in network.state_dict().items()}
    missing, unexpected = other.load_state_dict(weights, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    print(
        f"parameters: {len(weights)} of ours, {len(missing)} of theirs without one, {len(unexpected)} unknown"
    )
    height, width = given.size
    coarse = torch.randn(1, 3, height // 16, width // 16, generator=torch.Generator().manual_seed(1))
    image = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")

    stages = network.backbone.bottom_up(image)
    their_stages = other.backbone(image)
    told("backbone, stage", stages, list(their_stages))
    levels, their_levels = network.backbone(image), other.neck(their_stages)
    told("pyramid, level", levels, list(their_levels))
    logits, kernels, features = network(image)
    their_kernels, their_logits, their_features = other.head(their_levels)
    told("category logits, level", logits, list(their_logits))
    told("kernels, level", kernels, list(their_kernels))
    told("mask features", [features], [their_features])

    from mmdet.models.layers.matrix_nms import mask_matrix_nms

    scores = torch.rand(60, generator=torch.Generator().manual_seed(2)).sort(descending=True).values
    masks = torch.nn.functional.interpolate(torch.randn(1, 60, 6, 8), size=(48, 64), mode="bicubic")[0] > 0.3
    labels = torch.arange(60) % 2
    for kernel in ("gaussian", "linear"):
        expected = mask_matrix_nms(masks, labels, scores.clone(), kernel=kernel, sigma=2.0)[0]
        found = matrix_nms(labels, masks, scores, kernel, 2.0).sort(descending=True).values
        told(f"matrix NMS, {kernel}", [found], [expected])
    # Both selections get the same inputs, so that one rounding cannot decide whether a mask is there.
    meta = {"img_shape": (height, width), "ori_shape": (height - 37, width - 41)}
    nms = [points_nms(one.sigmoid()) for one in logits]
    their_nms = [one.clone() for one in logits]  # mmdet replaces them by its scores
    result = other.head.predict_by_feat(
        [one.clone() for one in kernels], their_nms, features, batch_img_metas=[meta]
    )[0]
    told("points NMS, level", nms, [one.permute(0, 3, 1, 2) for one in their_nms])
    soft, found = select(logits, kernels, features, settings)
    ours = enlarge(soft, (height, width), meta["ori_shape"], settings.mask_thr)
    equal = sum(bool((one == mask).all()) for one, mask in zip(ours, result.masks, strict=False))
    points = sum(int((one > settings.score_thr).sum()) for one in nms)
    print(f"masks: {equal} of {len(result.masks)} equal in order, of {points} points; ours {len(ours)}")
    told("scores", [found], [result.scores])
    if not equal == len(ours) == len(result.masks):
        raise SystemExit("FAILED: masks differ.")


if __name__ == "__main__":
    main()

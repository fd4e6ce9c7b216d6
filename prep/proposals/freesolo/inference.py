"""Turns the outputs of FreeSOLO's network into masks with scores: points NMS, mask scores and matrix NMS."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from prep.proposals.freesolo.network import GRIDS, STRIDES
from prep.proposals.freesolo.settings import FreeSoloSettings


def points_nms(scores: torch.Tensor) -> torch.Tensor:
    """Scores (B x C x S x S) with 0 where one above, left or above left is greater (utils.py:166-170)."""
    highest = F.max_pool2d(scores, 2, stride=1, padding=1)[:, :, :-1, :-1]
    return scores * (highest == scores)


def matrix_nms(
    labels: torch.Tensor, masks: torch.Tensor, scores: torch.Tensor, kernel: str, sigma: float
) -> torch.Tensor:
    """Decayed scores (N) of boolean masks (N x H x W) in descending order of score (utils.py:172-214).

    A mask's decay is the smallest, over the better masks of its label, of f(IoU) / f(the largest IoU of that
    mask with masks better than it); f is exp(-sigma x^2) or 1 - x. SOLOv2, equations 4 to 6.
    """
    flat = masks.flatten(1).float()
    area = flat.sum(1)
    common = flat @ flat.T
    iou = (common / (area[:, None] + area[None] - common)).triu(1) * (labels[:, None] == labels[None])
    largest = iou.max(0).values[:, None]
    if kernel == "linear":
        decay = (1 - iou) / (1 - largest)
    else:
        decay = torch.exp(-sigma * iou**2) / torch.exp(-sigma * largest**2)
    return scores * decay.min(0).values


def select(
    logits: list[torch.Tensor],
    kernels: list[torch.Tensor],
    features: torch.Tensor,
    settings: FreeSoloSettings,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (N x H/4 x W/4) and scores (N) of one image's masks, best first (solov2.py:543-681).

    ``logits`` (1 x classes x S x S) and ``kernels`` (1 x K x S x S) are given per level, ``features`` is
    1 x K x H/4 x W/4.
    """
    scores = torch.cat([points_nms(each.sigmoid())[0].flatten(1).T for each in logits])
    every = torch.cat([each[0].flatten(1).T for each in kernels])
    where, labels = (scores > settings.score_thr).nonzero(as_tuple=True)
    found = scores[where, labels]
    # A mask smaller than the stride of its level, in pixels of the mask features, is dropped.
    least = torch.cat(
        [found.new_full((side * side,), float(s)) for side, s in zip(GRIDS, STRIDES, strict=True)]
    )
    soft = F.conv2d(features, every[where][:, :, None, None])[0].sigmoid() if len(where) else features[0, :0]
    hard = soft > settings.mask_thr
    area = hard.sum((1, 2))
    kept = area > least[where]
    soft, hard, labels, found, area = soft[kept], hard[kept], labels[kept], found[kept], area[kept]
    found = found * ((soft * hard).sum((1, 2)) / area)  # times maskness
    order = torch.argsort(found, descending=True)[: settings.nms_pre]
    soft, hard, labels, found = soft[order], hard[order], labels[order], found[order]
    if not len(found):
        return soft, found
    found = matrix_nms(labels, hard, found, settings.nms_kernel, settings.nms_sigma)
    kept = found >= settings.update_thr
    soft, found = soft[kept], found[kept]
    order = torch.argsort(found, descending=True)[: settings.max_per_img]
    return soft[order], found[order]


def enlarge(
    soft: torch.Tensor, shown: tuple[int, int], size: tuple[int, int], threshold: float
) -> torch.Tensor:
    """Boolean masks (N x height x width) of ``size`` from probabilities at stride 4 (solov2.py:683-693).

    ``shown`` is the height and width of the resized image within its padding.
    """
    height, width = soft.shape[-2:]
    ratio = max(math.ceil(shown[0] / height), math.ceil(shown[1] / width))
    large = F.interpolate(soft[None], size=(height * ratio, width * ratio), mode="bilinear")
    large = large[:, :, : shown[0], : shown[1]]
    return F.interpolate(large, size=size, mode="bilinear")[0] > threshold

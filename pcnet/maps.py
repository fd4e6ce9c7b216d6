"""Normalises response maps, resizes them to the proposals' grid and computes alignment scores."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-5
# A proposal that covers more than this share of the image border is background.
BACKGROUND = 0.5


def normalised(response: Tensor) -> Tensor:
    """R = Norm(ReLU(response)) in [0, 1]: (..., h, w) divided by its maximum; a map without positive values
    stays 0.
    """
    positive = response.relu()
    return positive / positive.amax((-2, -1), keepdim=True).clamp(min=EPSILON)


def released_map(response: Tensor, size: tuple[int, int]) -> Tensor:
    """(B,C,h,w) responses at the size of the network's input as the released code scores them: after ReLU,
    enlarged to ``size`` (H,W) with the corner pixels aligned, and divided by the maximum + 1e-5.
    """
    positive = F.interpolate(response.relu(), size=size, mode="bilinear", align_corners=True)
    return positive / (positive.amax((-2, -1), keepdim=True) + EPSILON)


def on_grid(maps: Tensor, grid: Tensor) -> Tensor:
    """(B,1,h,w) maps resized bilinearly to the grid of the (B,M,g,g) proposals."""
    return F.interpolate(maps, size=grid.shape[-2:], mode="bilinear", align_corners=False)


def alignment(response: Tensor, grid: Tensor) -> Tensor:
    """s_p = max(R * m_p) (paper §3.3): (B,1,g,g) maps and (B,M,g,g) proposals -> (B,M)."""
    return (response * grid).flatten(2).amax(-1)


def real(grid: Tensor) -> Tensor:
    """(B,M) bool, true where a proposal is not padding."""
    return grid.flatten(2).any(-1)


def edge_share(grid: Tensor) -> Tensor:
    """(B,M,g,g) proposals -> (B,M): the share of each proposal's outline on the image border, in [0, 1].

    The outline is the set of the proposal's cells without a neighbour of the proposal on all four sides.
    """
    mask = grid > 0.5
    middle = mask[..., 1:-1, 1:-1]
    inner = torch.zeros_like(mask)
    inner[..., 1:-1, 1:-1] = (
        middle & mask[..., :-2, 1:-1] & mask[..., 2:, 1:-1] & mask[..., 1:-1, :-2] & mask[..., 1:-1, 2:]
    )
    on_edge = mask & ~inner
    total = on_edge.flatten(2).sum(-1)
    within = on_edge[..., 1:-1, 1:-1].flatten(2).sum(-1)
    return (total - within) / total.clamp(min=1)


def is_thin(grid: Tensor) -> Tensor:
    """(B,M,g,g) proposals -> (B,M) bool: true if no block of 2 x 2 cells contains three of its cells, as for
    the rim of an object.
    """
    mask = grid > 0.5
    left, right = mask[..., :-1], mask[..., 1:]
    both, either = left & right, left | right
    three = (both[..., :-1, :] & either[..., 1:, :]) | (either[..., :-1, :] & both[..., 1:, :])
    return ~three.flatten(2).any(-1)


def without_background(grid: Tensor) -> Tensor:
    """(B,M,g,g) proposals -> the same with those set to 0 that cover more than half of the image border."""
    mask = grid > 0.5
    border = mask.flatten(2).sum(-1) - mask[..., 1:-1, 1:-1].flatten(2).sum(-1)
    cells = 2 * (mask.shape[-1] + mask.shape[-2]) - 4
    return grid * (border <= BACKGROUND * cells)[:, :, None, None]


def inside_union(grid: Tensor, size: tuple[int, int], edge: float = 1.0) -> Tensor:
    """(B,1,h,w) bool: the positions where an object may be; everywhere if an image has none.

    With ``edge`` = 1, these are all positions that a proposal overlaps. But a generator may segment the
    background too, and then the union of all proposals would be the whole image. So with ``edge`` < 1,
    proposals with more than ``edge`` of their outline on the image border are excluded as background, thin
    ones are excluded as rims, and of the others only the positions that each covers most count: the interior
    of a large one, a single position of a small one.
    """
    if edge >= 1:
        union = F.adaptive_max_pool2d(grid.amax(1, keepdim=True), size) > 0
    else:
        objects = real(grid) & (edge_share(grid) <= edge) & ~is_thin(grid)
        covered = F.adaptive_avg_pool2d(grid, size)
        best = covered >= covered.amax((-2, -1), keepdim=True) - EPSILON
        union = (best & objects[:, :, None, None]).any(1, keepdim=True)
    return union | ~union.flatten(1).any(1).view(-1, 1, 1, 1)

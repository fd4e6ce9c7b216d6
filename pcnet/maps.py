"""Response maps against proposals: normalising, resizing to the proposals' grid, and alignment scores."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-5


def normalised(response: Tensor) -> Tensor:
    """R = Norm(ReLU(response)) in [0, 1]: (..., h, w) over its maximum; a map without positives stays 0."""
    positive = response.relu()
    return positive / positive.amax((-2, -1), keepdim=True).clamp(min=EPSILON)


def on_grid(maps: Tensor, grid: Tensor) -> Tensor:
    """(B,1,h,w) maps on the proposals' (B,M,g,g) grid, bilinear."""
    return F.interpolate(maps, size=grid.shape[-2:], mode="bilinear", align_corners=False)


def alignment(response: Tensor, grid: Tensor) -> Tensor:
    """s_p = max(R * m_p) (paper §3.3): (B,1,g,g) maps and (B,M,g,g) proposals -> (B,M)."""
    return (response * grid).flatten(2).amax(-1)


def real(grid: Tensor) -> Tensor:
    """(B,M) bool, true where a proposal is not padding."""
    return grid.flatten(2).any(-1)


def edge_share(grid: Tensor) -> Tensor:
    """(B,M,g,g) proposals -> (B,M): the share of each one's outline that lies on the image's edge, in [0, 1].

    The outline are the cells that are not surrounded by the proposal's own on all four sides.
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
    """(B,M,g,g) proposals -> (B,M) bool: no block of 2 x 2 cells has three of them, as in the rim of an
    object.
    """
    mask = grid > 0.5
    left, right = mask[..., :-1], mask[..., 1:]
    both, either = left & right, left | right
    three = (both[..., :-1, :] & either[..., 1:, :]) | (either[..., :-1, :] & both[..., 1:, :])
    return ~three.flatten(2).any(-1)


def inside_union(grid: Tensor, size: tuple[int, int], edge: float = 1.0) -> Tensor:
    """(B,1,h,w) bool: the places where an object may be; everywhere in an image without any.

    With ``edge`` = 1 those that some proposal touches. Below it, the generator may have segmented the ground
    too, and the union of all proposals would be the whole image. Then proposals with more than ``edge`` of
    their outline on the image's edge are passed over as ground, thin ones as rims, and of the others only the
    places that each covers best count: a large one's interior, the one place of a small one.
    """
    if edge >= 1:
        union = F.adaptive_max_pool2d(grid.amax(1, keepdim=True), size) > 0
    else:
        objects = real(grid) & (edge_share(grid) <= edge) & ~is_thin(grid)
        covered = F.adaptive_avg_pool2d(grid, size)
        best = covered >= covered.amax((-2, -1), keepdim=True) - EPSILON
        union = (best & objects[:, :, None, None]).any(1, keepdim=True)
    return union | ~union.flatten(1).any(1).view(-1, 1, 1, 1)

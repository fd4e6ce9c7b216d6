"""Measures how sure a response map is, without ground truth: its entropy and its margin between proposals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pcnet.metrics import Masks, Response, normalise

# Both are measured on at most this number of rows and columns, so that they cost little beside the IoU.
SIDE = 64


def confidence(response: Response, proposals: Masks | None, chosen: int | None) -> dict[str, float | None]:
    """The columns ``entropy`` and ``margin`` of an expression.

    ``response`` is the raw map (H, W), ``proposals`` are bool (H, W) each, ``chosen`` is the index of the
    selected one. Both values are computed on the pixels of a regular grid of at most ``SIDE`` x ``SIDE``.
    ``entropy`` is that of the positive part as a distribution over those pixels, divided by its largest
    possible value: 0 if one pixel responds, 1 if all respond equally, ``None`` if none does. ``margin`` is
    the soft IoU of the map with the chosen proposal minus the best soft IoU with another one; ``None`` with
    fewer than two. It is negative if a proposal that does not contain the peak fits the map better.
    """
    every = tuple(slice(None, None, math.ceil(side / SIDE)) for side in response.shape)
    soft = normalise(response[every])
    total = float(soft.sum())
    margin = None
    if proposals is not None and chosen is not None and len(proposals) > 1:
        merits = _soft_ious(soft, [mask[every] for mask in proposals])
        margin = float(merits[chosen] - np.delete(merits, chosen).max())
    return {"entropy": _entropy(soft / total) if total > 0 else None, "margin": margin}


def _entropy(shares: NDArray[np.float64]) -> float:
    """The entropy of shares that sum to one, relative to that of equal shares."""
    positive = shares[shares > 0]
    return float(-(positive * np.log(positive)).sum() / math.log(shares.size)) if shares.size > 1 else 0.0


def _soft_ious(soft: NDArray[np.float64], masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.float64]:
    """sum(soft in mask) / (sum(soft) + area - sum(soft in mask)) for each mask."""
    flat = np.stack(masks).reshape(len(masks), -1)
    inside = flat @ soft.ravel()
    union = soft.sum() + flat.sum(axis=1) - inside
    shares: NDArray[np.float64] = np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)
    return shares

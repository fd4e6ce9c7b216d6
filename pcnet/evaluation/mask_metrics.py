"""Sums up how predicted masks agree with the targets of a set of expressions, with or without a target."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from pcnet.metrics import overlap

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class MaskScore:
    """A predicted mask and its target, in pixels.

    ``target`` is the target's area, ``has_target`` false for an expression without one (gRefCOCO). ``silent``
    means that the map has no positive value: the expression is then taken to have no target.
    """

    intersection: int
    union: int
    target: int
    has_target: bool = True
    silent: bool = False

    @property
    def iou(self) -> float:
        """Intersection over union in [0, 1]; 0 if the union is empty."""
        return self.intersection / self.union if self.union else 0.0


def mask_score(predicted: Mask, truth: Mask, has_target: bool, silent: bool = False) -> MaskScore:
    """The score of a predicted mask, both bool (H, W)."""
    return MaskScore(*overlap(predicted, truth), int(np.count_nonzero(truth)), has_target, silent)


@dataclass(frozen=True, slots=True)
class MaskMetrics:
    """Metrics of masks in percent; ``n`` counts the expressions with a target, ``n_no_target`` the others.

    ``miou`` is the mean IoU and ``oiou`` the sum of intersections over the sum of unions, both over the
    expressions with a target; ``p50``, ``p70`` and ``p90`` are the shares of them with an IoU of at least
    0.5, 0.7 and 0.9. ``giou`` and ``ciou`` are the mean and the quotient of sums over all expressions, where
    a silent map predicts an empty mask: without a target its IoU is then 1, else 0. ``n_acc`` is the share of
    the expressions without a target whose map is silent (``None`` if there are none), ``t_acc`` the share of
    those with one whose map is not.
    """

    n: int
    miou: float
    oiou: float
    giou: float
    ciou: float
    p50: float
    p70: float
    p90: float
    n_no_target: int
    n_acc: float | None
    t_acc: float

    def as_dict(self) -> dict[str, float | int | None]:
        """The metrics by name."""
        return asdict(self)


def summarise_masks(scores: Iterable[MaskScore]) -> MaskMetrics:
    """Metrics over expressions; zeros if there are none."""
    rows = list(scores)
    targets = [s for s in rows if s.has_target]
    others = [s for s in rows if not s.has_target]
    generalised = [
        (s.iou if s.has_target else 0.0) if not s.silent else float(not s.has_target) for s in rows
    ]
    union = sum(s.union for s in targets)
    all_union = sum(s.target if s.silent else s.union for s in rows)
    shared = sum(s.intersection for s in targets)
    heard = sum(0 if s.silent else s.intersection for s in rows)
    return MaskMetrics(
        n=len(targets),
        miou=_percent(s.iou for s in targets),
        oiou=100.0 * shared / union if union else 0.0,
        giou=_percent(generalised),
        ciou=100.0 * heard / all_union if all_union else 0.0,
        p50=_percent(s.iou >= 0.5 for s in targets),
        p70=_percent(s.iou >= 0.7 for s in targets),
        p90=_percent(s.iou >= 0.9 for s in targets),
        n_no_target=len(others),
        n_acc=_percent(s.silent for s in others) if others else None,
        t_acc=_percent(not s.silent for s in targets),
    )


def _percent(values: Iterable[float | bool]) -> float:
    held = list(values)
    return 100.0 * float(sum(held)) / len(held) if held else 0.0

"""Scores response maps against ground-truth masks: pure functions of numpy arrays.

A response map is a float (H, W) array at image size with any finite values, higher where the network locates
the object. Ground truth and proposals are bool masks of the same size, origin top left, rows first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Masks = Sequence[Mask] | NDArray[np.bool_]  # (P, H, W), or a list of P masks
Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, x1 and y1 exclusive
Response = NDArray[np.floating]

NOWHERE: Box = (0, 0, 0, 0)
RELEASED_THRESHOLD = 1e-9  # foreground threshold of the released code, after ReLU and division by the maximum


def peak(response: Response) -> tuple[int, int]:
    """(row, column) of the first maximum in row-major order.

    Use it on the raw response: after ReLU, a map that is negative everywhere has its "peak" in the corner.
    """
    row, column = divmod(int(np.argmax(response)), response.shape[1])
    return row, column


def normalise(response: Response) -> NDArray[np.float64]:
    """ReLU, then division by the maximum: values in [0, 1]; all zero if nothing is positive."""
    positive = np.maximum(np.asarray(response, dtype=np.float64), 0.0)
    top = positive.max(initial=0.0)
    return positive / top if top > 0 else positive


def binarise(response: Response, threshold: float = RELEASED_THRESHOLD) -> Mask:
    """The predicted mask: where the normalised response exceeds ``threshold``."""
    return normalise(response) > threshold


def overlap(predicted: Mask, truth: Mask) -> tuple[int, int]:
    """(intersection, union) in pixels."""
    return int(np.count_nonzero(predicted & truth)), int(np.count_nonzero(predicted | truth))


def iou(predicted: Mask, truth: Mask) -> float:
    """Intersection over union in [0, 1]; 0 if the union is empty, as in the released code."""
    intersection, union = overlap(predicted, truth)
    return intersection / union if union else 0.0


def box_of(mask: Mask) -> Box | None:
    """The tight box of a mask as (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; ``None`` for an empty
    mask.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def box_iou(a: Box | None, b: Box | None) -> float:
    """IoU of two boxes as :func:`box_of` gives them; 0 if either is missing."""
    if a is None or b is None:
        return 0.0
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    total = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (total - shared)


def proposal_under_peak(response: Response, proposals: Masks) -> int | None:
    """Index of the proposal that the response selects, or ``None`` if there are no proposals.

    Among the proposals that contain the peak, this is the one with the largest soft IoU with the normalised
    response; ties go to the smaller one. Every proposal that contains the peak has the same maximum response,
    so under the released rule (largest maximum) the order of the list decides. If no proposal contains the
    peak, it is the one with the best soft IoU of all.
    """
    if not len(proposals):
        return None
    row, column = peak(response)
    soft = normalise(response)
    total = float(soft.sum())
    under = [i for i, mask in enumerate(proposals) if mask[row, column]]

    def merit(index: int) -> tuple[float, int]:
        mask = proposals[index]
        area = int(np.count_nonzero(mask))
        inside = float(soft[mask].sum())
        union = total + area - inside
        return (inside / union if union > 0 else 0.0, -area)

    return max(under or range(len(proposals)), key=merit)


def oracle_proposal(truth: Mask, proposals: Masks) -> int | None:
    """Index of the proposal with the best IoU with the ground truth: the oracle."""
    if not len(proposals):
        return None
    return max(range(len(proposals)), key=lambda i: iou(proposals[i], truth))


@dataclass(frozen=True, slots=True)
class SampleScore:
    """The metrics of one expression; IoU in [0, 1], areas in pixels.

    ``proposal_*`` are for the proposal selected by :func:`proposal_under_peak` and ``oracle_*`` for the best
    proposal; all are ``None`` without refinement. An image without proposals counts as an empty mask.
    """

    intersection: int
    union: int
    iou: float
    point: bool
    hit_box: bool
    box_iou: float
    empty: bool
    peak_y: int
    peak_x: int
    proposal: int | None = None
    proposal_intersection: int | None = None
    proposal_union: int | None = None
    proposal_iou: float | None = None
    oracle: int | None = None
    oracle_iou: float | None = None


def score_sample(
    response: Response,
    truth: Mask,
    proposals: Masks | None = None,
    threshold: float = RELEASED_THRESHOLD,
    boxes: Sequence[Box] = (),
) -> SampleScore:
    """Compute all metrics of one expression.

    ``response`` is the raw map (H, W), before any ReLU; ``truth`` bool (H, W); ``proposals`` bool (P, H, W)
    or ``None`` for no refinement; ``boxes`` are the boxes of Hit, by default the box of ``truth``. ``empty``
    means that no value of the response is positive.
    """
    row, column = peak(response)
    predicted = binarise(response, threshold)
    shared, union = overlap(predicted, truth)
    box = box_of(truth)
    chosen = best = shared_p = union_p = None
    if proposals is not None:
        chosen = proposal_under_peak(response, proposals)
        best = oracle_proposal(truth, proposals)
        nothing = np.zeros_like(truth)
        shared_p, union_p = overlap(nothing if chosen is None else proposals[chosen], truth)
    return SampleScore(
        intersection=shared,
        union=union,
        iou=shared / union if union else 0.0,
        point=bool(truth[row, column]),
        hit_box=any(x0 <= column < x1 and y0 <= row < y1 for x0, y0, x1, y1 in boxes or [box or NOWHERE]),
        box_iou=box_iou(box_of(predicted), box),
        empty=not bool((response > 0).any()),
        peak_y=row,
        peak_x=column,
        proposal=chosen,
        proposal_intersection=shared_p,
        proposal_union=union_p,
        proposal_iou=None
        if shared_p is None or union_p is None
        else (shared_p / union_p if union_p else 0.0),
        oracle=best,
        oracle_iou=None if proposals is None else (0.0 if best is None else iou(proposals[best], truth)),
    )


@dataclass(frozen=True, slots=True)
class Metrics:
    """Metrics over a set of expressions, in percent; ``n`` and ``empty`` are counts.

    ``miou`` is the mean of the samples' IoU, ``oiou`` the sum of intersections over the sum of unions,
    ``pointm`` the share of raw peaks inside the mask, ``hit`` inside its box, ``box_accuracy`` the share of
    predicted boxes with IoU above 0.5. ``proposal_*`` are the same with the proposal under the peak as the
    mask, and ``oracle_miou`` with the best proposal; images without proposals count with IoU 0.
    """

    n: int
    miou: float
    oiou: float
    pointm: float
    hit: float
    box_accuracy: float
    empty: int
    proposal_miou: float | None = None
    proposal_oiou: float | None = None
    oracle_miou: float | None = None

    def as_dict(self) -> dict[str, float | int | None]:
        """The metrics by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def summarise(samples: Iterable[SampleScore]) -> Metrics:
    """Metrics over samples; zeros if there are none."""
    rows = list(samples)
    n = len(rows)

    def percent(values: Iterable[float | bool]) -> float:
        return 100.0 * float(sum(values)) / n if n else 0.0

    refined = [s for s in rows if s.proposal_iou is not None]
    union = sum(s.union for s in rows)
    union_p = sum(s.proposal_union or 0 for s in refined)
    return Metrics(
        n=n,
        miou=percent(s.iou for s in rows),
        oiou=100.0 * sum(s.intersection for s in rows) / union if union else 0.0,
        pointm=percent(s.point for s in rows),
        hit=percent(s.hit_box for s in rows),
        box_accuracy=percent(s.box_iou > 0.5 for s in rows),
        empty=sum(s.empty for s in rows),
        proposal_miou=percent(s.proposal_iou or 0.0 for s in rows) if refined else None,
        proposal_oiou=(
            100.0 * sum(s.proposal_intersection or 0 for s in refined) / union_p if union_p else None
        ),
        oracle_miou=percent(s.oracle_iou or 0.0 for s in rows) if refined else None,
    )

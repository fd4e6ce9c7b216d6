"""What a response map is worth against a mask: pure functions of numpy arrays, no files and no model.

A response map is a float (H, W) array at the size of the image: any finite numbers, higher where the network
points. Truths and proposals are bool masks of the same frame, origin top left, rows first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Masks = Sequence[Mask] | NDArray[np.bool_]  # (P, H, W), or a list of P masks
Response = NDArray[np.floating]

RELEASED_THRESHOLD = (
    1e-9  # the published code calls foreground whatever is above this after ReLU and division by max
)


def peak(response: Response) -> tuple[int, int]:
    """(row, column) of the first maximum in row-major order.

    Take it on the raw response: after ReLU a map that is negative everywhere has its "peak" in the corner.
    """
    row, column = divmod(int(np.argmax(response)), response.shape[1])
    return row, column


def normalise(response: Response) -> NDArray[np.float64]:
    """ReLU, then division by the maximum: values in [0, 1]; all zero where nothing is positive."""
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
    """Intersection over union in [0, 1]; 0 where the union is empty, as the published code has it."""
    intersection, union = overlap(predicted, truth)
    return intersection / union if union else 0.0


def box_of(mask: Mask) -> tuple[int, int, int, int] | None:
    """The tight box of a mask as (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; ``None`` for an empty
    mask.
    """
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def box_iou(a: tuple[int, int, int, int] | None, b: tuple[int, int, int, int] | None) -> float:
    """IoU of two boxes as :func:`box_of` gives them; 0 where either is absent."""
    if a is None or b is None:
        return 0.0
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    total = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return shared / (total - shared)


def proposal_under_peak(response: Response, proposals: Masks) -> int | None:
    """Index of the proposal that the response chooses, or ``None`` where there is none to choose.

    Among the proposals that contain the peak, the one whose soft IoU with the normalised response is largest;
    the smaller one where two tie. Every proposal that contains the peak has the same maximum of response
    inside, so the published rule (largest maximum) leaves the choice to the order of the list. Where no
    proposal contains the peak, the best soft IoU of all decides.
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
    """Index of the proposal with the best IoU to the truth: the bound that the proposals set."""
    if not len(proposals):
        return None
    return max(range(len(proposals)), key=lambda i: iou(proposals[i], truth))


@dataclass(frozen=True, slots=True)
class SampleScore:
    """One expression's figures; IoU in [0, 1], areas in pixels.

    ``proposal_*`` are those of the mask chosen by :func:`proposal_under_peak` and ``oracle_*`` those of the
    best proposal; all ``None`` where refinement was left out. An image without proposals has an empty mask
    there.
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
) -> SampleScore:
    """Every figure of one expression.

    ``response`` is the raw map (H, W), before any ReLU; ``truth`` bool (H, W); ``proposals`` bool (P, H, W)
    or ``None`` to leave refinement out. ``empty`` says that nothing of the response is positive.
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
        hit_box=box is not None and box[0] <= column < box[2] and box[1] <= row < box[3],
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
    """Figures over a set of expressions, in percent; ``n`` and ``empty`` are counts.

    ``miou`` is the mean of the samples' IoU, ``oiou`` the sum of intersections over the sum of unions,
    ``pointm`` the share of raw peaks inside the mask, ``hit`` inside its box, ``box_accuracy`` the share of
    predicted boxes with IoU above 0.5. ``proposal_*`` are the same after the mask was replaced by the
    proposal under the peak and ``oracle_miou`` by the best proposal; images without proposals count there
    with IoU 0.
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
        """The figures by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def summarise(samples: Iterable[SampleScore]) -> Metrics:
    """Figures over samples; zeros where there are none."""
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

"""How the masks of one way of computing differ from those of another, on images done both ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as coco

from prep.proposals.sam_settings import SamSettings
from prep.records import Proposal

CLOSE = 0.99  # the IoU above which two masks are called close


@dataclass
class Differences:
    """Counts over a sample of images; ``margins`` says how near to a threshold what differs was.

    A mask of the exact way is paired with the most alike of the other way's masks from the same point.
    ``margins`` are, of each exact mask that is not close to its pair, the distance of its predicted IoU or
    its stability to the threshold that it passed, whichever is smaller.
    """

    images: int = 0
    count_changed: int = 0
    masks: int = 0
    identical: int = 0
    close: int = 0
    margins: list[float] = field(default_factory=list)

    def add(
        self,
        exact: Sequence[Proposal],
        other: Sequence[Proposal],
        size: tuple[int, int],
        settings: SamSettings,
    ) -> None:
        """Count one image of ``size`` (H, W)."""
        self.images += 1
        self.count_changed += len(exact) != len(other)
        self.masks += len(exact)
        by_point: dict[tuple[float, float] | None, list[Proposal]] = {}
        for proposal in other:
            by_point.setdefault(proposal.point, []).append(proposal)
        for proposal in exact:
            pairs = by_point.get(proposal.point, [])
            likeness = _ious(proposal, pairs, size)
            self.identical += any(pair.counts == proposal.counts for pair in pairs)
            if likeness > CLOSE:
                self.close += 1
            else:
                self.margins.append(_margin(proposal, settings))

    def summary(self) -> dict[str, Any]:
        """The shares, as plain JSON values (``None`` where there were no masks)."""
        return {
            "images": self.images,
            "images_with_another_count": _share(self.count_changed, self.images),
            "masks": self.masks,
            "identical": _share(self.identical, self.masks),
            "iou_above_0.99": _share(self.close, self.masks),
            "median_margin_of_the_rest": float(np.median(self.margins)) if self.margins else None,
            "largest_margin_of_the_rest": max(self.margins) if self.margins else None,
        }

    def __str__(self) -> str:
        if not self.masks:
            return f"{self.images} images compared with exact, no masks in them"
        rest = ""
        if self.margins:
            median, most = np.median(self.margins), max(self.margins)
            rest = f"; the others were {median:.4f} above their thresholds in the median, {most:.4f} at most"
        return (
            f"{self.images} images compared with exact: {self.identical / self.masks:.1%} "
            f"of {self.masks} masks identical, {self.close / self.masks:.1%} with IoU above {CLOSE}, "
            f"{self.count_changed} images with another number of masks{rest}"
        )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _ious(proposal: Proposal, pairs: Sequence[Proposal], size: tuple[int, int]) -> float:
    """The largest IoU of a mask with any of ``pairs``."""
    if not pairs:
        return 0.0
    encoded = [{"size": list(size), "counts": item.counts.encode()} for item in (proposal, *pairs)]
    return float(coco.iou(encoded[:1], encoded[1:], [0] * len(pairs)).max())


def _margin(proposal: Proposal, settings: SamSettings) -> float:
    """By how little the mask passed the generator's thresholds."""
    margins = [float("inf")]
    if settings.pred_iou_thresh > 0 and proposal.predicted_iou is not None:
        margins.append(proposal.predicted_iou - settings.pred_iou_thresh)
    if settings.stability_score_thresh > 0 and proposal.stability_score is not None:
        margins.append(proposal.stability_score - settings.stability_score_thresh)
    return min(margins)

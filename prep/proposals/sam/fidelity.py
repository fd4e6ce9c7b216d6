"""Counts how masks were computed, and how the masks of the fast and exact encoders differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypedDict

import numpy as np
from pycocotools import mask as coco

from prep.errors import PrepError
from prep.proposals.sam.settings import GridSettings
from prep.records import Proposal

CLOSE = 0.99  # the IoU above which two masks count as close
FAR = 0.9  # the IoU below which they are different masks
FEW = 4  # of fewer masks nothing is concluded

# What :meth:`Differences.summary` returns; a share is None if there were no masks.
Compared = TypedDict(
    "Compared",
    {
        "images": int,
        "images_with_another_count": float | None,
        "masks": int,
        "identical": float | None,
        "iou_above_0.99": float | None,
        "median_margin_of_the_rest": float | None,
        "largest_margin_of_the_rest": float | None,
    },
)


@dataclass
class Differences:
    """Counts over a sample of images; ``margins`` is how close to a threshold the differing masks were.

    An exact mask is paired with the most similar fast mask from the same point. ``margins`` has, for each
    exact mask that is not close to its pair, the distance of its predicted IoU or its stability from the
    threshold that it passed, whichever is smaller.
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
        settings: GridSettings,
    ) -> int:
        """Count one image of ``size`` (H, W); the number of exact masks without a fast one that is near."""
        far = 0
        self.images += 1
        self.count_changed += len(exact) != len(other)
        self.masks += len(exact)
        by_point: dict[tuple[float, float] | None, list[Proposal]] = {}
        for proposal in other:
            by_point.setdefault(proposal.point, []).append(proposal)
        for proposal in exact:
            pairs = by_point.get(proposal.point, [])
            likeness = _ious(proposal, pairs, size)
            far += likeness < FAR
            self.identical += any(pair.counts == proposal.counts for pair in pairs)
            if likeness > CLOSE:
                self.close += 1
            else:
                self.margins.append(_margin(proposal, settings))
        return far

    def join(self, counts: Mapping[str, object]) -> None:
        """Add the differences found by another worker, as ``asdict`` returns them."""
        for name, value in counts.items():
            setattr(self, name, getattr(self, name) + value)

    def summary(self) -> Compared:
        """The shares, as JSON values (``None`` if there were no masks)."""
        margins = [margin for margin in self.margins if np.isfinite(margin)]
        return {
            "images": self.images,
            "images_with_another_count": _share(self.count_changed, self.images),
            "masks": self.masks,
            "identical": _share(self.identical, self.masks),
            "iou_above_0.99": _share(self.close, self.masks),
            "median_margin_of_the_rest": float(np.median(margins)) if margins else None,
            "largest_margin_of_the_rest": max(margins) if margins else None,
        }

    def __str__(self) -> str:
        return _in_words(self.summary())


def refuse_wrong_masks(masks: int, far: int) -> None:
    """Raise :class:`PrepError` if ``far`` of an image's exact ``masks`` are most of them.

    Rounding does not make a mask another one, but wrong kernels do: bfloat16 convolutions and matrix products
    of CPU libraries have been wrong on single processors (pytorch/pytorch#163347,
    openvinotoolkit/openvino#38256).
    """
    if masks >= FEW and 2 * far > masks:
        raise PrepError(
            f"The masks of --fidelity fast are wrong on this machine: of the {masks} exact masks of an "
            f"image, {far} are missing or have an IoU below {FAR}.",
            "Use --fidelity exact.",
        )


class ExactnessStats:
    """The sum over all workers of the statistics on how masks were computed."""

    def __init__(self) -> None:
        self.measured = self.recomputed = 0
        self.differences = Differences()
        self.notes: set[str] = set()

    def add(self, said: Mapping[str, Any]) -> None:
        """Add what a generator's ``pop_stats`` returned, as JSON values; it may be empty."""
        self.measured += said.get("measured", 0)
        self.recomputed += said.get("recomputed", 0)
        self.differences.join(said.get("differences", {}))
        self.notes.update(said.get("notes", ()))

    def figures(self) -> dict[str, object]:
        """The sums and shares as JSON values; empty if no generator reported any."""
        if not self.measured and not self.differences.images:
            return {}
        figures: dict[str, object] = {"measured": self.measured, "recomputed": self.recomputed}
        if self.differences.images:
            figures["compared_with_exact"] = self.differences.summary()
        if self.notes:
            figures["notes"] = sorted(self.notes)
        return figures


def exactness_stats(
    measured: int, recomputed: int, differences: Differences, notes: Iterable[str]
) -> dict[str, object]:
    """The argument of :meth:`ExactnessStats.add`, as JSON values; ``notes`` say what ran without its faster
    kernel, and why.
    """
    counts = {"measured": measured, "recomputed": recomputed}
    return {**counts, "differences": asdict(differences), "notes": sorted(notes)}


def lines(figures: Mapping[str, Any]) -> list[str]:
    """The figures of :meth:`ExactnessStats.figures` as lines of text."""
    told = []
    if "measured" in figures:
        share = figures["recomputed"] / max(1, figures["measured"])
        told.append(
            f"guard band: {figures['recomputed']:,} of {figures['measured']:,} masks ({share:.2%}) were "
            "recomputed by the reference's operations"
        )
    if compared := figures.get("compared_with_exact"):
        told.append(f"fidelity fast: {_in_words(compared)}")
    return [*told, *figures.get("notes", ())]


def _in_words(compared: Compared) -> str:
    """The summary of :class:`Differences` as a sentence."""
    if not compared["masks"]:
        return f"{compared['images']:,} images compared with exact, without any masks"
    rest = ""
    if compared["median_margin_of_the_rest"] is not None:
        rest = (
            f"; the others were {compared['median_margin_of_the_rest']:.4f} above their thresholds in "
            f"the median, {compared['largest_margin_of_the_rest']:.4f} at most"
        )
    return (
        f"{compared['images']:,} images compared with exact: {compared['identical']:.1%} of "
        f"{compared['masks']:,} masks identical, {compared['iou_above_0.99']:.1%} with IoU above {CLOSE}, "
        f"{compared['images_with_another_count']:.1%} of the images with a different number of masks{rest}"
    )


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _ious(proposal: Proposal, pairs: Sequence[Proposal], size: tuple[int, int]) -> float:
    """The largest IoU of a mask with any of ``pairs``."""
    if not pairs:
        return 0.0
    encoded = [{"size": list(size), "counts": item.counts.encode()} for item in (proposal, *pairs)]
    return float(coco.iou(encoded[:1], encoded[1:], [0] * len(pairs)).max())


def _margin(proposal: Proposal, settings: GridSettings) -> float:
    """The margin by which the mask passed the generator's thresholds."""
    margins = [float("inf")]
    if settings.pred_iou_thresh > 0 and proposal.predicted_iou is not None:
        margins.append(proposal.predicted_iou - settings.pred_iou_thresh)
    if settings.stability_score_thresh > 0 and proposal.stability_score is not None:
        margins.append(proposal.stability_score - settings.stability_score_thresh)
    return min(margins)

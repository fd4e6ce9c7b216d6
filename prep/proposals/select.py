"""Selects an image's masks as in the paper: by area, by overlap, and the largest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prep.errors import PrepError
from prep.records import Proposal


@dataclass(frozen=True, slots=True)
class Selection:
    """Which masks to keep; 0 disables a rule.

    ``min_area`` drops masks of fewer pixels; ``max_overlap`` drops a mask whose IoU with a kept one is
    larger; ``max_masks`` keeps that many of the largest. The paper (appendix D) uses 1000, 0.8 and 40.
    """

    min_area: int = 0
    max_overlap: float = 0.0
    max_masks: int = 0

    def __post_init__(self) -> None:
        if self.min_area < 0 or self.max_masks < 0:
            raise PrepError("--min-area and --max-masks must not be negative.", "Set 0 to disable one.")
        if not 0.0 <= self.max_overlap <= 1.0:
            raise PrepError(
                f"--max-overlap must be an IoU between 0 and 1, not {self.max_overlap}.",
                "Set 0 to disable it.",
            )

    @property
    def off(self) -> bool:
        """Whether every rule is disabled."""
        return not (self.min_area or self.max_overlap or self.max_masks)

    def settings(self) -> dict[str, float]:
        """The values included in the key of a row."""
        return {
            "min_area": self.min_area,
            "max_overlap": float(self.max_overlap),
            "max_masks": self.max_masks,
        }


PAPER = Selection(min_area=1000, max_overlap=0.8, max_masks=40)


def select(proposals: Sequence[Proposal], selection: Selection, height: int, width: int) -> list[Proposal]:
    """The masks that the selection keeps, of an image of ``height`` x ``width`` pixels.

    If every rule is disabled, all of them in the generator's order. Otherwise they are visited and returned
    by descending area, equal areas in the generator's order. A mask of exactly ``min_area`` pixels is kept,
    and so is one with an IoU of exactly ``max_overlap``; of two masks that overlap more, the larger is kept,
    and of two equally large ones the first. Only kept masks suppress others. The count is limited last.
    """
    if selection.off:
        return list(proposals)
    candidates = [p for p in proposals if p.area >= selection.min_area]
    candidates.sort(key=lambda p: -p.area)  # stable: equal areas stay in the generator's order
    limit = selection.max_masks or len(candidates)
    if not selection.max_overlap:
        return candidates[:limit]
    kept: list[Proposal] = []
    for candidate in candidates:
        if len(kept) == limit:  # the rest are no larger, so they cannot be among the largest kept
            break
        if not _overlaps(candidate, kept, selection.max_overlap, height, width):
            kept.append(candidate)
    return kept


def _overlaps(mask: Proposal, kept: Sequence[Proposal], limit: float, height: int, width: int) -> bool:
    """Whether ``mask`` has an IoU above ``limit`` with one of ``kept``, none of which is smaller."""
    from pycocotools import mask as coco

    # IoU is at most the ratio of the areas, which spares most of the comparisons.
    rivals = [k for k in kept if mask.area > limit * k.area]
    if not rivals:
        return False
    ious = coco.iou([_rle(mask, height, width)], [_rle(k, height, width) for k in rivals], [0] * len(rivals))
    return bool((ious > limit).any())


def _rle(proposal: Proposal, height: int, width: int) -> dict[str, object]:
    return {"size": [height, width], "counts": proposal.counts.encode("ascii")}

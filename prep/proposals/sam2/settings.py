"""Defines the options, presets and checkpoints of SAM 2's mask generator."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from prep.proposals.sam.settings import GridSettings, check_choice, find_file

# The files of the released weights of SAM 2.1 (README.md of facebookresearch/sam2), in :data:`DOWNLOAD`.
CHECKPOINTS = {
    "sam2.1_hiera_l": "sam2.1_hiera_large.pt",
    "sam2.1_hiera_b+": "sam2.1_hiera_base_plus.pt",
    "sam2.1_hiera_s": "sam2.1_hiera_small.pt",
    "sam2.1_hiera_t": "sam2.1_hiera_tiny.pt",
}
DOWNLOAD = "https://dl.fbaipublicfiles.com/segment_anything_2/092824/"


@dataclass(frozen=True)
class Sam2Settings(GridSettings):
    """The options of ``sam2.automatic_mask_generator.SAM2AutomaticMaskGenerator``, with its defaults.

    ``model`` is one of :data:`CHECKPOINTS`, which are also the names of the package's configurations.
    ``mask_threshold`` is the logit above which a pixel is in a mask. ``use_m2m`` refines every mask by a
    second prediction from its logits. ``multimask_output`` gives three masks a point instead of one.
    ``min_mask_region_area`` is in pixels of the 256 x 256 logits here: the reference removes small regions
    before it enlarges a mask (see :mod:`prep.proposals.sam2.small_regions`).
    """

    MODELS: ClassVar[Collection[str]] = CHECKPOINTS

    model: str = "sam2.1_hiera_l"
    pred_iou_thresh: float = 0.8
    mask_threshold: float = 0.0
    use_m2m: bool = False
    multimask_output: bool = True


def preset(name: str, **changes: Any) -> Sam2Settings:
    """The preset ``name`` with ``changes`` (original option names); PrepError for an unknown one."""
    check_choice("preset", name, PRESETS)
    return replace(PRESETS[name], **changes)


def find_checkpoint(model: str, given: str | Path | None = None) -> Path:
    """The weights file of ``model``: ``given``, or the standard name in the standard folders.

    Raises PrepError with the download command if there is none.
    """
    check_choice("model", model, CHECKPOINTS)
    return find_file(CHECKPOINTS[model], DOWNLOAD, model, given, "--checkpoint")


# The settings of PCNet's paper (appendix D), which it states for SAM, and SAM 2's defaults.
PRESETS: dict[str, Sam2Settings] = {
    "pcnet": Sam2Settings(points_per_side=8, pred_iou_thresh=0.7, stability_score_thresh=0.7),
    "sam": Sam2Settings(),
}

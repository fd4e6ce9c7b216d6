"""Defines the options, presets and checkpoints of SAM's mask generator."""

from __future__ import annotations

import math
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

from prep.errors import PrepError

# Standard file names of the released weights, on https://dl.fbaipublicfiles.com/segment_anything/.
CHECKPOINTS = {
    "vit_h": "sam_vit_h_4b8939.pth",
    "vit_l": "sam_vit_l_0b3195.pth",
    "vit_b": "sam_vit_b_01ec64.pth",
}
DOWNLOAD = "https://dl.fbaipublicfiles.com/segment_anything/"
# Threads per worker, if there are as many cores. It does not depend on the number of workers, so that masks
# do not either, and is small enough for several workers on a large machine.
THREADS = 8
FIDELITIES = ("exact", "fast")


@dataclass(frozen=True)
class GridSettings:
    """What the reference generators of SAM and SAM 2 have in common, under its original names.

    ``checkpoint`` is a path, or ``None`` to search for the standard name; ``device`` is ``"cpu"``,
    ``"cuda"``, ``"cuda:1"`` and so on, or ``"auto"``. ``fidelity`` ``"exact"`` gives the reference's masks;
    ``"fast"`` runs the image encoder in bfloat16 and reports how its masks differ. ``point_grids`` replaces
    ``points_per_side`` by explicit grids, one per crop layer, of (x, y) in [0, 1]. ``threads`` (0 for torch's
    number where the generator is created) is the number for each worker on any machine: on a CPU the last
    bits of a matrix product depend on it, as in the reference.
    """

    MODELS: ClassVar[Collection[str]] = ()
    AT_LEAST: ClassVar[dict[str, int]] = {
        "points_per_batch": 1, "crop_n_points_downscale_factor": 1, "crop_n_layers": 0,
        "min_mask_region_area": 0, "threads": 0,
    }  # fmt: skip
    NO_KEY: ClassVar[tuple[str, ...]] = ("checkpoint", "device", "threads")  # what never changes a mask

    model: str = ""
    checkpoint: str | None = None
    device: str = "auto"
    fidelity: str = "exact"
    points_per_side: int | None = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    point_grids: tuple[tuple[tuple[float, float], ...], ...] | None = None
    min_mask_region_area: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        check_choice("model", self.model, self.MODELS)
        check_choice("fidelity", self.fidelity, FIDELITIES)
        if (self.points_per_side is None) == (self.point_grids is None):
            raise PrepError("Both points_per_side and point_grids are set.", "Set one of them to None.")
        if self.point_grids is not None and len(self.point_grids) <= self.crop_n_layers:
            raise PrepError(
                f"point_grids has {len(self.point_grids)} grids for {self.crop_n_layers + 1} crop layers.",
                "Give one grid per layer, the whole image first.",
            )
        at_least = dict(self.AT_LEAST)
        if self.points_per_side is not None:
            at_least["points_per_side"] = 1
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise PrepError(f"{name} is {getattr(self, name)}.", f"Give a number of at least {least}.")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise PrepError(f"{field.name} is {value}.", "Give a finite number.")

    def key(self) -> dict[str, object]:
        """Every setting that can change a mask, for the content key (JSON values only)."""
        return {name: value for name, value in asdict(self).items() if name not in self.NO_KEY}


@dataclass(frozen=True)
class SamSettings(GridSettings):
    """The options of ``segment_anything.SamAutomaticMaskGenerator`` under their original names and defaults.

    ``model`` is one of :data:`CHECKPOINTS`. ``images_per_batch`` (images encoded together) changes the speed,
    never a mask.
    """

    MODELS: ClassVar[Collection[str]] = CHECKPOINTS
    AT_LEAST: ClassVar[dict[str, int]] = {**GridSettings.AT_LEAST, "images_per_batch": 1}
    NO_KEY: ClassVar[tuple[str, ...]] = (*GridSettings.NO_KEY, "images_per_batch")

    model: str = "vit_h"
    images_per_batch: int = 4


def preset(name: str, **changes: Any) -> SamSettings:
    """The preset ``name`` with ``changes`` (original option names); PrepError for an unknown one."""
    check_choice("preset", name, PRESETS)
    return replace(PRESETS[name], **changes)


def find_checkpoint(model: str, given: str | Path | None = None, flag: str = "--checkpoint") -> Path:
    """The weights file of ``model``: ``given`` if it is a file, else the standard name in the standard
    folders.

    These are the current folder, ``checkpoints/`` and torch hub's cache. ``flag`` is the option for
    ``given``. Raises PrepError with the download command if there is none.
    """
    check_choice("model", model, CHECKPOINTS)
    return find_file(CHECKPOINTS[model], DOWNLOAD, model, given, flag)


def find_file(name: str, url: str, model: str, given: str | Path | None, flag: str) -> Path:
    """:func:`find_checkpoint` for the file ``name``, which can be downloaded from the folder ``url``."""
    line = f"mkdir -p checkpoints && curl -L -o checkpoints/{name} {url}{name}"
    if given is not None:
        path = Path(os.path.expanduser(given))
        if path.is_dir():
            path = path / name
        if not path.is_file():
            raise PrepError(
                f"There is no checkpoint {path}.", f"Download the weights of {model} with\n  {line}"
            )
        return path
    places = [Path(), Path("checkpoints"), _hub_folder()]
    for place in places:
        if (place / name).is_file():
            return place / name
    looked = ", ".join(str(place / name) for place in places)
    raise PrepError(
        f"No weights for SAM {model}: looked for {looked}.",
        f"Download them with\n  {line}\nor set {flag} to the file.",
    )


def _hub_folder() -> Path:
    """The checkpoint folder of ``torch.hub``, found without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))
    return Path(os.path.expanduser(home), "hub", "checkpoints")


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Raise PrepError if ``value`` is not one of ``choices``."""
    if value not in choices:
        raise PrepError(f"{name} is {value!r}.", f"Choose one of: {', '.join(choices)}.")


# The paper's settings (appendix D) and SAM's defaults.
PRESETS: dict[str, SamSettings] = {
    "pcnet": SamSettings(points_per_side=8, pred_iou_thresh=0.7, stability_score_thresh=0.7),
    "sam": SamSettings(),
}

"""Defines the test settings of FreeSOLO and finds its weights."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from prep.errors import PrepError

CHECKPOINT = "FreeSOLO_R101_30k_pl.pth"
# README.md:79 of NVlabs/FreeSOLO, the only place that names the trained model.
DOWNLOAD = "https://cloudstor.aarnet.edu.au/plus/s/V8C0onE5H63x3RD/download"
KERNELS = ("gaussian", "linear")


@dataclass(frozen=True, slots=True)
class FreeSoloSettings:
    """The released test settings, under their original names in lower case.

    Sizes in pixels from detectron2/config/defaults.py:63-65 (800, 1333), the others from
    freesolo/config.py:72-81 of NVlabs/FreeSOLO, which configs/freesolo/freesolo_30k.yaml leaves as they are.
    ``score_thr`` is compared with a location's probability, ``update_thr`` with the score after matrix NMS,
    ``mask_thr`` with a pixel's probability. ``checkpoint`` is a path, or ``None`` for :data:`CHECKPOINT` in
    ``.`` and ``checkpoints/``; ``device`` is ``cpu``, ``cuda`` or ``cuda:N``. Both are not part of the key.
    """

    min_size_test: int = 800
    max_size_test: int = 1333
    score_thr: float = 0.1
    update_thr: float = 0.05
    mask_thr: float = 0.5
    nms_pre: int = 500
    max_per_img: int = 100
    nms_kernel: str = "gaussian"
    nms_sigma: float = 2.0
    checkpoint: str | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.nms_kernel not in KERNELS:
            raise PrepError(
                f"The setting nms_kernel is {self.nms_kernel!r}.", f"Choose one of: {', '.join(KERNELS)}."
            )
        for name in ("min_size_test", "max_size_test", "nms_pre", "max_per_img"):
            if getattr(self, name) < 1:
                raise PrepError(
                    f"The setting {name} is {getattr(self, name)}.", "Give a number of at least 1."
                )
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise PrepError(f"The setting {field.name} is {value}.", "Give a finite number.")

    def key(self) -> dict[str, object]:
        """Every setting that can change a mask, as JSON values."""
        return {name: value for name, value in asdict(self).items() if name not in ("checkpoint", "device")}


def find_checkpoint(given: str | None) -> Path:
    """The weights file; raises PrepError that says where to get it if there is none."""
    places = (
        [Path(os.path.expanduser(given))] if given else [Path(CHECKPOINT), Path("checkpoints", CHECKPOINT)]
    )
    for place in places:
        if place.is_file():
            return place
    looked = ", ".join(map(str, places))
    raise PrepError(
        f"No weights for FreeSOLO: looked for {looked}.",
        f"Download the trained model linked under Testing in the README of NVlabs/FreeSOLO ({DOWNLOAD}), and"
        " set --checkpoint to the file; or use --generator segments, which needs no weights.",
    )

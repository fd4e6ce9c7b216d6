"""Predicts the mask of the object at one point of an image with SAM, equal to the official SamPredictor's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from prep.errors import PrepError
from prep.proposals.sam.settings import SamSettings, find_checkpoint

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


class PointPrompter:
    """Prompts SAM with one positive point: the mask with the best predicted IoU of three.

    With ``single`` it is the only mask that the decoder is asked for. ``predictor`` is a
    ``segment_anything.SamPredictor`` or anything with its two methods. An image is encoded once, however many
    points are asked for in a row.
    """

    def __init__(self, predictor: Any, single: bool = False) -> None:
        self._predictor, self._single = predictor, single
        self._image: str | None = None

    def mask(self, image: str, pixels: Callable[[], Image], row: int, column: int) -> Mask:
        """The mask, bool (H, W), at a pixel of an image; ``image`` is its key, and ``pixels`` returns it as
        RGB uint8 (H, W, 3) if it is not the image of the call before.
        """
        if image != self._image:
            self._image = None
            self._predictor.set_image(pixels())
            self._image = image
        masks, scores, _ = self._predictor.predict(
            point_coords=np.array([[column, row]]),
            point_labels=np.array([1]),
            multimask_output=not self._single,
        )
        best: Mask = np.asarray(masks[int(np.argmax(scores))], dtype=bool)
        return best


def open_prompter(model: str, checkpoint: Path | None, single: bool, device: str) -> PointPrompter:
    """SAM ``vit_b``, ``vit_l`` or ``vit_h`` from its official checkpoint (``checkpoint``, or the file of the
    standard name), or ``hf:<id or folder>``, on ``auto``, ``cpu`` or ``cuda``.

    :raises PrepError: if the weights are missing (with the command that downloads them) or unsuitable.
    """
    if model.startswith("hf:") and len(model) > len("hf:"):
        from prep.proposals.hf_prompt import HfPredictor

        return PointPrompter(HfPredictor(model[len("hf:") :], device), single)
    from segment_anything import SamPredictor

    from prep.proposals.checkpoint import read_weights
    from prep.proposals.sam.weights import identify, load_sam

    path = find_checkpoint(model, checkpoint, "--sam-checkpoint")
    found = identify(read_weights(path))
    if found is None or (checkpoint is None and found != model):
        raise PrepError(
            f"{path} contains no weights of SAM {model}.",
            "Set --sam-checkpoint to a file of segment_anything.",
        )
    settings = SamSettings(model=found, checkpoint=str(path), device=device)
    return PointPrompter(SamPredictor(load_sam(settings)), single)


def inner_point(mask: Mask) -> tuple[int, int] | None:
    """(row, column) of the pixel farthest from the mask's outline and from the image border, the first of
    equals; ``None`` for an empty mask.
    """
    from scipy.ndimage import distance_transform_edt

    if not mask.any():
        return None
    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = divmod(int(np.argmax(depth)), mask.shape[1])
    return row, column

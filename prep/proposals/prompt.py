"""Predicts the mask of the object at one point of an image with SAM, equal to the official SamPredictor's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from prep.allocator import keep_freed_memory
from prep.errors import PrepError
from prep.files import sha256_of
from prep.proposals.sam.settings import SamSettings, find_checkpoint

if TYPE_CHECKING:
    import torch

    from prep.proposals.embeddings import Embeddings

Image = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


class Predictor(Protocol):
    """What is used of ``segment_anything.SamPredictor``, whose embedding can be taken out and put back."""

    def set_image(self, image: Image) -> None:
        """Encode an RGB image, uint8 (H, W, 3)."""

    def embedding(self) -> Sequence[torch.Tensor]:
        """What ``set_image`` computed."""

    def restore(self, image: Image, embedding: Sequence[torch.Tensor]) -> None:
        """As ``set_image``, with the embedding that it computed for this image before."""

    def predict(
        self,
        point_coords: npt.NDArray[np.number],
        point_labels: npt.NDArray[np.number],
        multimask_output: bool,
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32], object]:
        """Points (n, 2) as x and y and labels (n,) -> masks (m, H, W), predicted IoUs (m,) and logits."""


class PointPrompter:
    """Prompts SAM with one positive point: the mask with the best predicted IoU of three.

    With ``single`` it is the only mask that the decoder is asked for. ``predictor`` is a
    ``segment_anything.SamPredictor`` or anything with its two methods. An image is encoded once, however many
    points are asked for in a row; with ``embeddings``, once for all runs that use this folder.
    """

    def __init__(
        self, predictor: Predictor, single: bool = False, embeddings: Embeddings | None = None
    ) -> None:
        self._predictor, self._single, self._embeddings = predictor, single, embeddings
        self._image: str | None = None

    def mask(self, image: str, pixels: Callable[[], Image], row: int, column: int) -> Mask:
        """The mask, bool (H, W), at a pixel of an image; ``image`` is its key, and ``pixels`` returns it as
        RGB uint8 (H, W, 3) if it is not the image of the call before.
        """
        if image != self._image:
            self._image = None
            if self._embeddings is None:
                self._predictor.set_image(pixels())
            else:
                self._embeddings.set_image(self._predictor, pixels())
            self._image = image
        masks, scores, _ = self._predictor.predict(
            point_coords=np.array([[column, row]]),
            point_labels=np.array([1]),
            multimask_output=not self._single,
        )
        best: Mask = np.asarray(masks[int(np.argmax(scores))], dtype=bool)
        return best


def open_prompter(
    model: str, checkpoint: Path | None, single: bool, device: str, cache: Path | None = None
) -> PointPrompter:
    """SAM ``vit_b``, ``vit_l`` or ``vit_h`` from its official checkpoint (``checkpoint``, or the file of the
    standard name), or ``hf:<id or folder>``, on ``auto``, ``cpu`` or ``cuda``.

    With ``cache``, the embeddings of images are kept in this folder.

    :raises PrepError: if the weights are missing (with the command that downloads them) or unsuitable, or
        the folder cannot be written.
    """
    if model.startswith("hf:") and len(model) > len("hf:"):
        from prep.proposals.hf import HfGenerator
        from prep.proposals.hf_prompt import HfPredictor

        source = model[len("hf:") :]
        encoder = HfPredictor(source, device)
        keep_freed_memory(encoder.device_type)
        weights = "" if cache is None else HfGenerator(source).weights_sha256
        return PointPrompter(encoder, single, _embeddings(cache, weights, encoder.device_type))
    from prep.proposals.checkpoint import read_weights
    from prep.proposals.sam.weights import identify, load_sam
    from prep.proposals.sam_prompt import SamPredictor

    path = find_checkpoint(model, checkpoint, "--sam-checkpoint")
    found = identify(read_weights(path))
    if found is None or (checkpoint is None and found != model):
        raise PrepError(
            f"{path} contains no weights of SAM {model}.",
            "Set --sam-checkpoint to a file of segment_anything.",
        )
    settings = SamSettings(model=found, checkpoint=str(path), device=device)
    predictor = SamPredictor(load_sam(settings))
    keep_freed_memory(predictor.device_type)
    weights = "" if cache is None else sha256_of(path)
    return PointPrompter(predictor, single, _embeddings(cache, weights, predictor.device_type))


def _embeddings(folder: Path | None, weights: str, device: str) -> Embeddings | None:
    if folder is None:
        return None
    from prep.proposals.embeddings import Embeddings

    return Embeddings(folder, [weights, device])


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

"""Runs a model on one image and one expression, and writes its mask, its response maps and a picture."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pcnet.data.batch import upsample
from pcnet.data.images import normalise_pixels, resized
from pcnet.evaluation.dataset import decode, encode
from pcnet.evaluation.picture import draw
from pcnet.evaluation.responses import encode_items
from pcnet.metrics import RELEASED_THRESHOLD, binarise, peak, proposal_under_peak
from pcnet.model.pcnet import PCNet
from prep.errors import PrepError
from prep.files import write_whole
from prep.images import as_pixels
from prep.phrases import decompose
from prep.pictures import encode_picture
from prep.proposals.prompt import PointPrompter
from prep.records import Proposal

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Prediction:
    """The model's output for an image of H x W pixels.

    ``stages`` float32 (K, H, W) are the raw responses of the stages. ``mask`` bool (H, W) is the proposal
    under the peak of the last response (``proposal`` is its index), SAM's mask at the peak, or the
    thresholded response. ``peak`` is (row, column). ``pixels`` uint8 (H, W, 3) is the image. In a notebook
    it shows its picture.
    """

    text: str
    phrases: tuple[str, ...]
    stages: NDArray[np.float32]
    mask: NDArray[np.bool_]
    peak: tuple[int, int]
    proposal: int | None
    pixels: NDArray[np.uint8] = field(repr=False)

    def __repr__(self) -> str:
        height, width = self.mask.shape
        return (
            f"Prediction({self.text!r}, phrases={self.phrases}, {len(self.stages)} stages, "
            f"image {width} x {height}, peak x={self.peak[1]} y={self.peak[0]}, "
            f"mask of {int(self.mask.sum()):,} px)"
        )

    def picture(self) -> NDArray[np.uint8]:
        """The image, the response of each stage, and the mask's outline, side by side with captions: RGB."""
        return draw(self.pixels, self.text, self.phrases, self.stages, self.mask)

    def _repr_png_(self) -> bytes:
        return encode_picture(self.picture())


def predict(
    model: PCNet,
    image: str | Path | Image.Image | NDArray[np.uint8],
    text: str,
    phrases: Sequence[str] | None = None,
    proposals: Sequence[Proposal] = (),
    *,
    size: int = 320,
    threshold: float = RELEASED_THRESHOLD,
    prompter: PointPrompter | None = None,
) -> Prediction:
    """Ground ``text`` in an image: a file, a Pillow image or an H x W x 3 RGB array.

    ``phrases`` are the phrases of the text (None: by the rules), ``proposals`` the masks to choose from,
    ``size`` the side of the network's input (see :func:`pcnet.evaluation.evaluate.input_size`). With
    ``prompter``, the mask is SAM's at the peak.

    :raises PrepError: if the image cannot be used, the text has no phrases, or the masks have another size.
    """
    if phrases is None:  # a student reads none
        phrases = decompose(text).phrases if model.config.phrases_used else [text]
    cues = tuple(phrases)
    if not cues:
        raise PrepError(f"{text!r} has no phrases to ground.", "Give a text that names an object.")
    photo = as_pixels(image)
    height, width = photo.shape[:2]
    stages = _responses(model, photo, text, cues, size)
    masks = np.zeros((len(proposals), height, width), dtype=bool)
    for number, one in enumerate(proposals):
        masks[number] = decode({"size": [height, width], "counts": one.counts})
    chosen = proposal_under_peak(stages[-1], masks)
    at = peak(stages[-1])
    if prompter is not None:
        mask = prompter.mask(_image_key(image, photo), lambda: photo, *at)
    else:
        mask = binarise(stages[-1], threshold) if chosen is None else masks[chosen]
    return Prediction(text, cues, stages, mask, at, chosen, photo)


def _responses(
    model: PCNet, photo: NDArray[np.uint8], text: str, phrases: Sequence[str], size: int
) -> NDArray[np.float32]:
    """The raw responses of the stages at the image's size, float32 (K, H, W)."""
    from PIL import Image

    height, width = photo.shape[:2]
    pixels = torch.from_numpy(resized(Image.fromarray(photo), size))[None]
    with torch.inference_mode():
        model.eval()
        device = model.logit_scale.device
        expressions, cues = encode_items(model, [(text, phrases)])
        inputs = normalise_pixels(pixels.to(device)), expressions.to(device), cues.to(device)
        raw = [upsample(upsample(one, (size, size)), (height, width)) for one in model.responses(*inputs)]
    found: NDArray[np.float32] = torch.cat(raw, dim=1)[0].float().cpu().numpy()
    return found


def _image_key(image: object, photo: NDArray[np.uint8]) -> str:
    """The name under which SAM remembers the image that it encoded: its path, or the hash of its pixels."""
    if isinstance(image, str | os.PathLike):
        return os.fspath(image)
    return hashlib.sha256(photo.tobytes()).hexdigest()


def save(prediction: Prediction, out: Path, number: int | None = None) -> dict[str, Path]:
    """Write ``mask.png`` (0 and 255), ``stages.png`` and ``prediction.json`` to ``out``; return their paths
    by name. With ``number``, they are ``mask-001.png`` and so on.
    """
    suffix = "" if number is None else f"-{number:03}"
    names = {"mask": "mask{}.png", "picture": "stages{}.png", "json": "prediction{}.json"}
    paths = {kind: out / name.format(suffix) for kind, name in names.items()}
    out.mkdir(parents=True, exist_ok=True)
    write_whole(paths["mask"], encode_picture(prediction.mask.astype(np.uint8) * 255))
    write_whole(paths["picture"], encode_picture(prediction.picture()))
    write_whole(paths["json"], (json.dumps(as_dict(prediction), indent=2) + "\n").encode())
    return paths


def as_dict(prediction: Prediction) -> dict[str, object]:
    """The prediction as JSON values; ``mask`` is compressed COCO RLE."""
    coded = encode(prediction.mask)
    return {
        "text": prediction.text,
        "phrases": list(prediction.phrases),
        "peak": {"x": prediction.peak[1], "y": prediction.peak[0]},
        "peaks_by_stage": [{"x": x, "y": y} for y, x in map(peak, prediction.stages)],
        "proposal": prediction.proposal,
        "area": int(prediction.mask.sum()),
        "mask": coded,
    }

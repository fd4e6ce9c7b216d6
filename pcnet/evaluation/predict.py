"""Runs a model on one image and one expression, and writes its response maps, mask and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pcnet.data.batch import upsample
from pcnet.data.images import normalise_pixels, open_rgb, resized
from pcnet.evaluation.dataset import decode, encode
from pcnet.evaluation.responses import encode_items
from pcnet.metrics import RELEASED_THRESHOLD, binarise, peak, proposal_under_peak
from pcnet.model.pcnet import PCNet
from prep.errors import PrepError
from prep.pages import pictures
from prep.proposals.prompt import PointPrompter
from prep.records import Proposal

_GAP = 4  # pixels of white between the panels of a picture


@dataclass(frozen=True)
class Prediction:
    """The model's output for an image of H x W pixels.

    ``stages`` float32 (K, H, W) are the raw responses of the stages. ``mask`` bool (H, W) is the proposal
    under the peak of the last response (``proposal`` is its index), SAM's mask at the peak, or the
    thresholded response. ``peak`` is (row, column).
    """

    text: str
    phrases: tuple[str, ...]
    stages: NDArray[np.float32]
    mask: NDArray[np.bool_]
    peak: tuple[int, int]
    proposal: int | None


def predict(
    model: PCNet,
    image: Path,
    text: str,
    phrases: Sequence[str],
    proposals: Sequence[Proposal] = (),
    *,
    size: int = 320,
    threshold: float = RELEASED_THRESHOLD,
    prompter: PointPrompter | None = None,
) -> Prediction:
    """Ground ``text`` in an image file.

    ``phrases`` are the phrases of the text (at least one), ``proposals`` the masks to choose from, ``size``
    the side of the network's input (see :func:`pcnet.evaluation.evaluate.input_size`). With ``prompter``, the
    mask is SAM's at the peak.

    :raises PrepError: if the image cannot be read, the text has no phrases, or the masks have another size.
    """
    if not phrases:
        raise PrepError(f"{text!r} has no phrases to ground.", "Give a text that names an object.")
    opened = open_rgb(image)
    height, width = opened.height, opened.width
    pixels = torch.from_numpy(resized(opened, size))[None]
    with torch.inference_mode():
        model.eval()
        device = model.logit_scale.device
        expressions, cues = encode_items(model, [(text, phrases)])
        inputs = normalise_pixels(pixels.to(device)), expressions.to(device), cues.to(device)
        raw = [upsample(upsample(one, (size, size)), (height, width)) for one in model.responses(*inputs)]
    stages = torch.cat(raw, dim=1)[0].float().cpu().numpy()
    masks = np.zeros((len(proposals), height, width), dtype=bool)
    for number, one in enumerate(proposals):
        masks[number] = decode({"size": [height, width], "counts": one.counts})
    chosen = proposal_under_peak(stages[-1], masks)
    at = peak(stages[-1])
    if prompter is not None:
        mask = prompter.mask(str(image), lambda: np.asarray(opened), *at)
    else:
        mask = binarise(stages[-1], threshold) if chosen is None else masks[chosen]
    return Prediction(text, tuple(phrases), stages, mask, at, chosen)


def save(prediction: Prediction, image: Path, out: Path) -> dict[str, Path]:
    """Write ``mask.png`` (0 and 255), ``stages.png`` and ``prediction.json`` to ``out``; return their paths
    by name.

    The picture shows the image, the response of each stage with its peak marked, and the mask.
    """
    from PIL import Image

    out.mkdir(parents=True, exist_ok=True)
    paths = {"mask": out / "mask.png", "picture": out / "stages.png", "json": out / "prediction.json"}
    Image.fromarray(prediction.mask.astype(np.uint8) * 255).save(paths["mask"])
    Image.fromarray(picture(np.asarray(open_rgb(image)), prediction)).save(paths["picture"])
    paths["json"].write_text(json.dumps(as_dict(prediction), indent=2) + "\n", encoding="utf-8")
    return paths


def as_dict(prediction: Prediction) -> dict[str, Any]:
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


def picture(image: NDArray[np.uint8], prediction: Prediction) -> NDArray[np.uint8]:
    """Panels side by side: the image (H, W, 3), each stage's response over it, the mask over it."""
    panels = [image]
    for response in prediction.stages:
        panels.append(pictures.draw_point(pictures.draw_response(image, response), *peak(response)))
    panels.append(pictures.draw_masks(image, [prediction.mask], [pictures.PREDICTION]))
    white = np.full((image.shape[0], _GAP, 3), 255, dtype=np.uint8)
    spaced = [part for panel in panels for part in (panel, white)][:-1]
    return np.concatenate(spaced, axis=1)

"""Runs a model over the expressions of a split, and yields their response maps at image size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcnet.data.batch import upsample
from pcnet.data.collate import pad_phrases, prefetch
from pcnet.data.images import Pixels, normalise_pixels
from pcnet.evaluation.dataset import EvalSet, Item
from pcnet.evaluation.outputs import save_stages
from pcnet.maps import released_map
from pcnet.metrics import RELEASED_THRESHOLD
from pcnet.model.pcnet import PCNet
from pcnet.model.prms import features
from prep.errors import PrepError

Map = NDArray[np.float32]
UNREADABLE = "image could not be read"


@dataclass(frozen=True)
class EvalSettings:
    """How response maps are scored.

    ``protocol`` is ``standard``, or ``released`` for the released code's way from a map to a mask
    (:func:`pcnet.maps.released_map`). ``threshold`` on the normalised map gives the mask (1e-9 in the
    released code; 0.5 is also common); ``size`` is the side of the network's input; ``save_cam`` and
    ``save_pseudo`` are folders for maps and masks, ``save_stages`` one for the raw maps of every stage. With
    ``prms``, one map per ref is also chosen among those of its expressions: the one most similar to all of
    them. ``masks`` are the kinds of mask to compare, ``map``, ``proposal``, ``concept`` or ``sam``; the last
    is saved.
    """

    threshold: float = RELEASED_THRESHOLD
    size: int | None = None
    batch_size: int = 32
    threads: int = 2
    save_cam: Path | None = None
    save_pseudo: Path | None = None
    save_stages: Path | None = None
    prms: bool = False
    protocol: str = "standard"
    masks: tuple[str, ...] = ("map",)


def responses(
    model: PCNet,
    evalset: EvalSet,
    settings: EvalSettings,
    looks: list[tuple[Tensor, Tensor]] | None = None,
) -> Iterator[tuple[Item, Map]]:
    """Each item with the last stage's response (H, W) at the size of its image: the raw one, or the one of
    ``settings.protocol``.

    With ``settings.prms``, the features of each batch are appended to ``looks``, in the order of the items.
    Items whose image cannot be read are counted in ``evalset.skipped``; if that is all of them, the error of
    the first is raised.
    """
    training, lost = model.training, 0
    model.eval()
    try:
        for asked, chunk, batch, error in _batches(evalset, settings):
            if error is not None:
                lost += len(asked) - len(chunk)
                evalset.skipped[UNREADABLE] = lost
                if lost == len(evalset.items):
                    raise error
            if not chunk:
                continue
            maps, look = _run(model, batch, chunk, settings.prms)
            if looks is not None and look is not None:
                looks.append(look)
            whole = upsample(maps[:, -1:], (batch.shape[2], batch.shape[3]))
            for item, raw, stages in zip(chunk, whole, maps, strict=True):
                if settings.save_stages is not None:
                    save_stages(settings.save_stages, item.row_id, stages.float().cpu().numpy())
                if settings.protocol == "released":
                    sized = released_map(raw[None].float(), item.size)[0, 0]
                else:
                    sized = upsample(raw[None], item.size)[0, 0]
                yield item, sized.float().cpu().numpy()
    finally:
        model.train(training)


def _batches(
    evalset: EvalSet, settings: EvalSettings
) -> Iterator[tuple[list[Item], list[Item], Tensor, PrepError | None]]:
    """Each batch of items, those of them with a readable image, their pixels, and the error of another."""
    images = sorted({item.image for item in evalset.items})
    number = {image: i for i, image in enumerate(images)}
    # Items of an image are consecutive, so a decoded image is needed again at once or never.
    pixels = Pixels(evalset.root, images, settings.size or 320, budget=256 << 20)
    starts = range(0, len(evalset.items), settings.batch_size)
    chunks = [evalset.items[start : start + settings.batch_size] for start in starts]

    def load(chunk: list[Item]) -> tuple[list[Item], list[Item], Tensor, PrepError | None]:
        found, error = [], None
        for item in chunk:
            try:
                found.append((item, pixels[number[item.image]]))
            except PrepError as unreadable:
                error = error or unreadable
        stacked = np.stack([one for _, one in found]) if found else np.empty(0, np.uint8)
        return chunk, [item for item, _ in found], torch.from_numpy(stacked), error

    return prefetch(load, chunks, settings.threads)


@torch.inference_mode()
def _run(
    model: PCNet, pixels: Tensor, items: Sequence[Item], look: bool
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """uint8 (B, 3, S, S) and their items to the raw responses of every stage, (B, stages, h, w).

    With ``look`` also the image and text features of the last stage's maps, see
    :func:`pcnet.model.prms.features`.
    """
    device = model.logit_scale.device
    expressions, phrases = encode_items(model, [(item.text, item.phrases) for item in items])
    expressions, images = expressions.to(device), normalise_pixels(pixels.to(device))
    stages = model.responses(images, expressions, phrases.to(device))
    return torch.cat(stages, dim=1), features(model, images, expressions, stages[-1]) if look else None


def encode_items(model: PCNet, texts: Sequence[tuple[str, Sequence[str]]]) -> tuple[Tensor, Tensor]:
    """Expressions with their phrases to ids (B, L) and (B, P, L), by the model's own tokenizer."""
    if model.tokenizer is None:
        raise ValueError("The model has no tokenizer. Load it with pcnet.load_model.")
    count = model.config.phrases_used
    expressions = model.tokenizer([text for text, _ in texts])
    flat = [phrase for _, own in texts for phrase in pad_phrases(own, count)]
    phrases = model.tokenizer(flat).reshape(len(texts), count, expressions.shape[1])
    return expressions, phrases

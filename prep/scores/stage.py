"""Scores each proposal against each expression with CLIP: takes crops and texts, returns score rows."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prep.cache.keys import answer_key, fingerprint
from prep.cache.schema import SCORES
from prep.errors import PrepError
from prep.files import sha256_of
from prep.images import UnreadableImage, decode, read_bytes
from prep.masks import rle
from prep.scores.clip import Clip, Floats, Pixels, is_openais
from prep.stage import Resources

VERSION = 1  # part of every key: increment it when crops or scores change
BACKGROUNDS = ("mean", "blur", "keep")
TEXTS_REMEMBERED = 1 << 15
BLUR_SHARE = 0.02  # radius of the blurred background, as a share of the image's longer side


@dataclass(frozen=True, slots=True)
class ScoreSettings:
    """The CLIP model and how proposals are cropped for it.

    ``model`` is an open_clip name (``ViT-B-32``, ``RN50``, ``hf-hub:org/name``) or a folder with an
    ``open_clip_config.json``; ``weights`` a tag of open_clip (``openai``, ``laion2b_s34b_b79k``), a file
    (OpenAI's get QuickGELU), or empty if the model includes its own. ``background``: what surrounds the mask
    in its crop: ``mean`` (CLIP's mean colour), ``blur`` (the blurred image) or ``keep`` (the image).
    ``margin``: how far the crop extends beyond the mask's box on each side, as a share of the box's longer
    side. ``template``: the text, with ``{}`` for the expression.
    """

    model: str = "ViT-B-32"
    weights: str = "openai"
    background: str = "mean"
    margin: float = 0.1
    template: str = "{}"
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.background not in BACKGROUNDS:
            raise PrepError(
                f"--background {self.background!r} does not exist.",
                f"Choose one of: {', '.join(BACKGROUNDS)}.",
            )
        if self.margin < 0:
            raise PrepError(f"--margin {self.margin} is negative.", "Give a share of the box, such as 0.1.")
        if "{}" not in self.template:
            raise PrepError(f"--template {self.template!r} has no {{}}.", "Put {} where the expression goes.")

    def key(self) -> dict[str, object]:
        """Everything that a score depends on, as JSON values; weights in files or folders by their hash."""
        return {
            "version": VERSION,
            "model": Path(self.model).name if Path(self.model).is_dir() else self.model,
            "weights": _weights_name(self),
            "background": self.background,
            "margin": self.margin,
            "template": self.template,
            **({"activation": "quick_gelu"} if is_openais(Path(self.weights), self.model) else {}),
        }


class Text(NamedTuple):
    """An expression to score: its row ID, its split version and its text."""

    row_id: str
    split_by: str
    text: str


@dataclass(frozen=True, slots=True)
class ImageTexts:
    """One image with its masks (compressed RLE of H x W) and every expression to score against them."""

    image: str
    path: str
    sha256: str
    height: int
    width: int
    counts: tuple[str, ...]
    proposals_key: str
    texts: tuple[Text, ...]


class ScoreStage:
    """Maps :class:`ImageTexts` items to rows of the scores schema: one per expression, a score per mask.

    A score is the cosine similarity of CLIP's features of a crop and of a text; higher is better. The crops
    of an image are encoded once, in a batch of their own; each distinct text once, in batches of a fixed
    shape: a score does not depend on what else is in the unit. Needs ``open``; picklable before that.
    """

    def __init__(self, settings: ScoreSettings, resources: Resources | None = None) -> None:
        self.settings = settings
        self.resources = resources or Resources()
        self.key = fingerprint(settings.key())

    def open(self) -> None:
        """Load the model; raises PrepError if its weights cannot be loaded."""
        self._clip = Clip(self.settings.model, self.settings.weights, self.settings.device)
        self._texts: OrderedDict[str, Floats] = OrderedDict()

    def load(self, unit: list[ImageTexts]) -> list[tuple[ImageTexts, Pixels]]:
        """Decode the unit's images and their crops, P x S x S x 3 each.

        Raises PrepError for an image that differs from the one whose masks are in the store.
        """
        return [(item, self._crops(item)) for item in unit]

    def process(self, loaded: list[tuple[ImageTexts, Pixels]]) -> pa.Table:
        """A row for every expression of the unit, images and expressions in the unit's order."""
        rows = []
        words = self._encode_texts([text.text for item, _ in loaded for text in item.texts])
        for item, crops in loaded:
            masks = self._clip.encode_images(crops) if len(crops) else None
            for text in item.texts:
                rows.append(
                    {
                        "row_id": text.row_id,
                        "split_by": text.split_by,
                        "image": item.image,
                        "scores": [] if masks is None else (masks @ words[text.text]).tolist(),
                        "proposals_key": item.proposals_key,
                        "model": self.settings.model,
                        "key": answer_key(f"{self.key}\n{item.proposals_key}", text.text),
                    }
                )
        return pa.Table.from_pylist(rows, schema=SCORES)

    def _crops(self, item: ImageTexts) -> Pixels:
        if not item.counts:
            return np.zeros((0, self._clip.side, self._clip.side, 3), np.uint8)
        remedy = (
            "Give the folder that image paths are relative to with --data, or run `pcnet-prep sam` again."
        )
        try:
            file = read_bytes(item.path)
            pixels = decode(file.data)
        except UnreadableImage as error:
            raise PrepError(f"{item.path}: {str(error).rstrip('.')}.", remedy) from error
        if file.sha256 != item.sha256:
            raise PrepError(f"{item.path} is not the file that its masks were generated from.", remedy)
        masks = [rle.checked_runs(text, *pixels.shape[:2]) for text in item.counts]
        return cut(pixels, masks, self._clip.side, self._clip.fill, self.settings)

    def _encode_texts(self, texts: Sequence[str]) -> dict[str, Floats]:
        """The features of each distinct text, with a cache of recent ones."""
        found = {text: self._texts[text] for text in dict.fromkeys(texts) if text in self._texts}
        fresh = [text for text in dict.fromkeys(texts) if text not in found]
        prompts = [self.settings.template.replace("{}", text) for text in fresh]
        found.update(zip(fresh, self._clip.encode_texts(prompts), strict=True))
        self._texts.update(found)
        while len(self._texts) > TEXTS_REMEMBERED:
            self._texts.popitem(last=False)
        return found


def cut(
    pixels: Pixels,
    masks: Sequence[npt.NDArray[np.int64]],
    side: int,
    fill: tuple[int, int, int],
    settings: ScoreSettings,
) -> Pixels:
    """The CLIP input for each mask (runs of H x W): P x side x side x 3.

    The mask's box plus the margin, cropped at the image's edge, with the background treated, padded to a
    square with ``fill`` (so that nothing is cut off or stretched), and resized (bicubic).
    """
    from PIL import Image, ImageFilter

    height, width = pixels.shape[:2]
    around = pixels
    if settings.background == "mean":
        around = np.broadcast_to(np.array(fill, np.uint8), pixels.shape)
    elif settings.background == "blur":
        blur = ImageFilter.GaussianBlur(BLUR_SHARE * max(height, width))
        around = np.asarray(Image.fromarray(pixels).filter(blur))
    crops = np.empty((len(masks), side, side, 3), np.uint8)
    for place, runs in enumerate(masks):
        left, top, right, bottom = rle.corners(runs, height)
        grow = round(settings.margin * max(right - left + 1, bottom - top + 1))
        rows = slice(max(top - grow, 0), min(bottom + grow + 1, height))
        columns = slice(max(left - grow, 0), min(right + grow + 1, width))
        inside = rle.decode(runs, height, width)[rows, columns, None]
        crop = Image.fromarray(np.where(inside, pixels[rows, columns], around[rows, columns]))
        longer = max(crop.size)
        square = Image.new("RGB", (longer, longer), fill)
        square.paste(crop, ((longer - crop.width) // 2, (longer - crop.height) // 2))
        crops[place] = np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))
    return crops


def _weights_name(settings: ScoreSettings) -> str:
    """A tag unchanged; files by the SHA-256 of their SHA-256s, in the order of their names."""
    files = [Path(settings.weights)] if settings.weights and Path(settings.weights).is_file() else []
    if Path(settings.model).is_dir():
        files += sorted(p for p in Path(settings.model).iterdir() if p.is_file())
    if not files:
        return settings.weights
    digest = hashlib.sha256()
    for file in files:
        digest.update(bytes.fromhex(sha256_of(file)))
    return f"sha256:{digest.hexdigest()}"

"""Runs the `segments` generator, which needs no weights: classical segmentation, merged into at most 40
masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from prep.errors import PrepError
from prep.masks import rle
from prep.records import Proposal

if TYPE_CHECKING:
    from prep.proposals.segments.merging import Regions

VERSION = 2  # part of every key: increment it when the masks change

# Histogram, colour, edge, size, fill (see `prep.proposals.segments.merging.Weights`): trees that make
# different errors.
STRATEGIES = (
    (1.0, 0.0, 0.0, 1.0, 1.0),
    (0.0, 1.0, 1.0, 0.5, 0.5),
)
# Weights of the features that make a region likely to be an object, besides its size (see `_scores`).
CONTRAST, FILL, TOUCHED, SPAN = 1.5, 1.0, 0.5, 2.0
COLOUR_BINS = 16
TEXTURE_BINS = 17


@dataclass(frozen=True, slots=True)
class SegmentSettings:
    """``max_side``: longer side, in pixels, that images are reduced to (never enlarged); ``scale`` and
    ``sigma``: coarseness and blur of the first segmentation (Felzenszwalb and Huttenlocher, 2004, by
    scikit-image); ``min_region``: its smallest region, as a share of the image; ``min_mask`` and
    ``max_mask``: bounds of a mask's share of the image; ``max_overlap``: masks with a larger IoU count as
    duplicates; ``max_masks``: the number to keep.
    """

    max_side: int = 256
    scale: float = 100.0
    sigma: float = 0.4
    min_region: float = 0.001
    min_mask: float = 0.003
    max_mask: float = 0.95
    max_overlap: float = 0.5
    max_masks: int = 40

    def __post_init__(self) -> None:
        if self.max_side < 1 or self.max_masks < 1 or self.scale <= 0:
            raise PrepError(f"segments: the settings are out of range: {asdict(self)}.", "Use the defaults.")


class SegmentGenerator:
    """Regions of a colour segmentation and of its merge trees; deterministic for the same pixels."""

    name = "segments"
    weights_sha256: str | None = None

    def __init__(self, settings: SegmentSettings | None = None) -> None:
        self._settings = settings or SegmentSettings()

    def settings(self) -> dict[str, object]:
        """The settings and the version of the method."""
        return {"version": VERSION, **asdict(self._settings)}

    def open(self) -> None:
        """Compile the merging (numba keeps it on disk for the next process)."""
        self.propose([np.zeros((8, 8, 3), np.uint8)])

    def propose(self, images: Sequence[npt.NDArray[np.uint8]]) -> list[list[Proposal]]:
        """The masks of each H x W x 3 RGB image, the most likely object first."""
        return [_propose(image, self._settings) for image in images]


def _propose(image: npt.NDArray[np.uint8], settings: SegmentSettings) -> list[Proposal]:
    height, width = image.shape[:2]
    small = _reduce(image, settings.max_side)
    labels, regions, nodes = _nodes(small, settings)
    chosen = _choose(nodes, regions, small.shape[:2], settings)
    down = np.bincount(np.arange(height) * small.shape[0] // height)
    across = np.bincount(np.arange(width) * small.shape[1] // width)
    # One mask at a time and column by column, as stored, so memory stays at one byte per pixel.
    columns = labels.T
    return [_proposal(members[columns].repeat(down, axis=1).repeat(across, axis=0)) for members in chosen]


def _reduce(image: npt.NDArray[np.uint8], max_side: int) -> npt.NDArray[np.uint8]:
    """The image at no more than ``max_side`` pixels a side, by averaging."""
    from PIL import Image

    height, width = image.shape[:2]
    ratio = max_side / max(height, width)
    if ratio >= 1:
        return image
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def _nodes(
    image: npt.NDArray[np.uint8], settings: SegmentSettings
) -> tuple[npt.NDArray[np.int64], Regions, npt.NDArray[np.bool_]]:
    """The initial regions (H x W labels and their sums) and every node of their merge trees.

    A node is a row that marks its regions, (nodes, regions); those of the first tree come first, the last
    merged first.
    """
    from skimage.color import rgb2lab
    from skimage.segmentation import felzenszwalb

    from prep.proposals.segments.merging import Regions, Weights, describe, merge

    pixels = image.shape[0] * image.shape[1]
    smallest = max(4, int(settings.min_region * pixels))
    labels = felzenszwalb(image, scale=settings.scale, sigma=settings.sigma, min_size=smallest)
    labels = labels.astype(np.int64)
    count = int(labels.max()) + 1
    lab = rgb2lab(image)
    bins = _bins(lab)
    regions = describe(lab, bins, 3 * COLOUR_BINS + TEXTURE_BINS, labels, count)
    trees = []
    for strategy in STRATEGIES:
        copy = Regions(*(part.copy() for part in regions))
        children, _ = merge(copy, float(pixels), bins.shape[2], Weights(*strategy))
        members = np.zeros((count + len(children), count), bool)
        members[np.arange(count), np.arange(count)] = True
        for step, (left, right) in enumerate(children):
            members[count + step] = members[left] | members[right]
        trees.append(members[::-1])
    return labels, regions, np.concatenate(trees)


def _bins(lab: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Histogram bins of each pixel's lightness, a, b and texture (direction and strength of the gradient)."""
    from scipy.ndimage import gaussian_filter

    top = COLOUR_BINS - 0.01
    lightness = (lab[..., 0] / 100 * top).astype(np.int64)
    chroma = (np.clip((lab[..., 1:] + 64) / 128, 0, 1) * top).astype(np.int64)
    smooth = gaussian_filter(lab[..., 0], 0.8)
    down = np.gradient(smooth, axis=0) if lab.shape[0] > 1 else np.zeros_like(smooth)
    right = np.gradient(smooth, axis=1) if lab.shape[1] > 1 else np.zeros_like(smooth)
    strength = np.hypot(down, right)
    direction = (np.arctan2(down, right) / np.pi * 4 + 4).astype(np.int64) % 8
    texture = np.where(strength < 1.5, 0, 1 + direction + 8 * (strength > 6))
    parts = [lightness, chroma[..., 0], chroma[..., 1], texture]
    return np.stack([part + i * COLOUR_BINS for i, part in enumerate(parts)], axis=-1)


def _choose(
    nodes: npt.NDArray[np.bool_], regions: Regions, shape: tuple[int, int], settings: SegmentSettings
) -> npt.NDArray[np.bool_]:
    """The nodes to keep: by score, skipping those that overlap a better one, up to the limit."""
    areas = nodes @ regions.size
    share = areas / regions.size.sum()
    usable = (share >= settings.min_mask) & (share <= settings.max_mask)
    nodes, areas = nodes[usable], areas[usable]
    shared = (nodes * regions.size) @ nodes.T.astype(np.float64)
    apart = shared <= settings.max_overlap * (areas[:, None] + areas - shared)
    free = np.ones(len(nodes), bool)
    taken: list[int] = []
    for place in np.argsort(-_scores(nodes, regions, shape), kind="stable"):
        if free[place]:
            taken.append(int(place))
            free &= apart[place]
        if len(taken) == settings.max_masks:
            break
    return nodes[taken]


def _scores(
    nodes: npt.NDArray[np.bool_], regions: Regions, shape: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """A score of how likely each node is a whole object: a weighted sum of five features.

    Large regions score higher, as do those that have a sharp outline, fill their box, touch few of the
    image's four sides, and do not span its width (as ground, walls and sky do).
    """
    member = nodes.astype(np.float64)
    outline = ((member @ regions.border) * (1 - member)).sum(axis=1)
    contrast = ((member @ regions.edge) * (1 - member)).sum(axis=1) / np.maximum(outline, 1)
    first = np.where(nodes[:, :, None], regions.box[None, :, :2], np.inf).min(axis=1)
    last = np.where(nodes[:, :, None], regions.box[None, :, 2:], -np.inf).max(axis=1)
    sides = last - first + 1
    touched = (first == 0).sum(axis=1) + (last == np.array(shape) - 1).sum(axis=1)
    areas = nodes @ regions.size
    score: npt.NDArray[np.float64] = (
        np.log(areas / regions.size.sum())
        + CONTRAST * np.log1p(contrast)
        + FILL * areas / sides.prod(axis=1)
        - TOUCHED * touched
        - SPAN * sides[:, 1] / shape[1]
    )
    return score


def _proposal(columns: npt.NDArray[np.bool_]) -> Proposal:
    """The proposal of a mask given column by column, W x H."""
    runs = rle.encode(columns.T)
    x, y, w, h = (float(value) for value in rle.bounding_box(runs, columns.shape[1]))
    return Proposal(rle.compress(runs), rle.area(runs), (x, y, w, h))

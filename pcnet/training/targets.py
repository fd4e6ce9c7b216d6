"""Computes what a student trains on: the teacher's own mask of each training expression, and its weight.

Nothing is read from ground truth: the masks are stored proposals, chosen by the teacher's response maps.
Legend: N expressions of some images, M proposals per image, G = 32, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pcnet.data.collate import encode_texts, pad_phrases
from pcnet.data.images import Pixels, normalise_pixels
from pcnet.data.table import SampleTable
from pcnet.maps import alignment, normalised, on_grid, real
from pcnet.model.inputs import Scope
from pcnet.model.pcnet import PCNet
from pcnet.model.prms import choose, under_maps

Floats = NDArray[np.float32]
CHUNK = 32  # images per pass of the teacher; each is encoded once for all its expressions


@dataclass(frozen=True)
class Targets:
    """For each sample the index of its mask among its image's proposals (-1: there is none), and the weight
    of the sample in the loss, in [0, 1].
    """

    proposal: NDArray[np.int64]
    weight: NDArray[np.float32]


@torch.inference_mode()
def teacher_targets(teacher: PCNet, table: SampleTable, pixels: Pixels, device: torch.device) -> Targets:
    """The targets of all samples.

    Each expression selects the proposal under the peak of its map (:func:`under_peak`). Among the expressions
    of one reference, PRMS chooses one map, whose proposal all of them train on. The weight is the agreement
    of the reference's expressions with it (mean IoU of their proposals and the chosen one) times its margin.
    """
    teacher.eval()
    chosen = np.full(len(table), -1, dtype=np.int64)
    weight = np.zeros(len(table), dtype=np.float32)
    for samples in _by_images(table):
        own, margin, looks, grid = _select(teacher, table, pixels, samples, device)
        # Without a reference, an expression is an object of its own.
        objects = [int(table.target[s]) if table.target[s] >= 0 else -1 - int(s) for s in samples]
        picked = choose(objects, *looks)
        best = np.array([picked[name] for name in objects])
        overlap = _overlaps(grid, own, own[best])
        agreement = np.zeros(len(samples), dtype=np.float32)
        for name in picked:
            members = [row for row, other in enumerate(objects) if other == name]
            agreement[members] = overlap[members].mean()
        chosen[samples] = own[best]
        weight[samples] = agreement * margin[best]
    return Targets(chosen, weight)


def under_peak(maps: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """(N,1,G,G) raw responses and (N,M,G,G) proposals -> the index (N,) of the proposal that each map
    selects (the smaller one of equals), and its margin (N,) in [0, 1].

    The proposal is that of :func:`pcnet.metrics.proposal_under_peak`, on the grid. The margin is 1 minus the
    alignment of the next one: the largest value of the normalised map in a proposal without the peak; it is 0
    if no proposal contains the peak, or if the map has no positive value.
    """
    soft, exists = normalised(maps), real(grid)
    flat = grid.flatten(2)
    at = maps.flatten(1).argmax(1)
    contains = flat.gather(2, at.view(-1, 1, 1).expand(-1, flat.shape[1], 1))[..., 0] > 0.5
    area = flat.sum(-1)
    inside = (soft * grid).flatten(2).sum(-1)
    iou = inside / (soft.flatten(1).sum(1, keepdim=True) + area - inside).clamp(min=1e-6)
    some = contains.any(1, keepdim=True)
    merit = iou.masked_fill(~torch.where(some, contains, exists), -torch.inf)
    ties = merit >= merit.amax(1, keepdim=True) - 1e-6
    rivals = alignment(soft, grid).masked_fill(contains | ~exists, 0.0).amax(1)
    sure = some[:, 0] & (soft.flatten(1).amax(1) > 0)
    return area.masked_fill(~ties, torch.inf).argmin(1), torch.where(
        sure, 1.0 - rivals, torch.zeros_like(rivals)
    )


def _by_images(table: SampleTable) -> Iterator[NDArray[np.int64]]:
    """The samples of :data:`CHUNK` images at a time; images without proposals are left out."""
    counts = np.diff(table.grid_bounds)
    order = np.argsort(table.image, kind="stable")
    order = order[counts[table.image[order]] > 0]
    images = table.image[order]
    starts = np.flatnonzero(np.diff(images, prepend=-1))
    bounds = np.append(starts[::CHUNK], len(order))
    for low, high in pairwise(bounds):
        yield order[low:high]


def _select(
    teacher: PCNet, table: SampleTable, pixels: Pixels, samples: NDArray[np.int64], device: torch.device
) -> tuple[NDArray[np.int64], Floats, tuple[Floats, Floats], NDArray[np.bool_]]:
    """Each sample's proposal, its margin, its image and text features (:func:`pcnet.model.prms.choose`), and
    the masks of its image (N,M,G,G).
    """
    images, row = np.unique(table.image[samples], return_inverse=True)
    packed, _ = table.masks(images, table.max_masks)
    visual = teacher.visual(normalise_pixels(torch.from_numpy(pixels.stack(images)).to(device)))
    place = torch.from_numpy(row).to(device)
    texts = _encoded(teacher, table, samples, device)
    maps = teacher.grounded(visual[place], texts[None], Scope(pairwise=False))[-1].float()
    grid = torch.from_numpy(packed.astype(np.float32)).to(device)[place]
    own, margin = under_peak(on_grid(maps, grid), grid)
    asked = torch.nn.functional.normalize(texts[:, 0].float(), dim=-1)
    looks = under_maps(visual[place], maps).cpu().numpy(), asked.cpu().numpy()
    return own.cpu().numpy(), margin.float().cpu().numpy(), looks, packed[row] > 0


def _encoded(teacher: PCNet, table: SampleTable, samples: NDArray[np.int64], device: torch.device) -> Tensor:
    """(N,1+P,C): the features of each sample's expression and phrases; equal texts are encoded once."""
    if teacher.tokenizer is None:
        raise ValueError("The model has no tokenizer. Load it with pcnet.load_model.")
    count = teacher.config.phrases_used
    texts = [[table.expressions[s], *pad_phrases(table.phrases[s], count)] for s in samples]
    number: dict[str, int] = {}
    places = [[number.setdefault(text, len(number)) for text in own] for own in texts]
    ids = torch.from_numpy(encode_texts(list(number), teacher.tokenizer).astype(np.int64))
    features = teacher.textual(ids.to(device))
    return features[torch.tensor(places, device=device)]


def _overlaps(
    grid: NDArray[np.bool_], one: NDArray[np.int64], other: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The IoU (N,) of two proposals of each sample's image."""
    rows = np.arange(len(grid))
    a, b = grid[rows, one], grid[rows, other]
    union = (a | b).sum((1, 2))
    return np.asarray((a & b).sum((1, 2)) / np.maximum(union, 1))

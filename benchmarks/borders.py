"""Measures how much of each stage's response lies along the image border, and what puts it there.

Objects of the demo's scenes never touch the border, so every response there is an artefact. The variants
change one part of the encoder of a trained model, without further training: its zero padding is replaced by
replicated pixels, or a coordinate input is set to zero.

.venv/bin/python benchmarks/borders.py demo/run/best.pt --store demo/prepared --data demo/data/coco
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pcnet.data.batch import upsample
from pcnet.data.images import Pixels, normalise_pixels
from pcnet.evaluation.dataset import decode, load_evalset
from pcnet.evaluation.responses import encode_items
from pcnet.maps import normalised, without_background
from pcnet.metrics import peak
from pcnet.model import encoders
from pcnet.model.checkpoint import load_model
from pcnet.model.pcnet import PCNet
from prep.cache.store import open_store
from prep.datasets.catalogue import open_dataset

SIDES = {
    "left": np.s_[:, :, 0],
    "right": np.s_[:, :, -1],
    "top": np.s_[:, 0, :],
    "bottom": np.s_[:, -1, :],
}


def as_trained(model: PCNet) -> None:
    """The model as it is."""


def replicated(model: PCNet) -> None:
    """Every convolution pads with the nearest pixel instead of zeros."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.padding != (0, 0):
            layer.padding_mode = "replicate"
            layer._reversed_padding_repeated_twice = [side for side in layer.padding for _ in range(2)]


def without_pixel_coordinates(model: PCNet) -> None:
    """The two coordinate channels of the image are zero."""
    first = model.backbone.layers[0][0]
    first.weight.data[:, 3:] = 0


def without_map_coordinates(model: PCNet) -> None:
    """The linear embedding of coordinates that is added to the feature map has no weight."""
    model.backbone.place.weight.data.zero_()


def without_both(model: PCNet) -> None:
    """Replicated padding, and no coordinates in the image."""
    replicated(model)
    without_pixel_coordinates(model)


VARIANTS: dict[str, Callable[[PCNet], None]] = {
    "as trained": as_trained,
    "replicated padding": replicated,
    "no pixel coordinates": without_pixel_coordinates,
    "both": without_both,
    "no map coordinates": without_map_coordinates,
}


@torch.inference_mode()
def stage_maps(model: PCNet, given: argparse.Namespace) -> tuple[list[Tensor], list[NDArray[np.bool_]]]:
    """(N,h,w) raw responses of every stage for the expressions of the split, and their targets' masks."""
    evalset = load_evalset(open_dataset(given.data, "refcoco"), open_store(given.store), given.split)
    images = sorted({item.image for item in evalset.items})
    number = {name: place for place, name in enumerate(images)}
    pixels = Pixels(evalset.root, images, given.size)
    found: list[list[Tensor]] = []
    for start in range(0, len(evalset.items), 64):
        items = evalset.items[start : start + 64]
        batch = normalise_pixels(torch.from_numpy(pixels.stack([number[item.image] for item in items])))
        texts = encode_items(model, [(item.text, item.phrases) for item in items])
        found.append([one[:, 0] for one in model.responses(batch, *texts)])
    return [torch.cat(stage) for stage in zip(*found, strict=True)], [item.mask() for item in evalset.items]


def row(maps: Tensor, truths: list[NDArray[np.bool_]]) -> str:
    """The share of the response (after ReLU) and of the peaks on each side and on the whole border, and
    PointM, in %.
    """
    soft = normalised(maps).numpy()
    flat = maps.flatten(1).argmax(1).numpy()
    peaks = np.zeros_like(soft)
    peaks.reshape(len(peaks), -1)[np.arange(len(peaks)), flat] = 1
    ring = np.ones(soft.shape[1:], bool)
    ring[1:-1, 1:-1] = False
    parts = []
    for share in (soft, peaks):
        total = max(float(share.sum()), 1e-9)
        parts += [100 * float(share[at].sum()) / total for at in SIDES.values()]
        parts.append(100 * float(share[:, ring].sum()) / total)
    whole = [
        upsample(one[None, None], truth.shape)[0, 0].numpy() for one, truth in zip(maps, truths, strict=True)
    ]
    parts.append(100 * float(np.mean([truth[peak(one)] for one, truth in zip(whole, truths, strict=True)])))
    return "".join(f"{value:8.1f}" for value in parts)


def background(given: argparse.Namespace) -> str:
    """How many proposals of the split's images cover more than half of the image border."""
    evalset = load_evalset(
        open_dataset(given.data, "refcoco"), open_store(given.store), given.split, proposals=True
    )
    proposals = evalset.proposals or {}
    count = some = 0
    for masks in proposals.values():
        grid = torch.from_numpy(np.stack([decode(mask) for mask in masks])).float()[None]
        dropped = int((grid.flatten(2).any(-1) & ~without_background(grid).flatten(2).any(-1)).sum())
        count, some = count + dropped, some + (dropped > 0)
    total = sum(map(len, proposals.values()))
    return f"{count} of {total:,} proposals are background, in {some} of {len(proposals)} images"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--store", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--size", type=int, default=64)
    given = parser.parse_args()
    print(background(given))
    heads = [*SIDES, "border"]
    print(
        f"{'% of response, % of peaks':32s}" + "".join(f"{name:>8s}" for name in [*heads, *heads, "PointM"])
    )
    for name, change in VARIANTS.items():
        model = load_model(given.checkpoint)
        if not isinstance(model.backbone, encoders.TinyEncoder):
            raise SystemExit("Only models with the tiny encoder can be changed.")
        change(model)
        stages, truths = stage_maps(model, given)
        for stage, maps in enumerate(stages, start=1):
            print(f"{name + f', stage {stage}':32s}" + row(maps, truths), flush=True)


if __name__ == "__main__":
    main()

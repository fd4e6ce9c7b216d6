"""Provides the ablation's scenes, stores of exact or generated proposals, and baselines without training.

Imported by benchmarks/ablation.py; not a script.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pycocotools import mask as coco
from scipy import ndimage
from torch.nn import functional as F

from pcnet.data.images import Pixels, normalise_pixels
from pcnet.data.table import Selection as Rows
from pcnet.data.table import load_samples
from pcnet.evaluation.dataset import Item, decode, load_evalset
from pcnet.evaluation.responses import encode_items
from pcnet.metrics import iou, oracle_proposal
from pcnet.model.checkpoint import load_model
from prep.cache.schema import PHRASES, PROPOSALS, SCORES
from prep.cache.store import open_store
from prep.datasets.catalogue import open_dataset
from prep.demo import dataset as synthetic
from prep.demo.scenes import COLOURS, KINDS, RADII, matching, scene
from prep.phrases import decompose
from prep.proposals import propose
from prep.proposals.select import Selection

SIDE, MAP = 64, 16  # side of an image in pixels and of a response map in cells
SEED = 0
SPLITS = {"val": ("val",), "test": ("testA", "testB")}
GROUPS = ("all", "attribute", "position", "relation", "hard position", "hard relation")
FIGURES = ("pointm", "proposal_miou", "miou")
Figures = dict[str, dict[str, float]]  # group -> metric -> percent, and n


def data_folder(out: Path, images: int) -> Path:
    """The scenes in ``out``, written on the first call."""
    root, done = out / "coco", out / f"{images}-images"
    if not done.exists():
        synthetic.write(out, images=images, seed=SEED)
        done.touch()
    return root


def store_folder(out: Path, data: Path, generator: str) -> str:
    """The store of the rules' phrases and ``exact`` or ``segments`` proposals, written on the first call."""
    folder = out / generator
    if not folder.exists():
        temporary = out / f".{generator}"
        make_store(data, temporary, generator)
        temporary.rename(folder)
    return str(folder)


def make_store(data: Path, folder: Path, generator: str) -> None:
    """Write the rows of both stages: the rules' phrases, and :func:`proposals` or :func:`segments`."""
    dataset = open_dataset(data, "refcoco")
    store = open_store(folder, create=True)
    names = ("row_id", "dataset", "split_by", "split", "ref_id", "sent_id", "image_id", "image")
    fixed = {"llm": "rules", "key": "k", "violations": [], "rejected": [], "status": "ok"}
    with store.stage("phrases").writer({"llm": "rules"}) as writer:
        rows = [
            {**{n: getattr(e, n) for n in names}, "expression": e.text, **fixed}
            | {"phrases": list(decompose(e.text).phrases)}
            for e in dataset.expressions()
        ]
        writer.write(pa.Table.from_pylist(rows, schema=PHRASES))
    truths: dict[int, list[np.ndarray]] = {}
    for annotation in _annotations(data):
        truths.setdefault(annotation["image_id"], []).append(decode(annotation["segmentation"]))
    with store.stage("proposals").writer({"generator": generator}) as writer:
        table = []
        for image in dataset.images():
            number = image.image_id or 0
            exact = generator == "exact"
            found = proposals(truths[number], number) if exact else segments(Path(image.path))
            table.append(image_row(image.image, number, found, generator))
        writer.write(pa.Table.from_pylist(table, schema=PROPOSALS))


def proposals(truths: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """Exact masks, halves of two objects, a union of two and two background patches, in random order."""
    rng = np.random.default_rng(seed)
    found = list(truths)
    for mask in (truths[i] for i in rng.permutation(len(truths))[:2]):
        half = mask.copy()
        half[:, : int(np.argwhere(mask)[:, 1].mean())] = False
        found.append(half)
    if len(truths) > 1:
        one, other = rng.permutation(len(truths))[:2]
        found.append(truths[one] | truths[other])
    for _ in range(2):
        y, x = rng.integers(0, SIDE - 14, 2)
        patch = np.zeros((SIDE, SIDE), bool)
        patch[y : y + 14, x : x + 14] = True
        found.append(patch & ~np.any(truths, axis=0))
    found = [mask for mask in found if mask.any()]
    return [found[i] for i in rng.permutation(len(found))]


def segments(path: Path) -> list[np.ndarray]:
    """The masks of ``pcnet-prep sam --generator segments --min-area 20`` for an image."""
    found = propose([path], "segments", Selection(min_area=20, max_overlap=0.8, max_masks=40))[0]
    return [decode({"size": [SIDE, SIDE], "counts": one.counts.encode()}) for one in found]


def image_row(image: str, image_id: int, found: list[np.ndarray], generator: str) -> dict[str, Any]:
    """A row of the table ``proposals``."""
    masks = np.stack(found) if found else np.zeros((0, SIDE, SIDE), bool)
    coded = [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    grid = np.packbits(masks[:, ::2, ::2].reshape(len(masks), 1024), axis=1, bitorder="big")
    listed = [
        {"counts": c["counts"].decode(), "area": int(m.sum()), "bbox": [float(v) for v in coco.toBbox(c)]}
        for c, m in zip(coded, masks, strict=True)
    ]
    shape = {"image": image, "image_id": image_id, "height": SIDE, "width": SIDE}
    rest = {"generator": generator, "key": "k", "status": "ok"}
    return {**shape, **rest, "masks": listed, "grid32": grid.tobytes()}


@torch.inference_mode()
def write_scores(store_uri: str, data: Path, checkpoint: Path) -> None:
    """Write scores for the training rows: the mean response of a single-stage model inside each proposal.

    The released RaS ranks proposals by CLIP. Nothing is pretrained here, so the checkpoint that the arms are
    initialised from replaces CLIP: it is also trained on image-text pairs alone.
    """
    store, model = open_store(store_uri), load_model(checkpoint)
    if store.stage("scores").reader().exists:
        return
    table = load_samples(store, Rows("refcoco", "train"))
    pixels = Pixels(data, table.images, SIDE)
    rows: list[dict[str, Any]] = []
    fixed = {"split_by": "unc", "proposals_key": "k", "model": "stand-in", "key": "k"}
    for start in range(0, len(table), 64):
        chosen = range(start, min(start + 64, len(table)))
        images = table.image[start : start + 64]
        expressions, phrases = encode_items(model, [(table.expressions[i], table.phrases[i]) for i in chosen])
        batch = normalise_pixels(torch.from_numpy(pixels.stack(images)))
        maps = F.interpolate(model.responses(batch, expressions, phrases)[-1], (32, 32), mode="bilinear")
        masks, real = table.masks(images, table.max_masks)
        grid = torch.from_numpy(masks.astype(np.float32))
        means = (maps * grid).sum((-2, -1)) / grid.sum((-2, -1)).clamp(min=1)
        for place, sample in enumerate(chosen):
            own = means[place][torch.from_numpy(real[place])].tolist()
            image = table.images[table.image[sample]]
            rows.append({"row_id": table.row_ids[sample], "image": image, "scores": own, **fixed})
    with store.stage("scores").writer({"model": "stand-in"}) as writer:
        writer.write(pa.Table.from_pylist(rows, schema=SCORES))


def bounds(data: Path, store: str, splits: tuple[str, ...]) -> dict[str, Figures]:
    """The metrics of the baselines without learning and of the oracle, by group."""
    dataset = open_dataset(data, "refcoco")
    objects: dict[int, int] = {}
    for annotation in _annotations(data):
        objects[annotation["image_id"]] = objects.get(annotation["image_id"], 0) + 1
    rows: dict[str, list[tuple[tuple[str, ...], dict[str, float]]]] = {}
    for split in splits:
        evalset = load_evalset(dataset, open_store(store), split, proposals=True)
        masks: dict[str, list[np.ndarray]] = {}
        for item in evalset.items:
            if item.image not in masks:
                masks[item.image] = [decode(one) for one in (evalset.proposals or {})[item.image]]
            number = int(Path(item.image).stem.split("_")[-1])
            fits = attribute_fits(item, number)
            groups = ("all", *item.groups)
            for name, share in (("random object", objects[number]), ("attributes only", fits)):
                figures = dict.fromkeys(("pointm", "proposal_miou"), 100 / share)
                rows.setdefault(name, []).append((groups, figures))
            rows.setdefault("random pixel", []).append((groups, {"pointm": 100 * float(item.mask().mean())}))
            rows.setdefault("oracle", []).append((groups, oracle(item.mask(), masks[item.image])))
    return {
        name: {
            group: {
                figure: statistics.mean(f[figure] for groups, f in own if group in groups)
                for figure in own[0][1]
            }
            for group in GROUPS
            if any(group in groups for groups, _ in own)
        }
        for name, own in rows.items()
    }


def oracle(truth: np.ndarray, masks: list[np.ndarray]) -> dict[str, float]:
    """Metrics of the best proposal with the peak at its centre, and of the ground truth as a 16 x 16 map."""
    best = oracle_proposal(truth, masks)
    mask = np.zeros_like(truth) if best is None else masks[best]
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    coarse = F.adaptive_avg_pool2d(torch.from_numpy(truth).float()[None, None], MAP)
    seen = F.interpolate(coarse, truth.shape, mode="bilinear", align_corners=False)[0, 0].numpy()
    return {
        "pointm": 100.0 * bool(truth.flat[int(depth.argmax())] and mask.any()),
        "proposal_miou": 100 * iou(mask, truth),
        "miou": 100 * iou(seen > 0.5 * seen.max(), truth),
    }


def attribute_fits(item: Item, number: int) -> int:
    """The number of objects in scene ``number`` with the target's stated size, colour and shape."""
    things = scene(Random(f"{SEED} {number - 1}"))
    text = item.text.lower()
    if "relation" in item.groups:  # the rest of the text describes the anchor
        for mark in (" left of", " to the left", " right of", " to the right", " above", " over", " below",
                     " under", " closest", " nearest"):  # fmt: skip
            text = text.split(mark)[0]
    words = ["large" if word == "big" else word for word in text.split()]
    said = tuple(next((w for w in words if w in known), "") for known in (RADII, COLOURS, KINDS))
    stated = (bool(said[0]), bool(said[1]), bool(said[2]))
    like = things[0]._replace(size=said[0], colour=said[1], kind=said[2])
    fits = len(matching(things, like, stated))
    if (fits > 1) != any(group.startswith("hard") for group in item.groups):
        raise ValueError(f"{item.text!r} was parsed incorrectly: {things}.")
    return fits


def _annotations(data: Path) -> list[dict[str, Any]]:
    told = json.loads((data / "refer" / "refcoco" / "instances.json").read_text(encoding="utf-8"))
    annotations: list[dict[str, Any]] = told["annotations"]
    return annotations

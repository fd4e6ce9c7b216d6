"""Writes a synthetic referring dataset in RefCOCO's layout, so that the pipeline runs without downloads."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from prep.demo.scenes import COLOURS, EASY, KINDS, RADII, TYPES, Canvas, Thing, say, scene
from prep.files import replacing, write_whole

# Percentage of images in each split.
SHARES = {"train": 88, "val": 6, "testA": 3, "testB": 3}
# Targets with expressions per training image; one in other splits, so expressions are nearly independent.
TRAIN_TARGETS = 3


def write(folder: Path, *, images: int = 3000, seed: int = 0, canvas: Canvas = EASY) -> Path:
    """Write ``images`` images and their expressions below ``folder/coco``; return that data root.

    The same arguments give the same bytes. In addition to the files of the real dataset there is
    ``refer/refcoco/types.json``: ``sent_id`` (as a string) -> ``{"type": ..., "hard": ...}``.
    """
    root = folder / "coco"
    (root / "train2014").mkdir(parents=True, exist_ok=True)
    (root / "refer" / "refcoco").mkdir(parents=True, exist_ok=True)
    collected = _Collected(canvas)
    for at, split in enumerate(splits(images)):
        random = Random(f"{seed} {at}")
        things = scene(random, canvas)
        pixels, masks = render(things, np.random.default_rng([seed, at]), random, canvas.side)
        name = f"COCO_train2014_{at + 1:012d}.jpg"
        _save_jpeg(root / "train2014" / name, pixels)
        image: Photo = {"id": at + 1, "file_name": name, "height": canvas.side, "width": canvas.side}
        collected.add(image, split, things, masks, random)
    collected.write(root / "refer" / "refcoco")
    return root


def splits(images: int) -> Iterator[str]:
    """The split of each of ``images`` images: ``train`` first, at least one in ``val``."""
    rest = {name: images * share // 100 for name, share in SHARES.items() if name != "train"}
    rest["val"] = max(rest["val"], 1 if images > 1 else 0)
    yield from ["train"] * (images - sum(rest.values()))
    for name, count in rest.items():
        yield from [name] * count


class Photo(TypedDict):
    """An image as the annotation files list it."""

    id: int
    file_name: str
    height: int
    width: int


class _Collected:
    """The contents of the annotation files under construction."""

    def __init__(self, canvas: Canvas) -> None:
        self.canvas = canvas
        self.images: list[Photo] = []
        self.annotations: list[dict[str, object]] = []
        self.refs: list[dict[str, object]] = []
        self.types: dict[str, dict[str, object]] = {}

    def add(
        self,
        image: Photo,
        split: str,
        things: list[Thing],
        masks: list[npt.NDArray[np.bool_]],
        random: Random,
    ) -> None:
        """Add one image, its objects and expressions for some of them."""
        self.images.append(image)
        image_id, first = image["id"], len(self.annotations) + 1
        for number, (thing, mask) in enumerate(zip(things, masks, strict=True), start=first):
            self.annotations.append(_annotation(number, image_id, thing, mask))
        targets = random.sample(
            range(len(things)), min(len(things), TRAIN_TARGETS if split == "train" else 1)
        )
        for target in targets:
            if sentences := self._sentences(things, things[target], random):
                self.refs.append(
                    _reference(self.annotations[first + target - 1], len(self.refs), split, sentences)
                )

    def _sentences(self, things: list[Thing], target: Thing, random: Random) -> list[dict[str, object]]:
        sentences = []
        for kind in TYPES:
            said = say(random, things, target, kind, self.canvas)
            if said is not None:
                number = len(self.types)
                self.types[str(number)] = {"type": said.type, "hard": said.hard}
                # In the real files, "raw" is the typed text and "sent" the cleaned one.
                raw = said.text.capitalize() + random.choice(("", "."))
                tokens = said.text.split()
                sentences.append({"tokens": tokens, "raw": raw, "sent_id": number, "sent": said.text})
        return sentences

    def write(self, folder: Path) -> None:
        """Write ``refs(unc).p``, ``instances.json`` and ``types.json``."""
        categories = [
            {"id": at, "name": name, "supercategory": "shape"} for at, name in enumerate(KINDS, start=1)
        ]
        instances = {
            "info": {"description": "synthetic scenes of coloured shapes", "version": "1"},
            "licenses": [],
            "images": self.images,
            "annotations": self.annotations,
            "categories": categories,
        }
        write_whole(folder / "instances.json", json.dumps(instances).encode())
        write_whole(folder / "types.json", json.dumps(self.types).encode())
        write_whole(folder / "refs(unc).p", pickle.dumps(self.refs, protocol=2))


def _reference(
    annotation: dict[str, object], ref_id: int, split: str, sentences: list[dict[str, object]]
) -> dict[str, object]:
    image_id = annotation["image_id"]
    return {
        "sent_ids": [sentence["sent_id"] for sentence in sentences],
        # The real dataset's suffix: no such files exist, images are found by image_id.
        "file_name": f"COCO_train2014_{image_id:012d}_{ref_id}.jpg",
        "ann_id": annotation["id"],
        "ref_id": ref_id,
        "image_id": image_id,
        "split": split,
        "sentences": sentences,
        "category_id": annotation["category_id"],
    }


def _annotation(number: int, image_id: int, thing: Thing, mask: npt.NDArray[np.bool_]) -> dict[str, object]:
    from pycocotools import mask as coco

    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "id": number,
        "image_id": image_id,
        "category_id": KINDS.index(thing.kind) + 1,
        "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode()},
        "area": int(mask.sum()),
        "bbox": [float(value) for value in coco.toBbox(rle)],
        "iscrowd": 0,
    }


def render(
    things: list[Thing], noise: np.random.Generator, random: Random, side: int = EASY.side
) -> tuple[npt.NDArray[np.uint8], list[npt.NDArray[np.bool_]]]:
    """The scene as H x W x 3 uint8 RGB on a textured background, and each shape's exact H x W mask."""
    pixels = _ground(noise, random, side)
    masks = []
    for thing in things:
        mask = np.zeros((side, side), dtype=bool)
        stencil = _stencil(thing.kind, RADII[thing.size])
        reach = stencil.shape[0] // 2
        mask[thing.y - reach : thing.y + reach + 1, thing.x - reach : thing.x + reach + 1] = stencil
        shade = random.uniform(0.9, 1.0)
        pixels[mask] = np.array(COLOURS[thing.colour], dtype=np.float32) * shade
        masks.append(mask)
    pixels += noise.normal(0.0, 4.0, (side, side, 1)).astype(np.float32)
    return np.clip(pixels, 0, 255).astype(np.uint8), masks


def _ground(noise: np.random.Generator, random: Random, side: int) -> npt.NDArray[np.float32]:
    """A muted background with low- and high-frequency noise, in no colour of a shape."""
    base = np.array([random.uniform(60, 130)] * 3, dtype=np.float32)
    base += np.array([random.uniform(-12, 12) for _ in range(3)], dtype=np.float32)
    from PIL import Image

    # Smooth changes: hard-edged patches would look like objects.
    cell = random.choice((4, 8, 16))
    coarse = noise.normal(0.0, 11.0, (side // cell, side // cell)).astype(np.float32)
    slow = np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))
    return np.asarray(base + slow[:, :, None], dtype=np.float32)


@cache
def _stencil(kind: str, radius: float) -> npt.NDArray[np.bool_]:
    """The (2R + 1) x (2R + 1) mask of a shape of ``radius`` pixels, R = floor(radius)."""
    reach = int(radius)
    v, u = np.mgrid[-reach : reach + 1, -reach : reach + 1] / radius
    if kind == "circle":
        return np.asarray(u * u + v * v <= 1.0)
    if kind == "square":
        return np.asarray(np.maximum(abs(u), abs(v)) <= 0.8)
    if kind == "triangle":
        return np.asarray((v <= 0.75) & (abs(u) <= (v + 1.0) * 0.55))
    if kind == "diamond":
        return np.asarray(abs(u) * 1.25 + abs(v) <= 1.0)
    if kind == "cross":
        return np.asarray((np.minimum(abs(u), abs(v)) <= 0.3) & (np.maximum(abs(u), abs(v)) <= 1.0))
    # A five-pointed star: the radius alternates between the points and the notches.
    angle = np.arctan2(u, -v) % (2 * np.pi / 5)
    swing = abs(angle - np.pi / 5) / (np.pi / 5)
    return np.asarray(np.hypot(u, v) <= 0.42 + 0.6 * swing**1.3)


def _save_jpeg(path: Path, pixels: npt.NDArray[np.uint8]) -> None:
    from PIL import Image

    with replacing(path, durable=False) as file:
        Image.fromarray(pixels).save(file, format="JPEG", quality=95, subsampling="4:4:4")

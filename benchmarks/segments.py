"""Measures how well 40 masks without weights cover annotated objects: ours vs. plain library calls.

Prints the mean best IoU and the recall at IoU 0.5 over all annotations of at least ``--min-area`` pixels, and
the masks and CPU seconds per image.
Run: python benchmarks/segments.py --data ../shared/data/coco
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from prep.images import decode, read_bytes
from prep.proposals.segments.generator import SegmentGenerator

Pixels = npt.NDArray[np.uint8]
Rle = dict[str, Any]
MOST = 40


def objects(data: Path, min_area: float) -> list[tuple[Pixels, list[Rle]]]:
    """Each photo with annotations of that size, and their masks."""
    read = json.loads((data / "annotations" / "instances_train2014.json").read_text())
    by_image: dict[int, list[Any]] = {}
    for annotation in read["annotations"]:
        if annotation["area"] >= min_area:
            by_image.setdefault(annotation["image_id"], []).append(annotation["segmentation"])
    found = []
    for image in read["images"]:
        height, width = image["height"], image["width"]
        rles = []
        for segmentation in by_image.get(image["id"], []):
            rle = coco.frPyObjects(segmentation, height, width)
            rles.append(coco.merge(rle) if isinstance(rle, list) else rle)
        if rles:
            found.append((decode(read_bytes(data / "train2014" / image["file_name"]).data), rles))
    return found


def ours() -> Callable[[Pixels], list[Rle]]:
    generator = SegmentGenerator()
    generator.open()

    def propose(image: Pixels) -> list[Rle]:
        size = list(image.shape[:2])
        return [{"size": size, "counts": p.counts.encode()} for p in generator.propose([image])[0]]

    return propose


def largest(segment: Callable[[Pixels], npt.NDArray[np.int64]]) -> Callable[[Pixels], list[Rle]]:
    """The 40 largest regions of a segmentation."""

    def propose(image: Pixels) -> list[Rle]:
        labels = segment(image)
        order = np.argsort(-np.bincount(labels.ravel()), kind="stable")[:MOST]
        return [coco.encode(np.asfortranarray((labels == label).astype(np.uint8))) for label in order]

    return propose


def contestants() -> dict[str, Callable[[Pixels], list[Rle]]]:
    from skimage.segmentation import felzenszwalb, slic

    found = {"ours (segments)": ours()}
    for scale, smallest in ((1, 20), (100, 50), (300, 200), (500, 500), (1000, 1000)):
        found[f"felzenszwalb scale={scale} min_size={smallest}"] = largest(
            lambda image, scale=scale, smallest=smallest: felzenszwalb(image, scale=scale, min_size=smallest)
        )
    found[f"slic n_segments={MOST}"] = largest(lambda image: slic(image, n_segments=MOST, start_label=0))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/coco"))
    parser.add_argument("--min-area", type=float, default=1000)
    given = parser.parse_args()
    photos = objects(given.data, given.min_area)
    count = sum(len(rles) for _, rles in photos)
    print(f"{len(photos)} photos, {count} objects of {given.min_area:g} pixels or more")
    print(f"{'':40} {'best IoU':>9} {'recall@0.5':>11} {'masks':>6} {'s/image':>8}")
    for name, propose in contestants().items():
        started, best, masks = time.process_time(), [], 0
        for image, rles in photos:
            proposed = propose(image)
            masks += len(proposed)
            overlap = coco.iou(proposed, rles, [0] * len(rles))
            best += list(np.max(overlap, axis=0)) if proposed else [0.0] * len(rles)
        seconds = (time.process_time() - started) / len(photos)
        ious = np.array(best)
        row = f"{ious.mean():9.3f} {(ious >= 0.5).mean():11.3f} {masks / len(photos):6.1f} {seconds:8.2f}"
        print(f"{name:40} {row}", flush=True)


if __name__ == "__main__":
    main()

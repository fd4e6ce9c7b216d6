"""The layout `refer`: ``refer/<dataset>/refs(<split_by>).p`` and ``instances.json``, as RefCOCO is published.

Read by lichengunc/refer, ``refer.py`` lines 60-72 (files) and 94-124 (keys), and by the copies of it in LAVT,
ReLA, HybridGL and others. Masks are a list with one RLE, the form that ``getMask`` (lines 280-285) takes for
masks that are no polygons.
"""

from __future__ import annotations

import json
import pickle
from collections import defaultdict
from itertools import count

from prep.exports.output import Exported, file_name
from prep.exports.references import Category, Reference, Target, Targets, references, with_targets
from prep.exports.request import Request

DEFAULT_SPLIT_BY = "unc"
IMAGES = "train2014/"


def export(request: Request) -> Exported:
    """Write one refs file for each dataset and split_by of the input, and one ``instances.json`` each.

    References without a mask or box are left out. ``file_name`` is relative to the folder of COCO's images
    if they are below it, else to the data root.
    """
    done = Exported(request.layout, request.to)
    output = request.output(done)
    targets = Targets(request.source, done)
    found = list(with_targets(references(request.source, request.splits, done), targets))
    done.count("references", len(found))
    done.count("expressions", sum(len(reference.sentences) for reference, _ in found))
    files: dict[str, list[tuple[Reference, Target]]] = defaultdict(list)
    for reference, target in found:
        files[reference.dataset].append((reference, target))
    for dataset, members in files.items():
        folder = f"refer/{file_name(dataset)}"
        refs, instances = _entries(members, targets.categories, done)
        for split_by, entries in refs.items():
            name = file_name(split_by) if split_by else DEFAULT_SPLIT_BY
            output.put(f"{folder}/refs({name}).p", pickle.dumps(entries, protocol=2))
        output.put(f"{folder}/instances.json", json.dumps(instances).encode())
    return output.finish()


def _entries(
    members: list[tuple[Reference, Target]], categories: list[Category], done: Exported
) -> tuple[dict[str, list[dict[str, object]]], dict[str, object]]:
    """The references by split_by, and the content of ``instances.json``."""
    free = count(max([0, *(target.annotation or 0 for _, target in members)]) + 1)
    refs: dict[str, list[dict[str, object]]] = defaultdict(list)
    images: dict[int, dict[str, object]] = {}
    annotations: dict[tuple[int, Target], dict[str, object]] = {}
    for reference, target in members:
        number = reference.image_id
        image = reference.image.removeprefix(IMAGES)
        size = {"height": target.height, "width": target.width}
        images.setdefault(number, {"id": number, "file_name": image, **size})
        if (number, target) not in annotations:
            done.note("references with a box alone: the box is their polygon", target.counts is None)
            category = categories[0]["id"] if target.category is None else target.category
            at = next(free) if target.annotation is None else target.annotation
            annotations[number, target] = _annotation(at, number, category, target)
        annotation = annotations[number, target]
        refs[reference.split_by].append(_reference(reference, image, annotation))
    instances: dict[str, object] = {
        "info": {"description": "written by pcnet-prep"},
        "licenses": [],
        "images": list(images.values()),
        "annotations": list(annotations.values()),
        "categories": categories,
    }
    return refs, instances


def _annotation(at: int, image_id: int, category: int, target: Target) -> dict[str, object]:
    from prep.masks import rle

    x, y, w, h = target.box
    if target.counts is None:
        shape: object = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        area = w * h
    else:
        shape = [{"size": [target.height, target.width], "counts": target.counts}]
        area = rle.area(rle.expand(target.counts))
    return {
        "id": at, "image_id": image_id, "category_id": category, "segmentation": shape, "area": area,
        "bbox": list(target.box), "iscrowd": 0,
    }  # fmt: skip


def _reference(reference: Reference, image: str, annotation: dict[str, object]) -> dict[str, object]:
    return {
        "sent_ids": [sentence.sent_id for sentence in reference.sentences],
        "file_name": image,
        "ann_id": annotation["id"],
        "ref_id": reference.ref_id,
        "image_id": reference.image_id,
        "split": reference.split,
        "sentences": [
            {"tokens": text.split(), "raw": text, "sent_id": sent_id, "sent": text}
            for sent_id, text, _ in reference.sentences
        ],
        "category_id": annotation["category_id"],
    }

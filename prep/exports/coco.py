"""The layout `coco`: one COCO annotation file of all proposals, ``instances.json``.

The keys are those of COCO's own files and of SAM's generator (facebookresearch/segment-anything,
``segment_anything/automatic_mask_generator.py``, ``generate``). ``segmentation`` is compressed RLE of the
whole image, ``bbox`` XYWH in pixels, ``score`` the predicted IoU.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import BinaryIO

from prep.exports.output import Exported
from prep.exports.request import Request, image_numbers, proposal_rows
from prep.records import MaskRow, ProposalRow

NAME = "instances.json"
CATEGORY = {"id": 1, "name": "object", "supercategory": "object"}


def export(request: Request) -> Exported:
    """Write ``instances.json``: ``images``, ``annotations`` and one category, ``object``."""
    return request.one_file(NAME, "proposals", _write)


def _write(request: Request, done: Exported, file: BinaryIO) -> None:
    images = list(usable_images(request, done))
    numbers = image_numbers(((row["image"], row["image_id"]) for row in images), done)
    done.count("images", len(images))
    done.count("masks", 0)
    entries = (
        {
            "id": numbers[row["image"]],
            "file_name": row["image"],
            "height": row["height"],
            "width": row["width"],
        }
        for row in images
    )
    file.write(b'{"info": {"description": "proposals of pcnet-prep"}, "licenses": [], "categories": ')
    file.write(json.dumps([CATEGORY]).encode())
    _list(file, "images", entries)
    _list(file, "annotations", _annotations(request, numbers, done))
    file.write(b"}\n")


def usable_images(request: Request, done: Exported) -> Iterator[ProposalRow]:
    """``image``, ``image_id``, ``height``, ``width`` and ``key`` of each image with a size; the others, and
    those of the dataset that the store lacks, are counted.
    """
    rest = set(request.wanted or ())
    for row in proposal_rows(
        request, request.wanted, ["image", "image_id", "height", "width", "key", "error"]
    ):
        rest.discard(row["image"])
        if row["error"] or not row["height"]:
            done.leave_out(f"images without masks: {row['error']}")
        else:
            yield row
    done.leave_out("images without proposals in the store", len(rest))


def _annotations(request: Request, numbers: Mapping[str, int], done: Exported) -> Iterator[dict[str, object]]:
    at = 0
    for row in proposal_rows(request, request.wanted):
        for mask in row["masks"] if row["image"] in numbers else ():
            at += 1
            yield {
                "id": at,
                "image_id": numbers[row["image"]],
                "category_id": CATEGORY["id"],
                "segmentation": {"size": [row["height"], row["width"]], "counts": mask["counts"]},
                "area": mask["area"],
                "bbox": mask["bbox"],
                "iscrowd": 0,
                **_values(mask),
            }
    done.counts["masks"] = at


def _values(mask: MaskRow) -> dict[str, object]:
    """SAM's own values for a mask, under the keys of its generator; those that it has not are left out."""
    values = {
        "score": mask["predicted_iou"],
        "stability_score": mask["stability_score"],
        "point_coords": None if mask["point"] is None else [mask["point"]],
        "crop_box": mask["crop_box"],
    }
    return {name: value for name, value in values.items() if value is not None}


def _list(file: BinaryIO, name: str, entries: Iterator[dict[str, object]]) -> None:
    """Write a member of the file's object whose value is a list, one element at a time."""
    separator = f', "{name}": ['
    for entry in entries:
        file.write(f"{separator}\n{json.dumps(entry)}".encode())
        separator = ","
    file.write(b"]" if separator == "," else f"{separator}]".encode())

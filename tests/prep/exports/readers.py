"""Readers of the layouts, each written from the documented format of the program that reads it."""

from __future__ import annotations

import json
import pickle
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco

Mask = npt.NDArray[np.bool_]


class Refer:
    """REFER's index of a dataset, from its documented files: refs by id, annotations, images, sentences."""

    def __init__(self, root: Path, dataset: str, split_by: str) -> None:
        folder = root / dataset
        self.refs = {r["ref_id"]: r for r in pickle.loads((folder / f"refs({split_by}).p").read_bytes())}
        instances = json.loads((folder / "instances.json").read_text())
        self.anns = {a["id"]: a for a in instances["annotations"]}
        self.images = {i["id"]: i for i in instances["images"]}
        self.categories = {c["id"]: c["name"] for c in instances["categories"]}
        self.sentences = {s["sent_id"]: s for r in self.refs.values() for s in r["sentences"]}
        assert len(self.anns) == len(instances["annotations"])

    def ids(self, split: str) -> list[int]:
        return [ref_id for ref_id, ref in self.refs.items() if ref["split"] == split]

    def box(self, ref_id: int) -> list[float]:
        return self.anns[self.refs[ref_id]["ann_id"]]["bbox"]

    def mask(self, ref_id: int) -> npt.NDArray[np.uint8]:
        """The sum of an annotation's parts, as REFER adds them."""
        ref = self.refs[ref_id]
        parts, image = self.anns[ref["ann_id"]]["segmentation"], self.images[ref["image_id"]]
        if isinstance(parts[0], list):
            parts = coco.frPyObjects(parts, image["height"], image["width"])
        decoded = coco.decode(parts)
        assert decoded.shape[:2] == (image["height"], image["width"])
        return decoded.sum(axis=2).astype(np.uint8)


def reclip(input_file: Path, detector_file: Path) -> list[dict[str, Any]]:
    """What ReCLIP's program does with its two files: image names, gold boxes and candidates by expression."""
    data = [json.loads(line) for line in input_file.read_text().split("\n")[:-1]]
    boxes = {int(number): found for number, found in json.loads(detector_file.read_text()).items()}
    made = []
    for datum in data:
        name = datum["file_name"]
        if "coco" in name.lower():
            name = "_".join(name.split("_")[:-1]) + ".jpg"
        wanted = datum["ann_id"] if isinstance(datum["ann_id"], list) else [datum["ann_id"]]
        gold = [ann["bbox"] for ann in datum["anns"] if ann["id"] in wanted]
        for sentence in datum["sentences"]:
            made.append(
                {
                    "image": name, "gold": gold, "anns": datum["anns"], "boxes": boxes[datum["image_id"]],
                    "raw": sentence["raw"], "sent_id": sentence["sent_id"],
                }
            )  # fmt: skip
    return made


def simrec(root: Path, dataset: str, split: str) -> list[dict[str, Any]]:
    """SimREC's samples of a split: COCO file name, box, texts and mask."""
    samples = []
    for entry in json.loads((root / "anns" / f"{dataset}.json").read_text())[split]:
        mask = np.load(root / "masks" / dataset / f"{entry['mask_id']}.npy")
        samples.append({**entry, "image": f"COCO_train2014_{entry['iid']:012d}.jpg", "mask": mask})
    return samples


def pseudo_mask(root: Path, dataset: str, split_by: str, ref_id: int) -> npt.NDArray[np.uint8]:
    """A pseudo mask as Segment-Select-Correct opens it; its instances are its values other than 0."""
    folder = dataset + (f"_{split_by}" if dataset == "refcocog" else "")
    path = root / "instance_masks" / folder / f"pseudo_gt_mask_{ref_id}.png"
    with Image.open(path) as image:
        assert np.array_equal(np.array(image.convert("P")), np.array(image.convert("L")))
        return np.array(image.convert("P"))


def triplets(path: Path) -> dict[str, dict[str, Any]]:
    """Zeroshot_REC's dict of a file: one JSON object a line, split at line ends alone."""
    found: dict[str, dict[str, Any]] = {}
    with open(path, encoding="utf-8") as file:
        for line in file:
            found.update(json.loads(line.strip()))
    return found


class _Bits:
    def __init__(self, data: list[int]) -> None:
        self.text, self.at = "".join(f"{byte:08b}" for byte in data), 0

    def take(self, count: int) -> int:
        self.at += count
        return int(self.text[self.at - count : self.at], 2)


def brush(data: list[int], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Label Studio's brush run lengths as (H, W, 4), by the format's published decoder: a length of values, a
    word size, four sizes of lengths, then runs of one value or of single values.
    """
    bits = _Bits(data)
    count, word = bits.take(32), bits.take(5) + 1
    sizes = [bits.take(4) + 1 for _ in range(4)]
    out = np.zeros(count, np.uint8)
    at = 0
    while at < count:
        repeated = bits.take(1)
        length = bits.take(sizes[bits.take(2)]) + 1
        if repeated:
            out[at : at + length] = bits.take(word)
        else:
            out[at : at + length] = [bits.take(word) for _ in range(length)]
        at += length
    assert at == count
    return out.reshape(height, width, 4)


def label_studio(folder: Path) -> dict[str, list[Mask]]:
    """Image -> the masks of its prediction; the tags that they name are in the configuration."""
    view = ET.fromstring((folder / "label_config.xml").read_text())
    control, labels = view.find("BrushLabels"), {label.get("value") for label in view.iter("Label")}
    assert control is not None
    found: dict[str, list[Mask]] = {}
    for path in sorted(folder.glob("tasks-*.json")):
        for task in json.loads(path.read_text()):
            (prediction,) = task["predictions"]
            masks = found.setdefault(task["data"]["file_name"], [])
            for result in prediction["result"]:
                assert result["from_name"] == control.get("name")
                assert result["to_name"] == control.get("toName") == view.find("Image").get("name")
                assert set(result["value"]["brushlabels"]) <= labels
                size = result["original_height"], result["original_width"]
                pixels = brush(result["value"]["rle"], *size)
                assert (pixels == pixels[:, :, 3:]).all()
                masks.append(pixels[:, :, 3] > 0)
    return found


def cvat(path: Path) -> dict[str, list[Mask]]:
    """Image -> its masks: run lengths of the mask's box row by row, the first outside."""
    root = ET.parse(path).getroot()
    labels = {name.text for name in root.iterfind("meta/task/labels/label/name")}
    found: dict[str, list[Mask]] = {}
    for image in root.iterfind("image"):
        masks = found.setdefault(image.get("name", ""), [])
        for element in image.iterfind("mask"):
            assert element.get("label") in labels
            x, y, w, h = (int(element.get(one, "")) for one in ("left", "top", "width", "height"))
            runs = [int(run) for run in element.get("rle", "").split(",")]
            values = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
            mask = np.zeros((int(image.get("height", "")), int(image.get("width", ""))), bool)
            mask[y : y + h, x : x + w] = values.reshape(h, w)
            masks.append(mask)
    return found

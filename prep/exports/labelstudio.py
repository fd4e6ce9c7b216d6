"""The layout `labelstudio`: tasks with the proposals as brush predictions, and the labelling configuration.

Formats from HumanSignal/label-studio-sdk: ``src/label_studio_sdk/converter/brush.py`` lines 3-24 and 69-99
(run lengths, of RGBA pixels row by row) and 404-452 (a prediction), ``converter/imports/coco.py`` lines 23-32
(a task), ``converter/imports/label_config.py`` lines 4-12 (the configuration).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from prep.exports.coco import usable_images
from prep.exports.output import Exported, digest
from prep.exports.request import VERSION, Request, proposal_rows
from prep.masks import rle
from prep.records import ProposalRow

LABEL = "object"
# Where Label Studio serves files below its LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT.
URL = "/data/local-files/?d="
CONFIG = f"""<View>
  <Image name="image" value="$image" zoom="true"/>
  <BrushLabels name="label" toName="image">
    <Label value="{LABEL}" background="rgba(255, 0, 0, 0.7)"/>
  </BrushLabels>
</View>
"""
TASKS = 100  # images in a file; Label Studio limits the size of an upload
SIZES = (3, 4, 8, 16)  # bits of a run's length


def export(request: Request) -> Exported:
    """Write ``tasks-00001.json`` and so on, of up to :data:`TASKS` images each, and ``label_config.xml``."""
    done = Exported(request.layout, request.to)
    output = request.output(done)
    output.put("label_config.xml", CONFIG.encode())
    images = sorted(usable_images(request, done), key=lambda row: str(row["image"]))
    done.count("images", len(images))
    for number, start in enumerate(range(0, len(images), TASKS), 1):
        members = images[start : start + TASKS]
        name, key = f"tasks-{number:05}.json", digest(VERSION, members)
        if not output.current(name, key):
            rows = {row["image"]: row for row in proposal_rows(request, {one["image"] for one in members})}
            tasks = [_task(rows[one["image"]]) for one in members]
            output.put(name, json.dumps(tasks).encode(), key)
    return output.finish()


def _task(row: ProposalRow) -> dict[str, object]:
    size = {"original_width": row["width"], "original_height": row["height"]}
    results = []
    for at, mask in enumerate(row["masks"]):
        pixels = rle.decode_counts(mask["counts"], row["height"], row["width"])
        value = {"format": "rle", "rle": brush_rle(pixels), "brushlabels": [LABEL]}
        result = {
            "id": f"mask{at}", "type": "brushlabels", "from_name": "label", "to_name": "image",
            "image_rotation": 0, **size, "value": value,
        }  # fmt: skip
        score = mask["predicted_iou"]
        results.append(result if score is None else {**result, "score": score})
    url = URL + quote(row["image"])
    prediction = {"model_version": row["generator"], "result": results}
    return {"data": {"image": url, "file_name": row["image"]}, "predictions": [prediction]}


def brush_rle(mask: npt.NDArray[np.bool_]) -> list[int]:
    """The bytes of an H x W mask in the run-length format of the brush: its four channels all 0 or 255.

    32 bits: the number of values; 5: the bits of a value less one; 4 x 4: the bits of each size of length,
    less one. Then for each run a bit (1), two bits (the size), the length less one, and the value.
    """
    flat = np.ascontiguousarray(mask).ravel()
    ends = np.flatnonzero(np.diff(flat, append=~flat[-1:])) + 1
    lengths = np.diff(ends, prepend=0) * 4
    bits = [f"{4 * flat.size:032b}", f"{8 - 1:05b}", *(f"{size - 1:04b}" for size in SIZES)]
    bits += [_run(length, bool(flat[end - 1])) for end, length in zip(ends, lengths.tolist(), strict=True)]
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8, "big"))


@lru_cache(maxsize=1 << 14)  # few lengths make up most of the runs of an image
def _run(length: int, inside: bool) -> str:
    value = "11111111" if inside else "00000000"
    return "".join(_short_run(part, value) for part in _parts(length))


def _parts(length: int) -> Iterator[int]:
    longest = 1 << SIZES[-1]
    while length > longest:
        yield longest
        length -= longest
    yield length


def _short_run(length: int, value: str) -> str:
    at = next(at for at, size in enumerate(SIZES) if length <= 1 << size)
    return f"1{at:02b}{length - 1:0{SIZES[at]}b}{value}"

"""The layout `cvat`: ``annotations.xml``, "CVAT for images 1.1" with the proposals as masks.

Format from cvat-ai/cvat, ``cvat/apps/dataset_manager/formats/cvat.py``: ``dump_as_cvat_annotation`` (images,
``<mask>``) and ``load_anno`` (its branch for ``mask``), and from https://docs.cvat.ai/docs/other/xml_format.
``rle`` are the runs of the mask's box, row by row, the first of them outside.
"""

from __future__ import annotations

import re
from typing import BinaryIO
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from prep.exports.coco import usable_images
from prep.exports.output import Exported
from prep.exports.request import Request, proposal_rows
from prep.masks import rle
from prep.records import MaskRow

NAME = "annotations.xml"
LABEL = "object"
# What XML 1.0 cannot hold, not even escaped; and line ends, which a reader turns into spaces.
_IMPOSSIBLE = re.compile("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\x7f-\x9f]")


def export(request: Request) -> Exported:
    """Write ``annotations.xml``; an image whose name XML cannot hold is left out.

    CVAT finds an image of its task by ``name``, the path below the data root, or by the end of it.
    """
    return request.one_file(NAME, "proposals", _write)


def _write(request: Request, done: Exported, file: BinaryIO) -> None:
    images = {row["image"]: row for row in usable_images(request, done)}
    hostile = {image for image in images if _IMPOSSIBLE.search(image)}
    done.leave_out("images whose name XML cannot hold", len(hostile))
    numbers = {image: at for at, image in enumerate(image for image in images if image not in hostile)}
    done.count("images", len(numbers))
    done.count("masks", 0)
    label = f"<label><name>{escape(LABEL)}</name><type>mask</type><attributes></attributes></label>"
    about = f"<id>0</id><size>{len(numbers)}</size><mode>annotation</mode><labels>{label}</labels>"
    file.write(b'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
    file.write(f"<meta><task>{about}</task></meta>\n".encode())
    for row in proposal_rows(request, numbers.keys()):
        size = f'width="{row["width"]}" height="{row["height"]}"'
        file.write(f'<image id="{numbers[row["image"]]}" name={quoteattr(row["image"])} {size}>\n'.encode())
        for mask in row["masks"]:
            if mask["area"]:
                file.write(_mask(mask, row["height"], row["width"]).encode())
                done.count("masks")
        file.write(b"</image>\n")
    file.write(b"</annotations>\n")


def _mask(mask: MaskRow, height: int, width: int) -> str:
    pixels = rle.decode_counts(mask["counts"], height, width)
    x, y, w, h = rle.bounding_box(rle.encode(pixels), height)
    # Our runs go column by column: those of the transposed box go row by row.
    runs = ", ".join(map(str, rle.encode(np.ascontiguousarray(pixels[y : y + h, x : x + w].T)).tolist()))
    place = f'left="{x}" top="{y}" width="{w}" height="{h}"'
    return f'<mask label="{LABEL}" source="auto" occluded="0" rle="{runs}" {place} z_order="0"></mask>\n'

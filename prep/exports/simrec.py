"""The layout `simrec`: ``anns/<dataset>.json`` and ``masks/<dataset>/<ref_id>.npy``.

Read by SimREC, RefCLIP and WeakMCN (luogen1996/SimREC, ``simrec/datasets/dataset.py`` lines 51-72); written
as its ``data/data_process.py`` does: categories lines 94-113, entries 153-171, masks 172-173, file 187-188.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prep.exports.best import chosen_masks
from prep.exports.output import Exported, Output, digest, file_name
from prep.exports.references import Reference, Targets, references, with_targets
from prep.exports.request import VERSION, Request
from prep.masks import rle


class _Labelled(NamedTuple):
    """A reference with its XYWH box, its category's place among all, and its mask's key and runs."""

    reference: Reference
    box: tuple[float, ...]
    category: int
    key: str
    mask: npt.NDArray[np.bool_]


def export(request: Request) -> Exported:
    """Write the entries of every split, one for each reference in ``train`` and for each expression
    elsewhere, and the masks as uint8 (H, W).

    Masks and boxes are the ground truth, or with ``request.masks`` those that a model chose.
    """
    done = Exported(request.layout, request.to)
    output = request.output(done)
    entries: dict[str, dict[str, list[dict[str, object]]]] = defaultdict(lambda: defaultdict(list))
    done.count("references", 0)
    for labelled in _labelled(request, done):
        reference = labelled.reference
        dataset = file_name(reference.dataset)
        texts = [sentence.text for sentence in reference.sentences]
        entry = {
            "iid": reference.image_id,
            "bbox": list(labelled.box),
            "cat_id": labelled.category,
            "mask_id": reference.ref_id,
        }
        groups = [texts] if reference.split == "train" else [[text] for text in texts]
        entries[dataset][reference.split] += [{**entry, "refs": group} for group in groups]
        _save(output, f"masks/{dataset}/{reference.ref_id}.npy", labelled)
        done.count("references")
        done.count("expressions", len(texts))
    for dataset, splits in entries.items():
        output.put(f"anns/{dataset}.json", json.dumps(splits).encode())
    return output.finish()


def _labelled(request: Request, done: Exported) -> Iterator[_Labelled]:
    found = references(request.source, request.splits, done)
    targets = Targets(request.source, done)
    categories = sorted(targets.categories, key=lambda one: one["id"])
    order: dict[int | None, int] = {one["id"]: at for at, one in enumerate(categories)}
    if request.masks in (None, "truth"):
        for reference, target in with_targets(found, targets):
            if target.counts is None:
                done.leave_out("references with a box alone")
                continue
            mask = rle.decode_counts(target.counts, target.height, target.width)
            key = digest(VERSION, target.counts, target.height, target.width)
            yield _Labelled(reference, target.box, order.get(target.category, 0), key, mask)
        return
    for reference, chosen in chosen_masks(request, found, done):
        mask = chosen.mask()
        box = tuple(map(float, rle.bounding_box(rle.encode(mask), chosen.height)))
        yield _Labelled(reference, box, 0, chosen.key, mask)


def _save(output: Output, name: str, labelled: _Labelled) -> None:
    if not output.current(name, labelled.key):
        stream = io.BytesIO()
        np.save(stream, labelled.mask.astype(np.uint8), allow_pickle=False)
        output.put(name, stream.getvalue(), labelled.key)

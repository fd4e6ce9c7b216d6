"""The layout `reclip`: ``<dataset>_<split>.jsonl`` and ``<dataset>_dets_dict.json``.

Read by allenai/reclip, ``main.py`` lines 67-69 and 121-133 (expressions) and 102-110 and 134-137 (boxes);
file names from its README and ``UNITER/scripts``. Zeroshot_REC (Show-han/Zeroshot_REC,
``eval_refcoco/main.py`` lines 63-65) reads the same files.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import PurePosixPath

from prep.exports.output import Exported, file_name
from prep.exports.references import Reference, Target, Targets, references, with_targets
from prep.exports.request import Request, proposal_rows

COCO_FOLDER = "train2014/"


def export(request: Request) -> Exported:
    """Write the expressions of each split with the annotated boxes of their images, and the proposals' boxes.

    ``anns`` are ground truth: the program uses them to score, and takes them as candidates too if it is not
    given the detections. Images that it cannot find by its rule for names are left out.
    """
    done = Exported(request.layout, request.to)
    output = request.output(done)
    targets = Targets(request.source, done)
    found = list(with_targets(references(request.source, request.splits, done), targets))
    boxes: dict[int, dict[int, tuple[float, ...]]] = defaultdict(dict)
    numbered = list(_annotated(found))
    for reference, target, at in numbered:
        boxes[reference.image_id][at] = target.box
    lines: dict[str, list[str]] = defaultdict(list)
    images: dict[str, tuple[str, int]] = {}
    done.count("references", 0)
    for reference, _, at in numbered:
        name = name_with_suffix(reference)
        if name is None:
            done.leave_out("references whose image name the program would change")
            continue
        anns = [{"id": number, "bbox": list(box)} for number, box in boxes[reference.image_id].items()]
        said = [{"raw": sentence.text, "sent_id": sentence.sent_id} for sentence in reference.sentences]
        image = {"file_name": name, "image_id": reference.image_id, "ann_id": at}
        lines[f"{file_name(f'{reference.dataset}_{reference.split}')}.jsonl"].append(
            json.dumps({**image, "anns": anns, "sentences": said}) + "\n"
        )
        images[reference.image] = reference.dataset, reference.image_id
        done.count("references")
        done.count("expressions", len(said))
    for name, rows in lines.items():
        output.put(name, "".join(rows).encode())
    for dataset, detections in _detections(request, images, done).items():
        output.put(f"{file_name(dataset)}_dets_dict.json", json.dumps(detections).encode())
    return output.finish()


def name_with_suffix(reference: Reference) -> str | None:
    """The reference's ``file_name``, relative to the image folder; None if the program would find another.

    It drops the last part after ``_`` of any name with "coco" in it, and the suffix, for ``.jpg``.
    """
    name = reference.image.removeprefix(COCO_FOLDER)
    if "coco" not in name.lower():
        return name
    path = PurePosixPath(name)
    return f"{name[:-4]}_{reference.ref_id}.jpg" if path.suffix == ".jpg" else None


def _annotated(found: list[tuple[Reference, Target]]) -> Iterator[tuple[Reference, Target, int]]:
    """Each reference with its target's annotation id: the dataset's, or a new one for each target."""
    free = max([0, *(target.annotation or 0 for _, target in found)])
    given: dict[tuple[str, Target], int] = {}
    for reference, target in found:
        at = target.annotation
        if at is None:
            at = given.setdefault((reference.image, target), free + 1)
            free = max(free, at)
        yield reference, target, at


def _detections(
    request: Request, images: dict[str, tuple[str, int]], done: Exported
) -> dict[str, dict[str, object]]:
    """Dataset -> image_id as text -> the XYWH boxes of the image's proposals, in the store's order."""
    found: dict[str, dict[str, object]] = defaultdict(dict)
    rest = dict(images)
    for row in proposal_rows(request, images.keys(), ["image", "masks"]):
        dataset, number = rest.pop(row["image"])
        found[dataset][str(number)] = [mask["bbox"] for mask in row["masks"]]
        done.count("boxes", len(row["masks"]))
    done.leave_out("images without proposals in the store", len(rest))
    return found

"""The layout `pseudo-png`: a mask a reference, ``instance_masks/<dataset>/pseudo_gt_mask_<ref_id>.png``.

Read by Segment-Select-Correct (fgirbal/segment-select-correct,
``ssc_ris/refer_dataset/unsupervised_dataset.py`` lines 49-51 and 133): RefCOCOg's folder has ``_<split_by>``
after its name. A mask without pixels means that the reference is not used in training
(``scripts/create_zero_shot_masks_dataset.py`` lines 154-155).
"""

from __future__ import annotations

import io

from prep.exports.best import chosen_masks
from prep.exports.output import Exported, file_name
from prep.exports.references import Reference, references
from prep.exports.request import Request


def export(request: Request) -> Exported:
    """Write an 8-bit greyscale PNG of the image's size for each reference, 255 inside and 0 outside."""
    from PIL import Image

    done = Exported(request.layout, request.to)
    output = request.output(done)
    done.count("references", 0)
    for reference, chosen in chosen_masks(request, references(request.source, request.splits, done), done):
        name = f"instance_masks/{_folder(reference)}/pseudo_gt_mask_{reference.ref_id}.png"
        if not output.current(name, chosen.key):
            stream = io.BytesIO()
            Image.fromarray(chosen.mask()).convert("L").save(stream, format="PNG")
            output.put(name, stream.getvalue(), chosen.key)
        done.count("references")
    return output.finish()


def _folder(reference: Reference) -> str:
    name = reference.dataset
    return file_name(f"{name}_{reference.split_by}" if name == "refcocog" else name)

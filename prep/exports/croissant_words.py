"""The vocabulary of Croissant 1.0, and what each table and column of the store means."""

from __future__ import annotations

from typing import Any

# Each name of the vocabulary and its term, as the specification has them.
_TERMS = (
    "citeAs column data dataType examples extract field fileProperty fileObject fileSet format includes "
    "isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated replace "
    "samplingRate separator source subField transform equivalentProperty"
)
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{name: f"cr:{name}" for name in _TERMS.split()},
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "sc": "https://schema.org/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
}

TABLES = {
    "phrases": "One row for each referring expression: short phrases about its target.",
    "proposals": "One row for each image: class-agnostic masks as COCO run lengths.",
    "scores": "One row for each expression: how well each proposal of its image matches it.",
}

COLUMNS = {
    "row_id": "Identity of an expression: a hash of its dataset, ids, image and text.",
    "dataset": "Name of the dataset.",
    "split_by": "Version of the dataset's split, such as unc or umd.",
    "split": "Split of the expression, such as train.",
    "ref_id": "Id of the reference (the object that several expressions describe).",
    "sent_id": "Id of the expression in its dataset.",
    "image_id": "Id of the image in its dataset.",
    "image": "Path of the image below the data root, with forward slashes: the key that joins the tables.",
    "expression": "The referring expression.",
    "phrases": "One to five phrases; the first names the target.",
    "source": "What the phrases are from: llm, repaired, retry, rules, expression or import.",
    "llm": "The language model, or rules.",
    "prompt_version": "Version of the prompt.",
    "key": "Hash of everything that the row was made from.",
    "violations": "Checks that the phrases fail.",
    "repairs": "What was repaired in the model's answer.",
    "rejected": "Answers that were rejected before.",
    "rejected/source": "What a rejected answer was from.",
    "rejected/violations": "Checks that a rejected answer failed.",
    "status": "ok, empty or error.",
    "error": "Why the row has no result.",
    "raw": "The model's answer as it was.",
    "image_sha256": "SHA-256 of the image file.",
    "height": "Height of the image in pixels.",
    "width": "Width of the image in pixels.",
    "masks": "The masks of the image, at its size.",
    "masks/counts": (
        "The mask as COCO's compressed run lengths: columns first, beginning outside the mask. "
        "pycocotools.mask.decode({'size': [height, width], 'counts': counts}) gives its pixels."
    ),
    "masks/area": "Pixels inside the mask.",
    "masks/bbox": "Box of the mask: x, y, width, height in pixels from the top left corner.",
    "masks/predicted_iou": "The IoU that SAM predicts for the mask, or the score of imported masks.",
    "masks/stability_score": "SAM's stability score of the mask.",
    "masks/point": "The point (x, y in pixels) that prompted the mask.",
    "masks/crop_box": "The crop (x, y, width, height in pixels) in which the mask was made.",
    "grid32": "The masks sampled on a grid of 32 x 32, one bit for each cell, packed.",
    "generator": "What made the masks.",
    "scores": "One score for each mask of the image, in their order; higher is a better match.",
    "proposals_key": "The key of the proposals that were scored.",
    "model": "The model that scored.",
}

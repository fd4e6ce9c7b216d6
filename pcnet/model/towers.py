"""Describes image and text encoders of open_clip and transformers as plain values, which a checkpoint stores.

A description has all that is needed to build the encoders with random weights, without a network:
``{"kind": "open_clip", "config": {...}}`` is a model configuration of open_clip, ``{"kind": "hf", "image":
{...}, "text": {...}}`` two configurations of transformers. ``mean`` and ``std`` (three numbers each, for RGB
values in [0, 1]) are those that the image encoder was trained with.
"""

from __future__ import annotations

import difflib
import json
import re

from pcnet.config import Towers
from prep.errors import PrepError, reason_of
from prep.records import Untyped

HALF = (0.5, 0.5, 0.5)
# A model of timm by its plain name: names with a scheme would be looked up in the network.
_PLAIN = re.compile(r"[a-z0-9_.]+")


def describe(encoder: str, text_encoder: str | None = None) -> Towers:
    """The description of ``--encoder``: the name of an open_clip model, or ``hf:`` and an ID or folder.

    ``text_encoder`` (``hf:`` and an ID or folder) is needed if the ``hf:`` model has no text encoder.

    :raises PrepError: if the name is unknown, or the model is not of a kind that can be used.
    """
    if encoder.startswith("hf:"):
        return _of_transformers(encoder, text_encoder or encoder)
    if text_encoder is not None:
        raise PrepError(
            f"--text-encoder needs an image encoder of transformers, not {encoder}.", "Use --encoder hf:ID."
        )
    import open_clip
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    config = open_clip.get_model_config(encoder)
    if config is None:
        near = difflib.get_close_matches(encoder, open_clip.list_models(), n=1)
        raise PrepError(
            f"There is no encoder {encoder!r}.",
            f"Did you mean {near[0]}?" if near else "Use RN50, RN101, tiny, a model of open_clip, or hf:ID.",
        )
    text = config["text_cfg"]
    if "hf_model_name" in text or "multimodal_cfg" in config:
        raise PrepError(
            f"The text encoder of {encoder} cannot be used on its own.",
            "Use another model, or --encoder hf:ID.",
        )
    mean, std = (HALF, HALF) if "SigLIP" in encoder else (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    return checked({"kind": "open_clip", "config": config, "mean": list(mean), "std": list(std)})


def checked(towers: Towers) -> Towers:
    """A description as it may be built: nothing of it is looked up in the network.

    :raises PrepError: if it is of another kind, as that of a file may be.
    """
    kind = towers.get("kind")
    if any(len(numbers or ()) != 3 for numbers in (towers.get("mean"), towers.get("std"))):
        kind = None
    if kind == "open_clip" and isinstance(towers.get("config"), dict):
        name = towers["config"].get("vision_cfg", {}).get("timm_model_name", "")
        if name == "" or _PLAIN.fullmatch(str(name)):
            return towers
    elif kind == "hf" and all(isinstance(part, dict) for part in (towers.get("image"), towers.get("text"))):
        return towers
    raise PrepError(
        f"The encoder is described by {json.dumps(towers, default=str)[:80]}, which cannot be built.",
        "Use a checkpoint of this project, or update pcnet-prep.",
    )


def patch_size(towers: Towers) -> int:
    """Pixels per side of a patch; 32 for a ResNet, whose features have that stride."""
    if towers["kind"] == "hf":
        config = towers["image"].get("vision_config", towers["image"])
        size = config.get("patch_size", 1)
        return int(size[0] if isinstance(size, list | tuple) else size)
    vision = towers["config"]["vision_cfg"]
    if "timm_model_name" in vision:
        found = re.search(r"patch(\d+)", vision["timm_model_name"])
        return int(found[1]) if found else 16
    return 32 if isinstance(vision.get("layers"), list) else int(vision.get("patch_size", 16))


def text_length(towers: Towers, usual: int) -> int:
    """Tokens per text: ``usual``, or the model's context if its text encoder takes only whole ones."""
    if towers["kind"] == "hf":
        config = towers["text"].get("text_config", towers["text"])
        pooled_at_end = config.get("model_type", "").startswith("siglip")
        return int(config["max_position_embeddings"]) if pooled_at_end else usual
    config = towers["config"]
    return int(config["text_cfg"]["context_length"]) if config.get("custom_text") else usual


def _of_transformers(image: str, text: str) -> Towers:
    """The configurations of an image and a text model of transformers, and the image statistics."""
    sources = [name.removeprefix("hf:") for name in (image, text)]
    configs = [_config(source) for source in sources]
    if "text_config" not in configs[1] and "vision_config" not in configs[1] and image == text:
        raise PrepError(f"{image} has no text encoder.", "Add one, such as --text-encoder hf:CLIP_OR_SIGLIP.")
    mean, std = _statistics(sources[0])
    return {"kind": "hf", "image": configs[0], "text": configs[1], "mean": mean, "std": std}


def _config(source: str) -> dict[str, Untyped]:
    from transformers import AutoConfig

    try:
        config: dict[str, Untyped] = AutoConfig.from_pretrained(source, trust_remote_code=False).to_dict()
    except Exception as error:  # transformers and the hub raise many types
        raise PrepError(
            f"{source} is not a usable model of transformers: {reason_of(error)}.",
            "Give an ID of the hub, or a folder with config.json.",
        ) from error
    return config


def _statistics(source: str) -> tuple[list[float], list[float]]:
    """The mean and standard deviation in a model's preprocessor; ImageNet's if it has none."""
    from transformers import AutoImageProcessor

    from pcnet.data.images import MEAN, STD

    try:
        processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
        return list(processor.image_mean), list(processor.image_std)
    except Exception:  # a folder of weights without a preprocessor
        return list(MEAN), list(STD)

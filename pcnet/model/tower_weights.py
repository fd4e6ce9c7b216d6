"""Loads pretrained weights into the encoders of open_clip and transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from pcnet.model.clip_weights import read_weights
from pcnet.model.vit import VitEncoder
from prep.errors import PrepError, reason_of


def load_tower_weights(encoder: VitEncoder, name: str, text_name: str | None, weights: str) -> None:
    """Load the weights of ``--encoder`` ``name`` (and of ``--text-encoder``) into ``encoder``.

    A model of open_clip takes them from ``weights``: a tag of open_clip, or a file with open_clip's names.
    ``hf:`` models have their own.

    :raises PrepError: if they cannot be had, or belong to another model.
    """
    if name.startswith("hf:"):
        _load_part(encoder.image, name, "vision_model")
        _load_part(encoder.text, text_name or name, "text_model")
        return
    path = Path(weights).expanduser()
    if not path.is_file():
        path = _download(name, weights)
    state = read_weights(path)
    wanted = encoder.state_dict()
    found = {key: state[old] for key in wanted if (old := _open_clip_name(key, state)) in state}
    wrong = [f"lacks {key}" for key in wanted if key not in found and not key.endswith("num_batches_tracked")]
    wrong += [
        f"has {key} of shape {tuple(value.shape)}, not {tuple(wanted[key].shape)}"
        for key, value in found.items()
        if value.shape != wanted[key].shape
    ]
    if wrong:
        raise PrepError(f"{path}: not the weights of {name}: it {wrong[0]}.", f"Give the weights of {name}.")
    encoder.load_state_dict(found, strict=False)


def _open_clip_name(key: str, state: Mapping[str, Tensor]) -> str:
    """The name in open_clip's files of a weight of :class:`VitEncoder`."""
    part, _, rest = key.partition(".")
    if part == "image":
        return f"visual.{rest}"
    return key if key in state else rest


def _download(name: str, tag: str) -> Path:
    import open_clip
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        raise PrepError(
            f"{name} has no weights {tag!r}, and there is no such file.",
            f"Set --clip-weights to a file, random, or one of: {', '.join(tags) or 'no tag is known'}.",
        )
    try:
        return Path(download_pretrained(get_pretrained_cfg(name, tag)))
    except Exception as error:  # the hub raises many types, most of them OSErrors
        raise PrepError(
            f"The weights {tag} of {name} could not be downloaded: {reason_of(error)}.",
            "Set --clip-weights to a file.",
        ) from error


def _load_part(part: nn.Module, name: str, attribute: str) -> None:
    """Load the image or text encoder of a model of transformers."""
    from transformers import AutoModel

    source = name.removeprefix("hf:")
    try:
        model = AutoModel.from_pretrained(source, trust_remote_code=False)
        part.load_state_dict(getattr(model, attribute, model).state_dict())
    except Exception as error:  # transformers and the hub raise many types
        raise PrepError(
            f"The weights of {source} could not be loaded: {reason_of(error)}.",
            "Give a folder with config.json and model.safetensors, or set --clip-weights random.",
        ) from error

"""Finds CLIP's released weights on this machine: in OpenAI's cache or the Hugging Face cache."""

from __future__ import annotations

import os
from pathlib import Path

OPENAI_CACHE = "~/.cache/clip"
# open_clip downloads OpenAI's weights from here.
REPOSITORIES = {
    "RN50": "timm/resnet50_clip.openai",
    "RN101": "timm/resnet101_clip.openai",
    "ViT-B-32": "timm/vit_base_patch32_clip_224.openai",
}
HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def kept(name: str) -> Path | None:
    """The weights of CLIP ``name`` in the cache of OpenAI's package."""
    path = Path(os.path.expanduser(OPENAI_CACHE), f"{name}.pt")
    return path if path.is_file() else None


def downloaded(name: str) -> Path | None:
    """The weights of CLIP ``name`` downloaded by open_clip."""
    from huggingface_hub import try_to_load_from_cache

    for file in HUB_FILES:
        found = try_to_load_from_cache(REPOSITORIES[name], file)
        if isinstance(found, str):
            return Path(found)
    return None


def places(name: str) -> tuple[str, str]:
    """The two locations, for display."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = f"models--{REPOSITORIES[name].replace('/', '--')}"
    return f"{OPENAI_CACHE}/{name}.pt", f"{HF_HUB_CACHE}/{folder}"

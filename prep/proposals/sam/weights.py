"""Loads ``segment_anything`` models, with clear errors for unsuitable checkpoints."""

from __future__ import annotations

import torch
from segment_anything import sam_model_registry

from prep.errors import PrepError
from prep.proposals.checkpoint import read_weights
from prep.proposals.sam.device import device_of
from prep.proposals.sam.model import SamModel
from prep.proposals.sam.settings import SamSettings, find_checkpoint

# Token width of the image encoder, which identifies each of the three models.
WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}


def load_sam(settings: SamSettings) -> SamModel:
    """The model of ``settings`` on its device, in evaluation mode; PrepError if the file does not match."""
    path = find_checkpoint(settings.model, settings.checkpoint)
    weights = read_weights(path)
    found = identify(weights)
    if found != settings.model:
        what = f"the weights of {found}" if found else "no SAM weights"
        raise PrepError(
            f"{path} contains {what}, not of {settings.model}.",
            f"Set --model {found}, or another --checkpoint." if found else "Set another --checkpoint.",
        )
    model = sam_model_registry[settings.model]()
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise PrepError(
            f"{path} does not match SAM {settings.model}: {error}.", "Download it again."
        ) from error
    loaded: SamModel = model.to(device_of(settings)).eval()
    return loaded


def identify(weights: dict[str, object]) -> str | None:
    """Which model the weights belong to, or ``None``."""
    embedding = weights.get("image_encoder.pos_embed")
    return WIDTHS.get(embedding.shape[-1]) if isinstance(embedding, torch.Tensor) and embedding.ndim else None

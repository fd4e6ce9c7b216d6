"""Builds the models of the package sam2, with clear errors for unsuitable checkpoints."""

from __future__ import annotations

import warnings

import torch

from prep.errors import PrepError
from prep.proposals.checkpoint import read_weights
from prep.proposals.sam.device import device_of
from prep.proposals.sam2.network import Sam2Model
from prep.proposals.sam2.settings import Sam2Settings, find_checkpoint

# The width of the image encoder and its number of blocks, which identify each model (configs/sam2.1).
SIZES = {(96, 12): "hiera_t", (96, 16): "hiera_s", (112, 24): "hiera_b+", (144, 48): "hiera_l"}
INSTALL = "SAM2_BUILD_CUDA=0 pip install 'pcnet-prep[sam2]'"


def load_sam2(settings: Sam2Settings) -> Sam2Model:
    """The model of ``settings`` on its device, in evaluation mode; PrepError if the file does not match."""
    path = find_checkpoint(settings.model, settings.checkpoint)
    device = device_of(settings)
    weights = read_weights(path)
    found = identify(weights)
    if found != settings.model:
        what = f"the weights of {found}" if found else "no weights of SAM 2"
        known = found in Sam2Settings.MODELS
        raise PrepError(
            f"{path} contains {what}, not of {settings.model}.",
            f"Set --model {found}, or another --checkpoint." if known else "Set another --checkpoint.",
        )
    model = build(settings.model)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise PrepError(f"{path} does not match {settings.model}: {error}.", "Download it again.") from error
    return model.to(device).eval()


def build(model: str) -> Sam2Model:
    """The network of ``model`` with random weights, on the CPU; PrepError if the package is missing."""
    try:
        from sam2.build_sam import build_sam2
    except ModuleNotFoundError as error:
        raise PrepError(
            f"--generator sam2 needs a package that is not installed: {error.name}.",
            f"Install it with\n  {INSTALL}",
        ) from error
    with warnings.catch_warnings():
        # Hydra 1.4 warns of every class that the package's own configurations name.
        warnings.filterwarnings("ignore", category=UserWarning, module="sam2")
        built: Sam2Model = build_sam2(f"configs/sam2.1/{model}.yaml", ckpt_path=None, device="cpu")
        return built


def identify(weights: dict[str, object]) -> str | None:
    """Which model the weights belong to (``sam2_...`` for the first version), or ``None``."""
    first = weights.get("image_encoder.trunk.patch_embed.proj.weight")
    if not isinstance(first, torch.Tensor) or not first.ndim:
        return None
    start = "image_encoder.trunk.blocks."
    blocks = {name.removeprefix(start).split(".")[0] for name in weights if name.startswith(start)}
    size = SIZES.get((first.shape[0], len(blocks)))
    # Only 2.1 has this tensor: no_obj_embed_spatial of its configurations.
    return size and f"{'sam2.1' if 'no_obj_embed_spatial' in weights else 'sam2'}_{size}"

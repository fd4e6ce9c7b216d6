"""Reads the weights in a checkpoint of torch without running any code from it."""

from __future__ import annotations

from pathlib import Path

import torch

from prep.errors import PrepError, reason_of


def read_weights(path: Path) -> dict[str, object]:
    """The state dict in ``path``, read without running any code from it."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as error:  # the unpickler raises many types for damaged files, struct.error among them
        raise PrepError(
            f"{path} could not be read as a checkpoint: {reason_of(error)}.", "Download it again."
        ) from error
    if isinstance(weights, dict) and isinstance(weights.get("model"), dict):
        weights = weights["model"]  # as trainers save it, together with an optimizer
    if not isinstance(weights, dict):
        raise PrepError(
            f"{path} contains a {type(weights).__name__}, not a state dict.", "Set another --checkpoint."
        )
    return weights


def _is_zip(path: Path) -> bool:
    """Whether the file has torch's current format, the only one that can be memory-mapped."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"

"""Reads the weights in a checkpoint of torch without running any code from it."""

from __future__ import annotations

from pathlib import Path

from prep.errors import PrepError, reason_of
from prep.weights import load_tensors


def read_weights(path: Path) -> dict[str, object]:
    """The state dict in ``path``, read without running any code from it."""
    try:
        weights = load_tensors(path, mmap=True)
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

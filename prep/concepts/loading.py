"""Checks that a folder holds a transformers model of some type, and loads it with all of its weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from prep.errors import PrepError, reason_of


def check_type(folder: Path, accepted: Sequence[str], wanted: str) -> None:
    """Raise :class:`PrepError` unless ``config.json`` in ``folder`` is of an ``accepted`` model type.

    transformers loads any folder as any model, with random weights where it finds none.
    """
    file = folder / "config.json"
    try:
        config = json.loads(file.read_bytes())
        kind = config.get("model_type") if isinstance(config, dict) else None
    except (OSError, ValueError, RecursionError) as error:
        raise PrepError(
            f"{file} could not be read: {reason_of(error)}.", f"Give {wanted} with --model."
        ) from error
    if kind not in accepted:
        raise PrepError(f"{file} is of the model type {kind}.", f"Give {wanted} with --model.")


def load(folder: Path, model: str, processor: str, wanted: str, device: str) -> tuple[object, object]:
    """The model, in float32 and ready to evaluate, and its processor: transformers' classes of these names.

    Raises :class:`PrepError` if transformers lacks them, or if the folder lacks any of their weights.
    """
    import torch
    import transformers

    if not sys.stderr.isatty():
        transformers.logging.disable_progress_bar()
    try:
        classes = getattr(transformers, model), getattr(transformers, processor)
    except AttributeError as error:
        raise PrepError(
            f"This transformers ({transformers.__version__}) has no {model}.",
            "Run: pip install 'transformers>=5.19'",
        ) from error
    try:
        loaded, told = classes[0].from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, local_files_only=True
        )
        ready = classes[1].from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers and torch raise many types for an unsuitable folder
        raise PrepError(
            f"{folder} could not be loaded: {reason_of(error)}.", f"Give {wanted} with --model."
        ) from error
    lacking = sorted(map(str, [*told["missing_keys"], *told["mismatched_keys"]]))
    if lacking:
        raise PrepError(
            f"{folder} lacks {len(lacking)} weights of {model}, for example {lacking[0]}.",
            f"Give {wanted} with --model.",
        )
    return loaded.to(device).eval().requires_grad_(False), ready

"""Finds the folder of a transformers model, hashes its files and loads it with all of its weights."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prep.errors import PrepError
from prep.files import feed

FILES = ("*.json", "*.txt", "*.safetensors", "*.bin")
PREFIX = "hf:"


def model_folder(source: str) -> Path:
    """The folder with a model's files: ``source`` itself, or the download of this id from the hub.

    Raises :class:`PrepError` if it cannot be had; for a gated model it says how to get access.
    """
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError

    try:
        return Path(snapshot_download(source, allow_patterns=list(FILES)))
    except Exception as error:  # offline, gated, misspelt: the hub's client raises many types
        if isinstance(error, GatedRepoError) or _status(error) in (401, 403):
            raise PrepError(
                f"The model {source} is gated or does not exist: the hub refuses its files "
                f"({_status(error) or 'no access'}).",
                f"Request access at https://huggingface.co/{source}, then run `hf auth login` (or set "
                "HF_TOKEN) and the command again; or give a folder with the model's files with --model DIR.",
            ) from error
        raise PrepError(
            f"The model {source} could not be downloaded: {first_line(error)}.",
            f"Download it where there is network access (`hf download {source}`), and give its folder with "
            "--model DIR.",
        ) from error


def _status(error: BaseException) -> int | None:
    """The HTTP status of an error, or of the one that caused it."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return getattr(response, "status_code", None)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type, without the full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")


def folder_sha256(folder: Path) -> str:
    """SHA-256 (64 hex digits) of a model's configuration, tokenizer and weight files with their names."""
    digest = hashlib.sha256()
    for file in sorted({path for pattern in FILES for path in folder.glob(pattern) if path.is_file()}):
        digest.update(file.name.encode() + b"\0")
        feed(digest, file)
    return digest.hexdigest()


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
            f"{file} could not be read: {first_line(error)}.", f"Give {wanted} with --model."
        ) from error
    if kind not in accepted:
        raise PrepError(f"{file} is of the model type {kind}.", f"Give {wanted} with --model.")


def load(folder: Path, model: str, processor: str, wanted: str, device: str) -> tuple[Any, Any]:
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
            f"{folder} could not be loaded: {first_line(error)}.", f"Give {wanted} with --model."
        ) from error
    lacking = sorted(map(str, [*told["missing_keys"], *told["mismatched_keys"]]))
    if lacking:
        raise PrepError(
            f"{folder} lacks {len(lacking)} weights of {model}, for example {lacking[0]}.",
            f"Give {wanted} with --model.",
        )
    return loaded.to(device).eval().requires_grad_(False), ready

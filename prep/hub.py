"""Finds the folder of a model, downloaded from the Hugging Face hub if necessary, and hashes its files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from prep.errors import PrepError, reason_of
from prep.files import feed

PREFIX = "hf:"  # before a hub id or a folder, in the options that also take other values


def model_folder(source: str, patterns: Sequence[str], elsewhere: str) -> Path:
    """The folder with a model's files: ``source`` itself, or the download of this id from the hub.

    Only files that match ``patterns`` are downloaded. ``elsewhere`` says, as the end of a sentence, what to
    use instead of a download.

    :raises PrepError: if it cannot be had; for a gated model it says how to get access.
    """
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError

    try:
        return Path(snapshot_download(source, allow_patterns=list(patterns)))
    except Exception as error:  # offline, gated, misspelt: the hub's client raises many types
        if isinstance(error, GatedRepoError) or _status(error) in (401, 403):
            raise PrepError(
                f"The model {source} is gated or does not exist: the hub refuses its files "
                f"({_status(error) or 'no access'}).",
                f"Request access at https://huggingface.co/{source}, then run `hf auth login` (or set "
                f"HF_TOKEN) and the command again; or {elsewhere}.",
            ) from error
        raise PrepError(
            f"The model {source} could not be downloaded: {reason_of(error)}.",
            f"Download it where there is network access (`hf download {source}`), or {elsewhere}.",
        ) from error


def _status(error: BaseException) -> int | None:
    """The HTTP status of an error, or of the one that caused it."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return getattr(response, "status_code", None)


def folder_sha256(folder: Path, patterns: Sequence[str]) -> str:
    """SHA-256 (64 hex digits) of the files in ``folder`` that match ``patterns``, with their names."""
    digest = hashlib.sha256()
    for file in sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}):
        digest.update(file.name.encode() + b"\0")
        feed(digest, file)
    return digest.hexdigest()

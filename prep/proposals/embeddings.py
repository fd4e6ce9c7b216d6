"""Keeps SAM's embedding of each image in a folder, so that later runs with these weights need no encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from prep.errors import PrepError, reason_of
from prep.files import write_whole
from prep.inputs import read_plain

# An embedding of SAM 2's largest model has 26 MiB; SAM's have 4 MiB.
LARGEST = 1 << 28


class Encoder(Protocol):
    """A predictor whose embedding of an image can be taken out and put back."""

    def set_image(self, image: npt.NDArray[np.uint8]) -> None:
        """Encode an RGB image, uint8 (H, W, 3)."""

    def embedding(self) -> Sequence[torch.Tensor]:
        """What ``set_image`` computed."""

    def restore(self, image: npt.NDArray[np.uint8], embedding: Sequence[torch.Tensor]) -> None:
        """As ``set_image``, with the embedding that it computed for this image before."""


class Embeddings:
    """A folder with one file per image: ``<identity>/<SHA-256 of shape and pixels>.embedding``.

    ``identity`` is everything but the image that an embedding depends on: the weights' SHA-256 and the
    device's type; torch's version is added, since another one may round otherwise. A file is the tensors in
    the safetensors format behind their SHA-256 (32 bytes); one that is damaged is made again.
    """

    def __init__(self, folder: Path, identity: Sequence[str]) -> None:
        name = hashlib.sha256("\0".join([*identity, torch.__version__]).encode()).hexdigest()[:16]
        self._folder = folder / name
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PrepError(
                f"The cache {folder} is not a folder that can be written: {reason_of(error)}.",
                "Choose another one with --cache DIR.",
            ) from error

    def set_image(self, encoder: Encoder, image: npt.NDArray[np.uint8]) -> None:
        """Give ``encoder`` the image, with the embedding of the folder if it has one."""
        digest = hashlib.sha256(repr(image.shape).encode())
        digest.update(np.ascontiguousarray(image).data)
        path = self._folder / f"{digest.hexdigest()}.embedding"
        if (kept := _read(path)) is not None:
            encoder.restore(image, kept)
            return
        encoder.set_image(image)
        try:
            write_whole(path, _serialised(encoder.embedding()), durable=False)
        except OSError as error:
            raise PrepError(
                f"{path} could not be written: {reason_of(error)}.",
                "Make room there, choose another folder with --cache DIR, or leave --cache out.",
            ) from error


def _serialised(embedding: Sequence[torch.Tensor]) -> bytes:
    from safetensors.torch import save

    data: bytes = save({str(at): one.detach().cpu().contiguous() for at, one in enumerate(embedding)})
    return hashlib.sha256(data).digest() + data


def _read(path: Path) -> list[torch.Tensor] | None:
    """The tensors of a file in order; ``None`` if it is missing or damaged."""
    from safetensors.torch import load

    try:
        held = read_plain(path, LARGEST)
    except OSError:
        return None
    data = held[32:]
    if hashlib.sha256(data).digest() != held[:32]:
        return None
    found = load(data)
    return [found[str(at)] for at in range(len(found))]

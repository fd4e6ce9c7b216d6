"""Loads a CLIP model with open_clip, and encodes images and texts with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from prep.errors import PrepError, reason_of
from prep.torchscript import is_archive, read_tensors

if TYPE_CHECKING:
    import torch
    from open_clip.model import CLIP

TEXTS_AT_ONCE = 32

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class Clip:
    """An open_clip model, ready to encode: ``side`` and ``fill`` are its input's size and mean colour."""

    def __init__(self, model: str, weights: str, device: str) -> None:
        import open_clip
        import torch

        name = f"local-dir:{model}" if Path(model).is_dir() else model
        try:
            archive = is_archive(Path(weights))  # open_clip reads none without running its code
            clip = open_clip.create_model(
                name,
                pretrained=None if archive else weights or None,
                device=device,
                force_quick_gelu=_quick_gelu(model, weights),
                require_pretrained=bool(weights) and not archive,
                weights_only=True,
            )
            if archive:
                held = read_tensors(Path(weights))
                numbers = {key for key in held if "." not in key} - clip.state_dict().keys()
                clip.load_state_dict({key: held[key] for key in held.keys() - numbers})
            self._tokenize = open_clip.get_tokenizer(name)
        except Exception as error:  # open_clip raises whatever its download code and torch's reader raise
            raise PrepError(
                f"CLIP {model} ({weights or 'its own weights'}) could not be loaded: {reason_of(error)}.",
                "Download its weights on a machine with network access and give the file with --weights "
                "FILE.",
            ) from error
        self._model = clip.eval().requires_grad_(False)
        self._torch = torch
        size = clip.visual.image_size
        self.side = int(size[0] if isinstance(size, tuple | list) else size)
        mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in _statistics(clip))
        self._mean, self._std, self._device = mean, std, device
        red, green, blue = (round(255 * float(v)) for v in mean.flatten())
        self.fill = red, green, blue

    def encode_images(self, crops: Pixels) -> Floats:
        """Unit features (P, D) of P x side x side x 3 crops, P at least 1."""
        torch = self._torch
        with torch.inference_mode():
            images = torch.from_numpy(crops).to(self._device).permute(0, 3, 1, 2).float() / 255
            return self._unit(self._model.encode_image((images - self._mean) / self._std))

    def encode_texts(self, texts: Sequence[str]) -> list[Floats]:
        """Unit features, each (D,); a text too long for the model is truncated."""
        torch, features = self._torch, []
        with torch.inference_mode():
            for start in range(0, len(texts), TEXTS_AT_ONCE):
                part = list(texts[start : start + TEXTS_AT_ONCE])
                ids = self._tokenize(part + [""] * (TEXTS_AT_ONCE - len(part))).to(self._device)
                features += list(self._unit(self._model.encode_text(ids))[: len(part)])
        return features

    def _unit(self, features: torch.Tensor) -> Floats:
        unit = self._torch.nn.functional.normalize(features.float(), dim=-1)
        return np.asarray(unit.cpu().numpy(), np.float32)


def _statistics(model: CLIP) -> tuple[Sequence[float], Sequence[float]]:
    """The mean and standard deviation of the pixel values that a model was trained with."""
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    mean = getattr(model.visual, "image_mean", None) or OPENAI_DATASET_MEAN
    std = getattr(model.visual, "image_std", None) or OPENAI_DATASET_STD
    return mean, std


def _quick_gelu(model: str, weights: str) -> bool:
    """Whether weights were trained with QuickGELU: a tag's by open_clip's list, OpenAI's files always."""
    if is_openais(Path(weights), model):
        return True
    from open_clip.pretrained import get_pretrained_cfg

    return bool((get_pretrained_cfg(model, weights) or {}).get("quick_gelu", False))


def is_openais(path: Path, model: str) -> bool:
    """Whether a file is OpenAI's CLIP ``model``, which was trained with QuickGELU.

    OpenAI publishes TorchScript archives named ``<model>.pt``. A state dict does not say what it was trained
    with: one made from such a file is known by that name, or by open_clip's repository, ``<...>.openai``.
    """
    if not path.is_file():
        return False
    named = path.stem.lower() == model.lower().replace("/", "-") or "openai" in path.name.lower()
    return named or any(part.endswith(".openai") for part in path.absolute().parts) or is_archive(path)

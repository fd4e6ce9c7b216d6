"""Loads CLIP's released weights from a file, from OpenAI's cache, or through open_clip's download."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from torch import Tensor, nn

from pcnet.model.encoders import ClipEncoder
from prep.errors import PrepError, reason_of
from prep.machine.clip_weights import OPENAI_CACHE, REPOSITORIES, downloaded, kept
from prep.records import Untyped
from prep.torchscript import is_archive, read_tensors
from prep.weights import check_tensors, load_tensors, tensors_in

if TYPE_CHECKING:
    from open_clip.model import CLIP

PROBE_SECONDS = 10


def load_clip_weights(encoder: ClipEncoder, name: str, weights: str | Path = "openai") -> None:
    """Load the weights of CLIP ``name`` (RN50, RN101) into ``encoder``.

    ``weights`` is ``openai`` (OpenAI's own, in ``~/.cache/clip`` or downloaded by open_clip) or a file: a
    state dict, safetensors, or OpenAI's TorchScript archive. Raises PrepError if it could not be loaded or
    belongs to another model.
    """
    _fill(encoder, find_weights(name, weights), name)


def load_calibration_clip(weights: str | Path = "openai") -> CLIP:
    """The frozen CLIP ViT-B/32 of the calibration losses, in evaluation mode; ``random`` loads no weights."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    vision = CLIPVisionCfg(layers=12, width=768, patch_size=32, image_size=224)
    clip = CLIP(512, vision, CLIPTextCfg(), quick_gelu=True)
    if str(weights) != "random":
        _fill(clip, find_weights("ViT-B-32", weights), "ViT-B-32")
    return clip.eval().requires_grad_(False)


def find_weights(name: str, weights: str | Path) -> Path:
    """The local file of CLIP ``name``'s weights, downloaded if necessary."""
    if str(weights) != "openai":
        path = Path(os.path.expanduser(weights))
        if not path.is_file():
            raise PrepError(
                f"{path}: no such file of CLIP weights.",
                "Give an existing file, or 'openai' to download the weights.",
            )
        return path
    return kept(name) or _download(name)


def _download(name: str) -> Path:
    from huggingface_hub import constants
    from open_clip.pretrained import download_pretrained, get_pretrained_cfg

    source = get_pretrained_cfg(f"{name}-quickgelu", "openai")
    try:
        if downloaded(name) is None and not constants.HF_HUB_OFFLINE:
            _probe(constants.ENDPOINT)
        return Path(download_pretrained(source))
    except Exception as error:  # the hub raises many types, most of them OSErrors
        raise _unavailable(
            name, f"{REPOSITORIES[name]} could not be downloaded: {reason_of(error)}"
        ) from error


def _probe(url: str) -> None:
    """Fail at once if there is no network: the hub's client retries for minutes."""
    try:
        urlopen(Request(url, method="HEAD"), timeout=PROBE_SECONDS).close()
    except HTTPError:
        return  # the server responds
    except URLError as error:
        raise OSError(f"{url} could not be reached ({error.reason})") from error


def _unavailable(name: str, problem: str) -> PrepError:
    return PrepError(
        f"The weights of CLIP {name} are not available: {problem.rstrip('.')}.",
        f"Copy OpenAI's {name}.pt to {OPENAI_CACHE}/, or set --clip-weights FILE; "
        "--encoder tiny needs no weights.",
    )


def _fill(clip: nn.Module, path: Path, name: str) -> None:
    """Load the file into ``clip``, in float32; PrepError if a weight is missing or has the wrong shape."""
    state, wanted = read_weights(path), clip.state_dict()
    problems = [
        f"lacks {key}" for key in wanted if key not in state and not key.endswith("num_batches_tracked")
    ]
    problems += [
        f"has {key} of shape {tuple(state[key].shape)}, not {tuple(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    if problems:
        raise PrepError(
            f"{path}: not the weights of CLIP {name}: it {problems[0]}.", f"Give the weights of CLIP {name}."
        )
    clip.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a safetensors file, a state dict or a TorchScript archive; no code of it is run."""
    try:
        loaded = _read(path)
        check_tensors(list(tensors_in(loaded)), path)
        return _tensors(loaded)
    except PrepError:
        raise
    except Exception as error:  # each reader raises its own types
        raise PrepError(
            f"{path}: not a readable weights file: {reason_of(error)}.",
            "Download it again, or give another file.",
        ) from error


def _read(path: Path) -> Untyped:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    if is_archive(path):
        return read_tensors(path)
    return load_tensors(path)


def _tensors(loaded: Mapping[str, Untyped]) -> dict[str, Tensor]:
    state = loaded.get("state_dict", loaded)
    return {
        name.removeprefix("module."): value.float() if value.is_floating_point() else value
        for name, value in state.items()
        if isinstance(value, Tensor)
    }

"""CLIP's weights from files of each kind, and what is said where there are none."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from torch import nn

from pcnet.config import ClipSizes, ModelConfig
from pcnet.model.clip_weights import find_weights, load_calibration_clip, load_clip_weights, read_weights
from pcnet.model.encoders import ClipEncoder, build_encoder
from prep.errors import PrepError

SMALL = ClipSizes(48, 64, (1, 1, 1, 1), 8, 24, 64, 64, 1)


def clip(name: str = "RN50") -> ClipEncoder:
    with torch.device("meta"):
        encoder = build_encoder(ModelConfig(name))
    assert isinstance(encoder, ClipEncoder)
    return encoder


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty home folder, and no network to reach from it."""

    def unreachable(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setattr(socket, "create_connection", unreachable)
    return tmp_path


@pytest.mark.slow
def test_absent_weights_say_how_to_get_them(home: Path) -> None:
    with pytest.raises(PrepError, match="The weights of CLIP RN50 are not available") as caught:
        load_clip_weights(clip(), "RN50")
    assert "RN50.pt" in caught.value.remedy
    assert "--clip-weights" in caught.value.remedy
    assert "--encoder tiny" in caught.value.remedy
    with pytest.raises(PrepError, match="CLIP ViT-B-32 are not available"):
        load_calibration_clip()
    with pytest.raises(PrepError, match=r"absent\.pt: no such file"):
        load_clip_weights(clip(), "RN50", home / "absent.pt")


def test_weights_that_openais_package_downloaded_are_found(home: Path) -> None:
    path = home / ".cache" / "clip" / "RN50.pt"
    path.parent.mkdir(parents=True)
    path.touch()
    assert find_weights("RN50", "openai") == path


def test_a_torn_file_is_refused(tmp_path: Path) -> None:
    for name in ("torn.pt", "torn.safetensors"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 cut short")
        with pytest.raises(PrepError, match=rf"{name}: not a readable weights file"):
            read_weights(tmp_path / name)


def test_every_kind_of_file_is_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    layer = nn.Linear(3, 2).half()
    state = layer.state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pt")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "c.pt")
    torch.jit.save(torch.jit.script(layer), tmp_path / "d.pt")  # type: ignore[no-untyped-call]
    for path in sorted(tmp_path.iterdir()):
        read = read_weights(path)
        assert read.keys() == state.keys()
        for key, value in read.items():
            assert value.dtype == torch.float32
            assert torch.equal(value, state[key].float())


@pytest.mark.slow
def test_weights_come_from_a_local_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs, ours = ClipEncoder(SMALL), ClipEncoder(SMALL)
    path = tmp_path / "clip.pt"
    # OpenAI's archives also hold three numbers beside the weights, and all in half precision.
    numbers = {"input_resolution": torch.tensor(64), "context_length": torch.tensor(24)}
    halves = {
        key: value.half() if value.is_floating_point() else value
        for key, value in theirs.state_dict().items()
    }
    torch.save({**halves, **numbers}, path)
    load_clip_weights(ours, "RN50", path)
    for name, value in halves.items():
        loaded = ours.state_dict()[name]
        assert loaded.dtype == theirs.state_dict()[name].dtype
        assert torch.equal(loaded, value.to(loaded.dtype)), name
    with pytest.raises(PrepError, match="not the weights of CLIP RN101: it lacks visual"):
        load_clip_weights(clip("RN101"), "RN101", path)
    with pytest.raises(PrepError, match="not the weights of CLIP ViT-B-32: it lacks"):
        load_calibration_clip(path)

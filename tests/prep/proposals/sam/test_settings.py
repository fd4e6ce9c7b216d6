"""Presets, checks of the options, and finding and reading checkpoints."""

from __future__ import annotations

import inspect
import pickle
from pathlib import Path

import pytest
import torch
from segment_anything import SamAutomaticMaskGenerator

from prep.errors import PrepError
from prep.proposals.sam.device import device_of
from prep.proposals.sam.settings import CHECKPOINTS, PRESETS, SamSettings, find_checkpoint, preset
from prep.proposals.sam.weights import identify, load_sam, read_weights


def test_the_sam_preset_has_the_official_defaults() -> None:
    official = inspect.signature(SamAutomaticMaskGenerator.__init__).parameters
    for name, value in PRESETS["sam"].key().items():
        if name not in ("model", "fidelity"):
            assert value == official[name].default, name
    missing = set(official) - set(PRESETS["sam"].key())
    assert missing == {"self", "output_mode"} | missing & {"model"}


def test_the_pcnet_preset_has_the_papers_numbers() -> None:
    pcnet = preset("pcnet", model="vit_b")
    assert (pcnet.points_per_side, pcnet.pred_iou_thresh, pcnet.stability_score_thresh) == (8, 0.7, 0.7)
    assert pcnet.model == "vit_b"


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "vit_x"},
        {"fidelity": "roughly"},
        {"points_per_side": 0},
        {"points_per_side": None},
        {"points_per_batch": 0},
        {"pred_iou_thresh": float("nan")},
        {"crop_n_layers": -1},
        {"point_grids": (((0.5, 0.5),),)},
        {"points_per_side": None, "point_grids": (((0.5, 0.5),),), "crop_n_layers": 1},
    ],
)
def test_wrong_options_are_named(wrong: dict[str, object]) -> None:
    with pytest.raises(PrepError, match=min(wrong).split("_")[0]):
        SamSettings(**wrong)  # type: ignore[arg-type]


def test_what_changes_no_mask_is_not_in_the_key() -> None:
    moved = SamSettings(checkpoint="elsewhere.pth", device="cpu", images_per_batch=7, threads=3)
    assert moved.key() == SamSettings().key()
    assert SamSettings(fidelity="fast").key() != SamSettings().key()


def test_a_missing_checkpoint_prints_its_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    with pytest.raises(PrepError) as caught:
        find_checkpoint("vit_h")
    assert "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth" in caught.value.remedy
    with pytest.raises(PrepError, match=r"nowhere\.pth"):
        find_checkpoint("vit_b", "nowhere.pth")


@pytest.mark.parametrize("place", [".", "checkpoints", "torch/hub/checkpoints"])
def test_a_checkpoint_is_found_under_its_usual_name(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    file = tmp_path / place / CHECKPOINTS["vit_l"]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    assert find_checkpoint("vit_l").resolve() == file
    assert find_checkpoint("vit_l", file.parent).resolve() == file


def test_the_weights_of_another_model_are_named(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 2, 2, 1024)}, file)
    assert identify(read_weights(file)) == "vit_l"
    with pytest.raises(PrepError, match="contains the weights of vit_l, not of vit_b"):
        load_sam(SamSettings(model="vit_b", checkpoint=str(file), device="cpu"))
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 2, 2, 768)}, file)
    with pytest.raises(PrepError, match="does not match SAM vit_b"):
        load_sam(SamSettings(model="vit_b", checkpoint=str(file), device="cpu"))
    torch.save({"layer": torch.zeros(2)}, file)
    with pytest.raises(PrepError, match="no SAM weights"):
        load_sam(SamSettings(model="vit_b", checkpoint=str(file), device="cpu"))


class Code:
    """Runs code when unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("unpickled",)


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>not found</html>", b"PK\x03\x04 cut short", pickle.dumps(Code()), pickle.dumps([1])],
)
def test_what_is_no_checkpoint_is_refused(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    with pytest.raises(PrepError, match=r"weights\.pth"):
        read_weights(file)
    assert "unpickled" not in capsys.readouterr().out


def test_a_gpu_that_is_not_there() -> None:
    count = torch.cuda.device_count()
    with pytest.raises(PrepError, match=f"torch sees {count} GPUs"):
        device_of(SamSettings(device=f"cuda:{count}"))
    with pytest.raises(PrepError, match="device is"):
        device_of(SamSettings(device="abacus"))

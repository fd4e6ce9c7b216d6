"""Presets, checks of the options, and finding and reading checkpoints."""

from __future__ import annotations

import builtins
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from prep.commands.proposals import _generator
from prep.errors import PrepError
from prep.proposals import generators
from prep.proposals.sam2 import weights
from prep.proposals.sam2.settings import CHECKPOINTS, PRESETS, Sam2Settings, find_checkpoint, preset
from prep.proposals.sam2.weights import identify, load_sam2

MISSING = "sam2 is not installed: SAM2_BUILD_CUDA=0 pip install 'pcnet-prep[sam2]'"
USUAL = {
    "generator": "sam2", "freesolo": None, "model": None, "fidelity": "exact", "preset": "pcnet",
    "checkpoint": None,
}  # fmt: skip


def test_the_sam_preset_has_the_official_defaults() -> None:
    reference = pytest.importorskip("sam2.automatic_mask_generator", reason=MISSING)
    official = inspect.signature(reference.SAM2AutomaticMaskGenerator.__init__).parameters
    for name, value in PRESETS["sam"].key().items():
        if name not in ("model", "fidelity"):
            assert value == official[name].default, name
    assert set(official) - set(PRESETS["sam"].key()) == {"self", "output_mode", "kwargs"}


def test_the_pcnet_preset_has_the_papers_numbers() -> None:
    pcnet = preset("pcnet", model="sam2.1_hiera_s")
    assert (pcnet.points_per_side, pcnet.pred_iou_thresh, pcnet.stability_score_thresh) == (8, 0.7, 0.7)
    assert pcnet.model == "sam2.1_hiera_s"


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "vit_h"},
        {"fidelity": "roughly"},
        {"points_per_side": 0},
        {"mask_threshold": float("inf")},
        {"min_mask_region_area": -1},
    ],
)
def test_wrong_options_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(PrepError, match=min(wrong)):
        Sam2Settings(**wrong)


def test_what_changes_no_mask_is_not_in_the_key() -> None:
    usual = Sam2Settings().key()
    assert Sam2Settings(checkpoint="elsewhere.pt", device="cpu", threads=3).key() == usual
    for changed in ({"use_m2m": True}, {"multimask_output": False}, {"mask_threshold": 0.1}):
        assert Sam2Settings(**changed).key() != usual


def test_flags_become_settings() -> None:
    made = _generator({**USUAL, "model": "sam2.1_hiera_b+"}, {"use_m2m": True, "crop_n_layers": 1}, "cpu")
    assert made.name == "sam2:sam2.1_hiera_b+"
    assert made.settings() == preset("pcnet", model="sam2.1_hiera_b+", use_m2m=True, crop_n_layers=1).key()
    assert _generator(USUAL, {}, "cpu").name == "sam2:sam2.1_hiera_l"
    assert _generator({**USUAL, "generator": "sam"}, {}, "cpu").name == "sam:vit_h"


@pytest.mark.parametrize(
    ("changes", "official", "message"),
    [
        ({"model": "vit_b"}, {}, "model is 'vit_b'"),
        ({"generator": "sam", "model": "sam2.1_hiera_t"}, {}, "model is 'sam2.1_hiera_t'"),
        ({"freesolo": ["nms_pre=3"]}, {}, "--freesolo"),
        ({"generator": "sam"}, {"use_m2m": True}, "sam has no option --use-m2m"),
        ({"generator": "hf:some/model"}, {"mask_threshold": 1.0}, "no option --mask-threshold"),
        ({"generator": "segments"}, {"multimask_output": False}, "no option --multimask-output"),
        ({"generator": "freesolo"}, {"use_m2m": True}, "--use-m2m"),
    ],
)
def test_options_of_other_generators_are_refused(
    changes: dict[str, Any], official: dict[str, Any], message: str
) -> None:
    with pytest.raises(PrepError, match=message):
        _generator({**USUAL, **changes}, official, "cpu")


def test_a_missing_checkpoint_prints_its_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    with pytest.raises(PrepError) as caught:
        generators.build("sam2").open()
    address = "https://dl.fbaipublicfiles.com/segment_anything_2/092824/sam2.1_hiera_large.pt"
    assert address in caught.value.remedy
    file = tmp_path / "checkpoints" / CHECKPOINTS["sam2.1_hiera_t"]
    file.parent.mkdir()
    file.touch()
    assert find_checkpoint("sam2.1_hiera_t").resolve() == file


def state(width: int, blocks: int, first_version: bool = False) -> dict[str, torch.Tensor]:
    """Tensors by which a model is identified."""
    trunk = "image_encoder.trunk"
    found = {f"{trunk}.blocks.{number}.norm1.weight": torch.zeros(1) for number in range(blocks)}
    found[f"{trunk}.patch_embed.proj.weight"] = torch.zeros(width, 3, 7, 7)
    return found if first_version else {**found, "no_obj_embed_spatial": torch.zeros(1, 64)}


def test_the_weights_of_another_model_are_named(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    settings = Sam2Settings(model="sam2.1_hiera_t", checkpoint=str(file), device="cpu")
    for content, message, remedy in (
        (state(144, 48), "the weights of sam2.1_hiera_l, not of", "Set --model sam2.1_hiera_l"),
        (state(96, 12, first_version=True), "the weights of sam2_hiera_t, not of", "Set another"),
        ({"layer": torch.zeros(2)}, "no weights of SAM 2, not of", "Set another"),
    ):
        torch.save({"model": content}, file)
        with pytest.raises(PrepError, match=message) as caught:
            load_sam2(settings)
        assert caught.value.remedy.startswith(remedy)


def test_weights_of_other_shapes_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("sam2", reason=MISSING)
    file = tmp_path / "weights.pt"
    torch.save({"model": state(96, 12)}, file)
    with pytest.raises(PrepError, match=r"does not match sam2\.1_hiera_t"):
        load_sam2(Sam2Settings(model="sam2.1_hiera_t", checkpoint=str(file), device="cpu"))


@pytest.mark.parametrize("model", CHECKPOINTS)
def test_models_are_known_by_their_weights(model: str) -> None:
    sam2 = pytest.importorskip("sam2", reason=MISSING)
    file = Path(sam2.__path__[0], "configs", "sam2.1", f"{model}.yaml")
    trunk = yaml.safe_load(file.read_text())["model"]["image_encoder"]["trunk"]
    usual = inspect.signature(importlib.import_module("sam2.modeling.backbones.hieradet").Hiera).parameters
    width, stages = (trunk.get(name, usual[name].default) for name in ("embed_dim", "stages"))
    assert identify(state(width, sum(stages))) == model


def test_a_missing_package_names_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("sam2"):
            raise ModuleNotFoundError(f"No module named {name!r}", name="sam2")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PrepError, match="not installed: sam2") as caught:
        weights.build("sam2.1_hiera_t")
    assert "SAM2_BUILD_CUDA=0 pip install 'pcnet-prep[sam2]'" in caught.value.remedy

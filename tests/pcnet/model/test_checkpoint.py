"""Checkpoints: whole or absent, round trips for every recipe, released files, and clear refusals."""

from __future__ import annotations

import os
import pickle
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pcnet
from pcnet.config import ClipSizes, ModelConfig
from pcnet.data.tokenizers import ClipTokenizer, WordTokenizer
from pcnet.model.checkpoint import begin_from, load_model, read_checkpoint, save_checkpoint
from pcnet.model.pcnet import PCNet
from pcnet.recipes import RECIPES, recipe
from prep.errors import PrepError
from tests.limits import limited_memory

WORDS = WordTokenizer(["circle", "red", "the"])


def save(path: Path, model: PCNet, name: str, **extra: Any) -> Path:
    save_checkpoint(path, model, RECIPES[name], WORDS, extra)
    return path


@pytest.mark.parametrize("encoder", ["clip", "tiny"])
@pytest.mark.parametrize("name", ["paper", "released", "plus"])
def test_what_is_saved_comes_back(
    small_model: Any, random_batch: Any, tmp_path: Path, name: str, encoder: str
) -> None:
    model, batch = small_model(name, 2, encoder).eval(), random_batch()
    path = save(tmp_path / "run" / "last.pt", model, name, step=7)
    again = pcnet.load_model(path)
    assert again.training is False
    assert again.config == model.config
    assert again.recipe == RECIPES[name]
    assert again.tokenizer is not None
    assert again.tokenizer.as_dict() == WORDS.as_dict()
    assert (read_checkpoint(path)["step"], read_checkpoint(path)["format"]) == (7, 1)
    with torch.no_grad():
        got, wanted = (m(batch.images, batch.expression_ids, batch.phrase_ids) for m in (again, model))
    assert torch.equal(got, wanted)
    assert [p.name for p in path.parent.iterdir()] == ["last.pt"]


def test_a_checkpoint_of_version_0_1_0_is_read(small_model: Any, tmp_path: Path) -> None:
    """It has a setting that is gone: false is what there is now, true names weights that nobody reads."""
    model = small_model("plus", 2, "tiny")
    path = save(tmp_path / "a.pt", model, "plus")
    payload = read_checkpoint(path)
    for relative in (False, True):
        old = {name: {**payload[name], "relative": relative} for name in ("config", "recipe")}
        torch.save({**payload, **old}, path)
        if not relative:
            again = load_model(path)
            assert (again.config, again.recipe) == (model.config, RECIPES["plus"])
    with pytest.raises(PrepError, match="The setting relative"):
        load_model(path)


def test_fewer_stages_may_be_asked_for(small_model: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", small_model("plus", 3), "plus")
    assert load_model(path, stages=2).config.stages == 2
    with pytest.raises(PrepError, match="has 3 stages, fewer than the requested 4"):
        load_model(path, stages=4)


def test_another_recipe_needs_its_own_weights(small_model: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", small_model("paper"), "paper")
    with pytest.raises(PrepError, match="not a model with 'plus' stages"):
        load_model(path, recipe="plus")
    with pytest.raises(PrepError, match="Unknown recipe 'best'"):
        load_model(path, recipe="best")
    assert load_model(path, recipe="paper").recipe == RECIPES["paper"]


def test_overridden_weights_are_kept(small_model: Any, tmp_path: Path) -> None:
    chosen = recipe("paper", {"iad": 0.25}, temperature=3.0)
    path = tmp_path / "a.pt"
    save_checkpoint(path, small_model("paper"), chosen, ClipTokenizer(), {})
    loaded = load_model(path)
    assert loaded.recipe == chosen
    assert load_model(path, recipe="paper").recipe == chosen


@pytest.mark.parametrize("keep", [0, 10, 4096, -100])
def test_a_cut_file_is_refused(small_model: Any, tmp_path: Path, keep: int) -> None:
    path = save(tmp_path / "a.pt", small_model("plus", 1, "tiny"), "plus")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(PrepError, match=r"a\.pt: not a readable checkpoint"):
        load_model(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PrepError, match="no such checkpoint"):
        load_model(tmp_path / "absent.pt")
    text = tmp_path / "text.pt"
    text.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(PrepError, match="not a readable checkpoint"):
        load_model(text)
    for number, payload in enumerate([{}, {"model": {}}, {"model": 3}, [1], {"model": {"a": 1}}]):
        path = tmp_path / f"{number}.pt"
        torch.save(payload, path)
        with pytest.raises(PrepError, match="contains no model"):
            load_model(path)
    other = tmp_path / "other.pt"
    torch.save({"model": nn.Linear(2, 2).state_dict()}, other)
    with pytest.raises(
        PrepError, match=r"not a PCNet checkpoint: it lacks 'backbone\.text_projection'"
    ) as no:
        load_model(other)
    assert "checkpoint" in no.value.remedy
    newer = tmp_path / "newer.pt"
    torch.save({"model": nn.Linear(2, 2).state_dict(), "format": 2}, newer)
    with pytest.raises(PrepError, match="format 2"):
        load_model(newer)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("config", {"hidden": 10**9}),
        ("config", {"hidden": 10**30}),
        ("config", {"hidden": -1}),
        ("config", {"hidden": "x"}),
        ("config", {"vocabulary": 10**9}),
        ("config", {"encoder": "clip", "clip": {"vision_layers": [10**9] * 4}}),
        ("config", {"encoder": "RN50"}),
        ("config", {"stages": 10**7}),
        ("config", [1]),
        ("recipe", [1]),
        ("recipe", {"weights": 3}),
        ("tokenizer", 3),
        ("tokenizer", {"words": 3}),
        ("tokenizer", {"kind": "x"}),
    ],
)
def test_settings_of_a_file_take_no_memory_and_raise_nothing_but_our_error(
    small_model: Any, tmp_path: Path, part: str, change: Any
) -> None:
    """A checkpoint from somebody else may name any sizes: they are compared with its weights first."""
    path = save(tmp_path / "a.pt", small_model("plus", 1, "tiny"), "plus")
    payload = read_checkpoint(path)
    torch.save({**payload, part: {**payload[part], **change} if isinstance(change, dict) else change}, path)
    with limited_memory(2 << 30), pytest.raises(PrepError):
        load_model(path)


def test_weights_are_as_large_as_the_file_and_not_compressed(small_model: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", small_model("plus", 1, "tiny"), "plus")
    payload = read_checkpoint(path)
    name = "c4_vis_project.weight"
    for hidden, message in ((10**7, "far larger than the file"), (2000, "larger than what the file holds")):
        wide = payload["model"][name][:1].expand(hidden, -1, -1, -1)
        model, config = {**payload["model"], name: wide}, {**payload["config"], "hidden": hidden}
        torch.save({**payload, "model": model, "config": config}, path)
        with limited_memory(2 << 30), pytest.raises(PrepError, match=message):
            load_model(path)
    packed = tmp_path / "b.pt"
    torch.save({**payload, "more": torch.zeros(1 << 26, dtype=torch.uint8)}, path)
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as small:
        for entry in whole.infolist():
            small.writestr(entry.filename, whole.read(entry.filename))
    with pytest.raises(PrepError, match=r"b\.pt: not a readable checkpoint .*: it is compressed\."):
        load_model(packed)


class _Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_no_code_of_a_file_is_run(tmp_path: Path) -> None:
    path, marker = tmp_path / "evil.pt", tmp_path / "ran"
    torch.save({"model": {"a": torch.zeros(1)}, "extra": _Payload(marker)}, path)
    with pytest.raises(PrepError, match="not a readable checkpoint"):
        load_model(path)
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(_Payload(marker)))
    with pytest.raises(PrepError, match="not a readable checkpoint"):
        load_model(tmp_path / "plain.pt")
    assert not marker.exists()


def test_a_failed_write_leaves_the_old_file(small_model: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", small_model("plus", 1, "tiny"), "plus", step=1)
    with pytest.raises(Exception, match="pickle"):
        save(path, small_model("plus", 1, "tiny"), "plus", step=lambda: None)
    assert read_checkpoint(path)["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_only_a_file_of_the_same_encoder_and_words_can_be_begun_from(
    small_model: Any, tmp_path: Path
) -> None:
    words = [f"word{number}" for number in range(38)]
    path, model = tmp_path / "a.pt", small_model("none", 1, "tiny")
    save_checkpoint(path, model, RECIPES["paper"], WordTokenizer(words))
    other = small_model("plus", 3, "tiny")
    other.tokenizer = WordTokenizer(words)
    with torch.no_grad():
        other.logit_scale.fill_(0)
    begin_from(other, path)
    assert other.logit_scale == model.logit_scale
    other.tokenizer = WordTokenizer([*words[1:], "else"])
    with pytest.raises(PrepError, match="the vocabulary differs from that of these texts"):
        begin_from(other, path)
    with pytest.raises(PrepError, match="with the shape of encoder clip"):
        begin_from(small_model("plus"), path)
    payload = read_checkpoint(path)  # a file that names no words says nothing against these
    torch.save({name: value for name, value in payload.items() if name != "tokenizer"}, path)
    begin_from(other, path)


def released_like(small_model: Any, path: Path) -> PCNet:
    model = small_model("released", 3)
    torch.save({"model": model.state_dict(), "optimizer": {}, "lr_scheduler": {}, "epoch": 3}, path)
    return model


def test_a_file_that_says_nothing_is_released_and_its_sizes_are_read_off(
    small_model: Any, random_batch: Any, tmp_path: Path
) -> None:
    path, batch = tmp_path / "released.pth", random_batch()
    model = released_like(small_model, path).eval()
    loaded = load_model(path)
    assert loaded.config == model.config
    assert loaded.recipe == RECIPES["released"]
    assert isinstance(loaded.tokenizer, ClipTokenizer)
    assert loaded.tokenizer.released
    with torch.no_grad():
        got, wanted = (m(batch.images, batch.expression_ids, batch.phrase_ids) for m in (loaded, model))
    assert torch.equal(got, wanted)
    assert load_model(path, stages=4).config.stages == 4


def test_files_of_wrapped_models_load_too(small_model: Any, tmp_path: Path) -> None:
    model = small_model("released")
    state = {f"module.{name}": value for name, value in model.state_dict().items()}
    torch.save({"model": state}, tmp_path / "a.pth")
    assert load_model(tmp_path / "a.pth").config == model.config


def test_missing_and_misshapen_weights_are_named(small_model: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    state = released_like(small_model, path).state_dict()
    for change, message in (
        ({"attn_fusion_vl.1.t_proj1.0.bias": None}, r"lacks attn_fusion_vl\.1\.t_proj1\.0\.bias"),
        ({"c4_vis_project.bias": torch.zeros(3)}, r"has c4_vis_project\.bias of shape \(3,\), not \(16,\)"),
        ({"c3_vis_project.bias": torch.zeros(3)}, r"has c3_vis_project\.bias, which"),
    ):
        changed = {k: v for k, v in {**state, **change}.items() if v is not None}
        torch.save({"model": changed}, path)
        with pytest.raises(PrepError, match=message) as one:
            load_model(path)
        assert " more)" not in one.value.message
    torch.save({"model": {k: v for k, v in state.items() if "t_proj1" not in k}}, path)
    gone = [name for name in state if "t_proj1" in name and not name.endswith("num_batches_tracked")]
    with pytest.raises(PrepError, match=rf"\(and {len(gone) - 1} more\)\.\n"):
        load_model(path)


@pytest.mark.parametrize("name", ["RN50", "RN101"])
def test_named_sizes_are_recognised(tmp_path: Path, name: str) -> None:
    from pcnet.model.checkpoint import _sizes

    with torch.device("meta"):
        state = PCNet(ModelConfig(name, "released")).state_dict()
    config = _sizes(tmp_path, state, RECIPES["released"])
    assert config == ModelConfig(name, "released")


def test_a_released_checkpoint_file(released: Any, deviation: Any, tmp_path: Path) -> None:
    path, given = tmp_path / "ckpt_320_epoch_0_best.pth", released.under("input/")
    state = released.under("state/")
    torch.save({"model": state, "epoch": 0}, path)
    for stages in (1, 2, 3, 4):
        model = pcnet.load_model(path, stages=stages)
        with torch.no_grad():
            got = model(given["img"], given["word_ids"], given["eval_llm_word_ids"])
        assert deviation(got, released[f"eval/K{stages}/response"]) <= 1e-5
    assert model.config.clip == ClipSizes(1024, 224, (1, 1, 1, 1), 4, 77, 512, 64, 2)
    ours = tmp_path / "ours.pt"
    save_checkpoint(ours, model, RECIPES["released"], ClipTokenizer(released=True))
    saved = read_checkpoint(ours)["model"]
    assert saved.keys() == state.keys()
    assert all(torch.equal(saved[name], value) for name, value in state.items())
    assert saved["logit_scale"].dtype == torch.float32


def test_a_checkpoint_survives_a_crash_of_the_machine(
    small_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(stat.S_ISDIR(os.fstat(number).st_mode)))
    save(tmp_path / "a.pt", small_model("paper"), "paper")
    assert synced == [False, True]  # the file before its name, then the folder

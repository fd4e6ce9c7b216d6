"""Encoders of open_clip and transformers: trained two steps, saved, loaded, evaluated; what is frozen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from pcnet.evaluation.evaluate import EvalSettings, evaluate_checkpoint
from pcnet.model.checkpoint import load_model, read_checkpoint
from pcnet.model.pcnet import IMAGE_PARTS
from pcnet.training.trainer import TrainConfig, train
from prep.datasets.catalogue import open_dataset
from prep.errors import PrepError

TEXT = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1}
MODELS = {
    "small-vit": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": TEXT,
    },
    "small-siglip": {
        "embed_dim": 16,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 160, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none",
        },
        "text_cfg": {**TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    },
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def small_models(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Makes open_clip know small models beside its own."""
    folder = tmp_path_factory.mktemp("models")
    for name, config in MODELS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Models of transformers in folders: a CLIP with its tokenizer, and a DINOv2 without a text encoder."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model, PreTrainedTokenizerFast

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vision = {**small, "image_size": 32, "patch_size": 8}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = {**small, "vocab_size": 40, "max_position_embeddings": 24, **ids}
    torch.manual_seed(0)
    made = {"clip": CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))}
    made["dino"] = Dinov2Model(Dinov2Config(**vision))
    places = {}
    for name, model in made.items():
        places[name] = str(tmp_path_factory.mktemp(name))
        model.save_pretrained(places[name])
    words = [
        "<",
        ">",
        "?",
        *[
            "the",
            "red",
            "green",
            "blue",
            "circle",
            "square",
            "triangle",
            "left",
            "right",
            "of",
            "small",
            "large",
            "on",
        ],
    ]
    fast = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="?"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=fast, eos_token=">", pad_token=">", unk_token="?")
    wrapped.save_pretrained(places["clip"])
    return places


@pytest.fixture
def config(prepared: Any, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        store=prepared.store,
        data=str(prepared.data),
        out=str(tmp_path / "run"),
        recipe="plus",
        clip_weights="random",
        steps=2,
        batch_size=4,
        size=32,
        threads=1,
        device="cpu",
        quiet=True,
    )


def evaluated(path: Path, prepared: Any) -> Any:
    source = open_dataset(Path(prepared.data), "refcoco")
    return evaluate_checkpoint(
        path, source, split="val", settings=EvalSettings(), store=prepared.store, device="cpu"
    ).metrics


@pytest.mark.slow
@pytest.mark.parametrize("encoder", ["small-vit", "small-siglip", "clip", "dino"])
def test_an_encoder_is_trained_saved_loaded_and_evaluated(encoder, config, prepared, folders):
    changes: dict[str, Any] = {"encoder": encoder}
    if encoder in folders:
        changes = {"encoder": f"hf:{folders[encoder]}", "clip_weights": "openai"}
    if encoder == "dino":
        changes["text_encoder"] = f"hf:{folders['clip']}"
    trained = train(replace(config, **changes))
    payload = read_checkpoint(trained.last)
    assert payload["config"]["towers"]["kind"] == ("hf" if encoder in folders else "open_clip")
    model = load_model(trained.last)  # without the folders: all is in the file
    ids = model.tokenizer(["the red circle on the left"])
    assert ids.shape[0] == 1
    assert evaluated(trained.last, prepared) == evaluated(trained.last, prepared)
    again = train(replace(config, **changes, steps=2))  # a finished run is found as such
    assert again.steps == 2


def test_the_weights_of_a_folder_are_those_that_are_trained_from(config, folders):
    from transformers import AutoModel

    trained = train(replace(config, encoder=f"hf:{folders['clip']}", clip_weights="openai", freeze="all"))
    state = load_model(trained.last).backbone.state_dict()
    theirs = AutoModel.from_pretrained(folders["clip"])
    for part, whole in (("image", theirs.vision_model), ("text", theirs.text_model)):
        for name, value in whole.state_dict().items():
            assert torch.equal(state[f"{part}.{name}"], value), name


@pytest.mark.parametrize("freeze", ["none", "image", "text", "all"])
@pytest.mark.parametrize("encoder", ["tiny", "small-vit"])
def test_a_frozen_encoder_keeps_every_value(encoder, freeze, config):
    """Batch statistics included."""
    settings = replace(config, encoder=encoder, freeze=freeze)
    before = load_model(
        train(replace(settings, steps=1, out=config.out + "1", lr=1e-12)).last
    ).backbone.state_dict()
    after = load_model(train(replace(settings, steps=3, lr=1e-2)).last).backbone.state_dict()
    changed = {
        "image" if name.split(".")[0] in IMAGE_PARTS else "text"
        for name, value in after.items()
        if not torch.allclose(value.float(), before[name].float(), atol=1e-7)
    }
    assert changed == {"image", "text"} - ({"image", "text"} if freeze == "all" else {freeze})


def test_the_encoders_learning_rate_is_the_given_one() -> None:
    assert TrainConfig(lr=1e-3, lr_encoder=5e-4).resolved().backbone_lr == pytest.approx(0.5)
    assert TrainConfig(lr_encoder=5e-5).resolved().backbone_lr == pytest.approx(1.0)
    assert TrainConfig().resolved().backbone_lr == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"encoder": "ViT-B-23"}, "Did you mean ViT-B-32"),
        ({"encoder": "small-vit", "size": 30}, "--size 30 is not a multiple of 8"),
        ({"encoder": "small-vit", "recipe": "released"}, "whose tokens are not those of small-vit"),
        ({"encoder": "tiny", "vit_features": "values"}, "--vit-features has no effect with --encoder tiny"),
        ({"encoder": "tiny", "text_encoder": "hf:x"}, "--text-encoder has no effect"),
        ({"encoder": "small-vit", "freeze": "heads"}, "--freeze is 'heads'"),
        ({"encoder": "small-vit", "clip_weights": "openai"}, "small-vit has no weights 'openai'"),
        ({"encoder": "hf:{dino}"}, "has no text encoder"),
        ({"encoder": "hf:{clip}", "text_encoder": "hf:{dino}"}, "tokenizer of"),
    ],
)
def test_a_wrong_combination_is_refused_in_words(changes, said, config, folders):
    filled = {
        name: value.format(**folders) if isinstance(value, str) else value for name, value in changes.items()
    }
    with pytest.raises(PrepError, match=said) as error:
        train(replace(config, **filled))
    assert error.value.remedy
    assert not Path(config.out, "last.pt").exists()

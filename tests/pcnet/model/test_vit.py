"""Encoders of open_clip and transformers: their features are the libraries' own, at any size of image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from open_clip.model import CLIP, CustomTextCLIP, resize_pos_embed
from torch import Tensor, nn
from torch.nn import functional as F

from pcnet.config import ModelConfig
from pcnet.data.images import MEAN, STD
from pcnet.model.encoders import build_encoder
from pcnet.model.towers import checked, describe, patch_size, text_length
from pcnet.model.vit import VitEncoder
from prep.errors import PrepError

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def of_open_clip(vision: dict[str, Any], *, custom: bool = False, **text: Any) -> dict[str, Any]:
    texts = {"context_length": 16, "vocab_size": 64, "width": 64, "heads": 1, "layers": 2, **text}
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": texts}
    whole = {**config, "custom_text": True} if custom else config
    return {"kind": "open_clip", "config": whole, "mean": list(MEAN), "std": list(STD)}


def of_transformers(image: Any, text: Any) -> dict[str, Any]:
    return {
        "kind": "hf",
        "image": image.to_dict(),
        "text": text.to_dict(),
        "mean": list(MEAN),
        "std": list(STD),
    }


VIT = of_open_clip({"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16})
RESNET = of_open_clip({"image_size": 64, "layers": [1, 1, 1, 1], "width": 8})
SIGLIP = of_open_clip(
    {"image_size": 160, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"},
    custom=True,
    no_causal_mask=True,
    proj_bias=True,
    pool_type="last",
)
EVA = of_open_clip(
    {"image_size": 224, "timm_model_name": "eva02_tiny_patch14_224", "timm_pool": "token", "timm_proj": None},
    custom=True,
)


def transformers_towers() -> dict[str, dict[str, Any]]:
    from transformers import CLIPConfig, Dinov2Config, DINOv3ViTConfig, SiglipConfig, ViTConfig

    vision = {**SMALL, "image_size": 64, "patch_size": 16}
    ids = {"eos_token_id": 63, "bos_token_id": 62, "pad_token_id": 1}
    texts = {**SMALL, "vocab_size": 64, "max_position_embeddings": 16, **ids}
    clip = CLIPConfig(text_config=texts, vision_config=vision, bos_token_id=62, eos_token_id=63)
    siglip = SiglipConfig(text_config=texts, vision_config=vision, bos_token_id=62, eos_token_id=63)
    images = {"clip": clip, "siglip": siglip, "vit": ViTConfig(**vision), "dinov2": Dinov2Config(**vision)}
    images["dinov3"] = DINOv3ViTConfig(**vision)
    return {
        name: of_transformers(image, siglip if name == "siglip" else clip) for name, image in images.items()
    }


HF = transformers_towers()
OPEN_CLIP = {"ViT": VIT, "ResNet": RESNET, "SigLIP": SIGLIP, "EVA": EVA}


def encoder(towers: dict[str, Any], features: str = "tokens") -> Any:
    torch.manual_seed(0)
    return VitEncoder(towers, features).eval()


@pytest.mark.parametrize("name", [*OPEN_CLIP, *HF])
def test_features_lie_on_the_grid_of_patches_at_any_size(name: str) -> None:
    own = encoder({**OPEN_CLIP, **HF}[name])
    patch = own.patch
    with torch.no_grad():
        for rows, columns in ((4, 4), (3, 5)):
            images = torch.randn(2, 3, rows * patch, columns * patch)
            made = own.encode_image(images)
            assert made.shape == (2, own.visual_channels, rows, columns)
            torch.testing.assert_close(own.encode_image(images[1:]), made[1:], rtol=1e-3, atol=1e-4)
    ids = torch.tensor([[62, 5, 6, 63] + [1] * 12, [62, 7, 63, 1] + [1] * 12])
    assert own.encode_text(ids).shape == (2, own.text_width)
    with pytest.raises(PrepError, match="multiple of the patch size"):
        own.encode_image(torch.zeros(1, 3, patch + 1, patch))


def test_open_clips_tokens_are_its_own() -> None:
    own = encoder(VIT)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        theirs = own.image.forward_intermediates(images, indices=1, normalize_intermediates=True)
        torch.testing.assert_close(own.encode_image(images), theirs["image_intermediates"][0])


def test_the_text_features_are_those_of_the_whole_model() -> None:
    for towers, kind in ((VIT, CLIP), (SIGLIP, CustomTextCLIP)):
        own = encoder(towers)
        config = {name: value for name, value in towers["config"].items() if name != "custom_text"}
        whole: Any = kind(**config).eval()
        texts = own.text.state_dict()
        target = whole.text if kind is CustomTextCLIP else whole
        assert not target.load_state_dict(texts, strict=False).unexpected_keys
        ids = torch.randint(2, 60, (3, 16))
        ids[:, -1] = 63
        with torch.no_grad():
            torch.testing.assert_close(own.encode_text(ids), whole.encode_text(ids))


def test_timms_tokens_are_its_own() -> None:
    own = encoder(SIGLIP)
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        own.image.trunk.dynamic_img_size = True
        theirs = own.image.trunk.forward_features(images)[:, -100:]
        torch.testing.assert_close(own.encode_image(images).flatten(2).transpose(1, 2), theirs)


@pytest.mark.parametrize("name", HF)
def test_transformers_tokens_are_its_own(name: str) -> None:
    own = encoder(HF[name])
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        last = own.image(pixel_values=images).last_hidden_state
        if name == "clip":  # its model applies the last norm to the class token alone
            last = own.image.post_layernorm(last)
        torch.testing.assert_close(own.encode_image(images).flatten(2).transpose(1, 2), last[:, -16:])


def test_positions_are_resized_as_open_clip_does_for_another_size() -> None:
    own = encoder(VIT)
    config = {**VIT["config"], "vision_cfg": {**VIT["config"]["vision_cfg"], "image_size": 96}}
    theirs: Any = CLIP(**config).eval()
    state = {f"visual.{name}": value for name, value in own.image.state_dict().items()}
    resize_pos_embed(state, theirs)
    theirs.load_state_dict(state, strict=False)
    images = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        wanted = theirs.visual.forward_intermediates(images, indices=1, normalize_intermediates=True)
        torch.testing.assert_close(own.encode_image(images), wanted["image_intermediates"][0])


def test_values_are_what_a_token_passes_on_to_itself() -> None:
    own = encoder(VIT, "values")
    images = torch.randn(1, 3, 64, 64)
    inputs: list[Tensor] = []
    block = own.image.transformer.resblocks[-1]
    block.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad():
        made = own.encode_image(images).flatten(2).transpose(1, 2)
        attention: nn.MultiheadAttention = block.attn
        width = inputs[0].shape[-1]
        weight, bias = attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :]
        value = attention.out_proj(F.linear(block.ln_1(inputs[0]), weight, bias))
        torch.testing.assert_close(made, own.image.ln_post(value)[:, 1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["SigLIP", "clip", "siglip", "vit", "dinov2"])
def test_values_differ_from_tokens(name: str) -> None:
    towers = {**OPEN_CLIP, **HF}[name]
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        tokens, values = (encoder(towers, kind).encode_image(images) for kind in ("tokens", "values"))
    assert tokens.shape == values.shape
    assert not torch.allclose(tokens, values)


def test_an_attention_that_needs_positions_has_no_values() -> None:
    with pytest.raises(PrepError, match="--vit-features values is not known"):
        encoder(HF["dinov3"], "values")


def test_images_are_normalised_as_the_encoder_was_trained() -> None:
    own = encoder({**VIT, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]})
    pixels = torch.rand(1, 3, 64, 64)
    ours = (pixels - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    theirs = (pixels - torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(
        1, 3, 1, 1
    )
    plain = encoder(VIT)
    with torch.no_grad():
        torch.testing.assert_close(own.encode_image(ours), plain.encode_image(theirs), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("features", ["tokens", "values"])
def test_what_no_feature_depends_on_is_not_trained(features: str) -> None:
    own = encoder(SIGLIP, features)
    trained = {name for name, parameter in own.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith("image.trunk.attn_pool") for name in trained)
    assert any(name.startswith("text.") for name in trained)
    assert ("image.trunk.blocks.1.mlp.fc1.weight" in trained) or features == "values"
    own.train()
    (
        own.encode_image(torch.randn(1, 3, 64, 64)).square().sum()
        + own.encode_text(torch.ones(1, 16).long()).sum()
    ).backward()
    assert trained == {name for name, parameter in own.named_parameters() if parameter.grad is not None}


def test_the_description_of_a_model_of_open_clip() -> None:
    siglip, eva, vit = describe("ViT-B-16-SigLIP2"), describe("EVA02-B-16"), describe("ViT-L-14")
    assert [patch_size(one) for one in (siglip, eva, vit, RESNET)] == [16, 16, 14, 32]
    assert [text_length(one, 20) for one in (siglip, eva, vit)] == [64, 77, 20]
    assert siglip["mean"] == [0.5, 0.5, 0.5] != vit["mean"]
    assert ModelConfig.from_dict(ModelConfig("ViT-L-14", towers=vit).as_dict()).towers == vit


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("ViT-B-23", None, "Did you mean ViT-B-32"),
        ("coca_ViT-B-32", None, "text encoder of coca_ViT-B-32"),
        ("ViT-B-32", "hf:x", "--text-encoder needs an image encoder of transformers"),
        ("hf:/no/such/folder", None, "not a usable model of transformers"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(name: str, text: str | None, said: str) -> None:
    with pytest.raises(PrepError, match=said):
        describe(name, text)


@pytest.mark.parametrize(
    "towers",
    [
        {},
        {"kind": "open_clip", "config": []},
        {"kind": "hf", "image": {}},
        {"kind": "open_clip", "config": {"vision_cfg": {"timm_model_name": "hf-hub:someone/else"}}},
        {"kind": "open_clip", "config": {"vision_cfg": {"timm_model_name": "../x"}}},
    ],
)
def test_a_files_description_is_not_looked_up_in_the_network(towers: dict[str, Any]) -> None:
    with pytest.raises(PrepError, match="cannot be built"):
        checked(towers)
    with pytest.raises(PrepError, match="cannot be built"):
        build_encoder(ModelConfig("x", towers=towers))


def test_a_configuration_that_its_library_refuses_is_named() -> None:
    broken = {**VIT, "config": {**VIT["config"], "vision_cfg": {"layers": 2, "widht": 64}}}
    with pytest.raises(PrepError, match="cannot be built"):
        encoder(broken)

"""The encoders against open_clip's own, and the tiny one's reach, coordinates and padding."""

from __future__ import annotations

import pytest
import torch

from pcnet.config import ClipSizes, ModelConfig
from pcnet.model.clip_text import clip_text
from pcnet.model.encoders import ClipEncoder, TinyEncoder, build_encoder
from prep.errors import PrepError

SMALL = ClipSizes(48, 64, (1, 2, 1, 1), 8, 24, 64, 64, 2)


def test_the_image_features_are_those_before_attention_pooling() -> None:
    torch.manual_seed(0)
    encoder = ClipEncoder(SMALL).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = encoder.encode_image(images)
        pooled = encoder.visual(images)
    assert features.shape == (2, encoder.visual_channels, 2, 2)
    torch.testing.assert_close(encoder.visual.attnpool(features), pooled)


def test_the_text_feature_is_open_clips_at_any_length() -> None:
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    torch.manual_seed(0)
    theirs = CLIP(
        48,
        CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, image_size=64),
        CLIPTextCfg(24, 64, width=64, heads=1, layers=2),
        quick_gelu=True,
    ).eval()
    ids = torch.randint(1, 60, (3, 24))
    ids[:, 9:] = 0
    ids[:, 8] = 63
    with torch.no_grad():
        wanted = theirs.encode_text(ids)
        torch.testing.assert_close(clip_text(theirs, ids), wanted)
        # What follows the end token has no say in a causal transformer.
        torch.testing.assert_close(clip_text(theirs, ids[:, :9]), wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(PrepError, match="exceed CLIP's context of 24"):
        clip_text(theirs, torch.zeros(1, 25, dtype=torch.int64))


@pytest.mark.parametrize(("name", "width"), [("RN50", 1024), ("RN101", 512)])
def test_the_named_encoders_are_open_clips(name: str, width: int) -> None:
    import open_clip

    with torch.device("meta"):
        ours = build_encoder(ModelConfig(name))
        theirs = open_clip.create_model(f"{name}-quickgelu", load_weights=False, device="meta")
    shapes = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
    assert {key: tuple(value.shape) for key, value in ours.state_dict().items()} == shapes
    assert (ours.visual_channels, ours.text_width) == (2048, width)


def test_the_tiny_image_encoder_reaches_23_pixels_at_stride_4() -> None:
    torch.manual_seed(0)
    encoder = TinyEncoder(10).eval()
    images = torch.randn(1, 3, 64, 64, requires_grad=True)
    features = encoder.encode_image(images)
    assert features.shape == (1, 64, 16, 16)
    (gradient,) = torch.autograd.grad(features[0, :, 8, 8].sum(), images)
    touched = gradient[0].abs().sum(0) > 0
    rows, columns = touched.any(1).nonzero().flatten(), touched.any(0).nonzero().flatten()
    assert len(rows) == len(columns) == 23
    assert int(rows.float().mean()) == int(columns.float().mean()) == 32


def test_the_tiny_image_encoder_knows_where_it_looks() -> None:
    torch.manual_seed(0)
    features = TinyEncoder(10).eval().encode_image(torch.zeros(1, 3, 64, 64))
    inner = features[0, :, 3:13, 3:13].flatten(1).T
    assert len(torch.unique(inner.detach(), dim=0)) == len(inner)


def test_the_tiny_text_encoder_ignores_padding() -> None:
    torch.manual_seed(0)
    encoder = TinyEncoder(10)
    ids = torch.tensor([[3, 4, 5], [6, 0, 0]])
    longer = torch.cat([ids, torch.zeros(2, 4, dtype=torch.int64)], 1)
    alone = torch.cat([encoder.encode_text(ids[:1]), encoder.encode_text(ids[1:, :1])])
    torch.testing.assert_close(encoder.encode_text(longer), alone)
    assert encoder.encode_text(longer).shape == (2, encoder.text_width)


def test_a_tiny_encoder_without_words_is_refused() -> None:
    with pytest.raises(PrepError, match="empty vocabulary"):
        build_encoder(ModelConfig("tiny"))

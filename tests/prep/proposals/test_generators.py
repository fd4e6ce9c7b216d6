"""Generators by name: the right one, with its options, or a message that says what there is."""

from __future__ import annotations

import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from prep.errors import PrepError
from prep.proposals import propose
from prep.proposals.generators import build
from prep.proposals.hf import options
from prep.proposals.segments.generator import SegmentGenerator
from prep.proposals.select import Selection

PERMISSIVE = {
    "points_per_side": 4,
    "pred_iou_thresh": -100.0,
    "stability_score_thresh": 0.0,
    "stability_score_offset": 0.01,
    "box_nms_thresh": 1.0,
}
PROMPTS = {"hidden_size": 32, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
DECODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "mlp_dim": 64,
    "iou_head_hidden_dim": 32,
}
VISION = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 16,
    "output_channels": 32,
    "global_attn_indexes": [1],
    "window_size": 2,
    "mlp_dim": 64,
    "num_pos_feats": 16,
}
HIERA = {
    "model_type": "sam2_hiera_det_model",
    "hidden_size": 16,
    "num_attention_heads": 1,
    "image_size": [64, 64],
    "blocks_per_stage": [1, 1, 2, 1],
    "embed_dim_per_stage": [16, 32, 64, 128],
    "num_attention_heads_per_stage": [1, 2, 4, 8],
    "window_size_per_stage": [4, 2, 2, 2],
    "global_attention_blocks": [3],
    "window_positional_embedding_background_size": [2, 2],
}
VISION_2 = {
    "backbone_config": HIERA,
    "backbone_channel_list": [128, 64, 32, 16],
    "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    "fpn_hidden_size": 32,
}


VISION_3 = {
    "backbone_config": {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 112,
        "patch_size": 14,
        "window_size": 4,
        "global_attn_indexes": [1],
        "pretrain_image_size": 56,
    },
    "fpn_hidden_size": 32,
    "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
}


def save_model(family: str, folder: Path) -> Path:
    """A seeded random model of a family, as small as its parts allow, with its image processor."""
    import torch
    import transformers as hf

    torch.manual_seed(0)
    if family == "sam2":
        config = hf.Sam2Config(
            vision_config=VISION_2, prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER
        )
        hf.Sam2Model(config).save_pretrained(folder)
        processor = hf.Sam2ImageProcessor(
            size={"height": 64, "width": 64}, mask_size={"height": 16, "width": 16}
        )
        processor.save_pretrained(folder)
        return folder
    if family == "sam3_tracker":
        config = hf.Sam3TrackerConfig(
            vision_config=VISION_3,
            prompt_encoder_config={**PROMPTS, "image_size": 112, "patch_size": 14},
            mask_decoder_config=DECODER,
        )
        hf.Sam3TrackerModel(config).save_pretrained(folder)
        sides = {"height": 112, "width": 112}, {"height": 32, "width": 32}
        hf.Sam3ImageProcessor(size=sides[0], mask_size=sides[1]).save_pretrained(folder)
        return folder
    if family == "sam":
        config = hf.SamConfig(
            vision_config=VISION, prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER
        )
        hf.SamModel(config).save_pretrained(folder)
    else:
        config = hf.SamHQConfig(
            vision_config={**VISION, "model_type": "sam_hq_vision_model"},
            prompt_encoder_config=PROMPTS,
            mask_decoder_config={**DECODER, "vit_dim": 32},
        )
        hf.SamHQModel(config).save_pretrained(folder)
    processor = hf.SamImageProcessor(
        size={"longest_edge": 64},
        pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
    )
    processor.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sam", "sam_hq", "sam2", "sam3_tracker"])
def test_hf_gives_the_pipelines_masks(family: str, tmp_path: Path) -> None:
    from transformers import pipeline

    folder = save_model(family, tmp_path / family)
    image = np.random.default_rng(0).integers(0, 256, (48, 70, 3), dtype=np.uint8)
    official = pipeline("mask-generation", model=str(folder))
    wanted = official(
        Image.fromarray(image),
        points_per_crop=4,
        pred_iou_thresh=-100,
        stability_score_thresh=0,
        stability_score_offset=0.01,
        crops_nms_thresh=1.0,
    )
    # Why there is no option for crops: when this works, offer it.
    with pytest.raises(RuntimeError, match="equal size"):
        official(Image.fromarray(image), points_per_crop=4, crops_n_layers=1)
    made = build(f"hf:{folder}", PERMISSIVE)
    assert made.name == f"hf:{family}"
    made.open()
    found = made.propose([image])[0]
    assert len(found) == len(wanted["masks"]) > 20
    for proposal, mask, score in zip(found, wanted["masks"], wanted["scores"], strict=True):
        stored = coco.decode({"size": [48, 70], "counts": proposal.counts.encode()})
        np.testing.assert_array_equal(stored.astype(bool), np.asarray(mask))
        assert proposal.area == stored.sum()
        assert proposal.bbox == tuple(coco.toBbox({"size": [48, 70], "counts": proposal.counts.encode()}))
        assert proposal.predicted_iou == pytest.approx(float(score))


def test_hf_without_survivors_is_empty(tmp_path: Path) -> None:
    made = build(f"hf:{save_model('sam', tmp_path / 'sam')}", {"pred_iou_thresh": 2.0, "points_per_side": 2})
    made.open()
    assert made.propose([np.zeros((40, 40, 3), np.uint8)]) == [[]]


def test_hf_knows_its_weights_by_their_files(tmp_path: Path) -> None:
    first = build(f"hf:{save_model('sam', tmp_path / 'sam')}")
    copied = pickle.loads(pickle.dumps(first))
    assert first.weights_sha256 == copied.weights_sha256
    assert "device" not in first.settings()
    (tmp_path / "sam" / "config.json").write_text("{}")
    assert build(f"hf:{tmp_path / 'sam'}").weights_sha256 != first.weights_sha256


def test_hf_starts_from_the_same_presets_as_sam() -> None:
    made = build("hf:some/model", options("pcnet", {"points_per_side": 5}, "cpu"))
    wanted = {"points_per_side": 5, "pred_iou_thresh": 0.7, "stability_score_thresh": 0.7}
    assert wanted.items() <= made.settings().items()
    assert build("hf:some/model", options("sam", {}, "cpu")).settings() == build("hf:some/model").settings()
    with pytest.raises(PrepError, match=r"--crop-n-layers: .* fails on crops"):
        options("sam", {"crop_n_layers": 1}, "cpu")
    with pytest.raises(PrepError, match=r"no option --min-mask-region-area\."):
        options("sam", {"min_mask_region_area": 1}, "cpu")


def test_hf_without_a_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    def offline(*_: Any, **__: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(PrepError, match="hf download some/model"):
        build("hf:some/model").open()
    with pytest.raises(PrepError, match="SAM 2"):
        build(f"hf:{tmp_path}").open()


def test_propose_without_a_store(tmp_path: Path) -> None:
    image = np.full((64, 64, 3), 90, np.uint8)
    image[10:30, 20:50] = (200, 40, 40)
    Image.fromarray(image).save(tmp_path / "a.png")
    by_path, by_pixels = propose([tmp_path / "a.png", image])
    assert by_path == by_pixels != []
    opened = SegmentGenerator()
    largest = max(by_path, key=lambda proposal: proposal.area)
    assert propose([image], opened, Selection(max_masks=1)) == [[largest]]


def test_a_notebook_shows_the_masks_over_the_image() -> None:
    image = np.full((64, 64, 3), 90, np.uint8)
    image[10:30, 20:50] = (40, 200, 40)
    (found,) = propose([image])
    found[:] = [one for one in found if one.bbox == (20, 10, 30, 20)][:1]
    shown = np.asarray(Image.open(BytesIO(found._repr_png_()))).astype(int)
    assert shown.shape == (320, 320, 3)
    changed = abs(shown - image.repeat(5, 0).repeat(5, 1)).any(2)
    assert changed[50:150, 100:250].all()
    assert changed.sum() == 100 * 150


def test_segments_by_name_with_options() -> None:
    made = build("segments", {"max_masks": 5})
    assert made.name == "segments"
    assert made.settings()["max_masks"] == 5


@pytest.mark.parametrize("name", ["", "SAM", "fastsam", "hf:"])
def test_an_unknown_name_lists_the_known(name: str) -> None:
    with pytest.raises(PrepError, match="segments"):
        build(name)


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(PrepError, match="points_per_side"):
        build("segments", {"points_per_side": 8})

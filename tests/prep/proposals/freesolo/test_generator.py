"""The generator as a whole: sizes, scores, weights and options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prep.errors import PrepError
from prep.masks import rle
from prep.proposals import generators
from prep.proposals.freesolo import flags
from prep.proposals.freesolo.generator import FreeSoloGenerator, resized
from prep.proposals.freesolo.inference import enlarge, select
from prep.proposals.freesolo.network import Network
from prep.proposals.freesolo.settings import FreeSoloSettings

USUAL = {"freesolo": None, "model": None, "fidelity": "exact", "preset": "pcnet", "checkpoint": None}


@pytest.mark.parametrize(
    ("size", "expected"),
    [((480, 640), (800, 1067)), ((640, 480), (1067, 800)), ((300, 900), (444, 1333)), ((1, 5000), (1, 1333))],
)
def test_sizes_are_detectron2s(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized(*size, 800, 1333) == expected


def test_masks_are_the_networks(checkpoint: Path, network: Network) -> None:
    settings = FreeSoloSettings(96, 200, score_thr=0.5, checkpoint=str(checkpoint), max_per_img=9)
    generator = FreeSoloGenerator(settings)
    generator.open()
    image = np.random.default_rng(0).integers(0, 256, (60, 83, 3), np.uint8)
    first, again = generator.propose([image, image])
    assert first == again
    assert 1 < len(first) <= 9
    shown = np.asarray(Image.fromarray(image).resize((133, 96), Image.Resampling.BILINEAR), np.float32)
    padded = np.zeros((96, 160, 3), np.float32)
    padded[:, :133] = (shown - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
    with torch.inference_mode():
        outputs = network(torch.from_numpy(padded.transpose(2, 0, 1).copy())[None])
        soft, scores = select(*outputs, settings)
        masks = enlarge(soft, (96, 133), (60, 83), 0.5).numpy()
    expected = [(mask, score) for mask, score in zip(masks, scores.tolist(), strict=True) if mask.any()]
    assert len(first) == len(expected)
    for found, (mask, score) in zip(first, expected, strict=True):
        assert found.predicted_iou == pytest.approx(score, rel=1e-4)
        decoded = rle.decode_counts(found.counts, 60, 83)
        assert found.area == pytest.approx(mask.sum(), abs=2)
        assert (decoded != mask).sum() <= 2
        assert (found.stability_score, found.point, found.crop_box) == (None, None, None)


def test_the_key_has_every_setting_but_path_and_device(checkpoint: Path) -> None:
    one = generators.build("freesolo", {"checkpoint": str(checkpoint), "device": "cuda"})
    assert one.settings() == FreeSoloGenerator().settings()
    assert one.settings() != FreeSoloGenerator(FreeSoloSettings(nms_sigma=1.0)).settings()
    assert set(one.settings()) == {
        "version", "min_size_test", "max_size_test", "score_thr", "update_thr", "mask_thr", "nms_pre",
        "max_per_img", "nms_kernel", "nms_sigma",
    }  # fmt: skip
    assert len(one.weights_sha256 or "") == 64


def test_missing_and_unreadable_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PrepError, match=r"FreeSOLO_R101_30k_pl\.pth") as caught:
        FreeSoloGenerator().open()
    assert "NVlabs/FreeSOLO" in str(caught.value)
    assert "--checkpoint" in str(caught.value)
    for name, message in (("bad.pth", "could not be read"), ("model.pkl", "pickle of detectron2")):
        (tmp_path / name).write_bytes(b"\x80\x04junk")
        with pytest.raises(PrepError, match=message):
            FreeSoloGenerator(FreeSoloSettings(checkpoint=name)).open()


@pytest.mark.parametrize(
    "bad", [{"nms_kernel": "box"}, {"nms_pre": 0}, {"max_per_img": 0}, {"score_thr": float("nan")}]
)
def test_settings_out_of_range(bad: dict[str, Any]) -> None:
    with pytest.raises(PrepError, match=next(iter(bad))):
        FreeSoloSettings(**bad)


def test_flags_become_settings() -> None:
    given = {**USUAL, "freesolo": ["score_thr=0.3", "nms_kernel=linear", "nms_pre=7"], "checkpoint": "x"}
    found = FreeSoloSettings(**flags.options(given, {}, "cpu"))
    assert found == FreeSoloSettings(score_thr=0.3, nms_kernel="linear", nms_pre=7, checkpoint="x")


@pytest.mark.parametrize(
    ("changes", "official", "message"),
    [
        ({"freesolo": ["points=3"]}, {}, "no setting 'points'"),
        ({"freesolo": ["device=cuda"]}, {}, "no setting 'device'"),
        ({"freesolo": ["nms_pre=0.5"]}, {}, "Give an integer"),
        ({"freesolo": ["nms_pre"]}, {}, "nms_pre is ''"),
        ({"fidelity": "fast"}, {}, "--fidelity"),
        ({"model": "vit_b"}, {}, "--model"),
        ({"preset": "sam"}, {}, "--preset"),
        ({}, {"points_per_side": 8}, "--points-per-side"),
    ],
)
def test_other_options_are_refused(changes: dict[str, Any], official: dict[str, Any], message: str) -> None:
    with pytest.raises(PrepError, match=message):
        flags.options({**USUAL, **changes}, official, "cpu")

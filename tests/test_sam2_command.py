"""``pcnet-prep sam --generator sam2`` on a seeded random sam2.1_hiera_t: the official masks, in order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytestmark = pytest.mark.slow
pytest.importorskip("sam2", reason="sam2 is not installed: SAM2_BUILD_CUDA=0 pip install 'pcnet-prep[sam2]'")

OPTIONS = {
    "points_per_side": 2,
    "pred_iou_thresh": -100.0,
    "stability_score_thresh": 0.0,
    "stability_score_offset": 0.02,
    "box_nms_thresh": 1.0,
}


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "pcnet-prep", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_official_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

    from prep.proposals.sam2.weights import build

    threads = int(os.environ.get("OMP_NUM_THREADS", min(8, os.cpu_count() or 1)))
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = build("sam2.1_hiera_t").eval()
    weights, photos, store = tmp_path / "random.pt", tmp_path / "photos", tmp_path / "store"
    torch.save({"model": model.state_dict()}, weights)
    photos.mkdir()
    image = np.random.default_rng(0).integers(0, 256, (90, 131, 3), dtype=np.uint8)
    Image.fromarray(image).save(photos / "a.png")
    words = ["sam", "--generator", "sam2", "--preset", "sam", "--model", "sam2.1_hiera_t", "--gpus",
             "0", "--checkpoint", str(weights), "--images", str(photos), "--out", str(store)]  # fmt: skip
    words += [word for name, value in OPTIONS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert "0 of 12 masks (0.00%) were recomputed" in done.stdout + done.stderr
    (row,) = pq.read_table(store / "proposals").to_pylist()
    assert (row["status"], row["generator"]) == ("ok", "sam2:sam2.1_hiera_t")
    official = SAM2AutomaticMaskGenerator(model, output_mode="coco_rle", **OPTIONS)
    expected = official.generate(image)
    assert len(row["masks"]) == len(expected) == 12
    for mine, theirs in zip(row["masks"], expected, strict=True):
        assert mine["counts"] == theirs["segmentation"]["counts"]
        assert mine["area"] == theirs["area"]
        assert mine["bbox"] == theirs["bbox"]
        assert mine["predicted_iou"] == theirs["predicted_iou"]
        assert mine["stability_score"] == theirs["stability_score"]
        assert [mine["point"]] == theirs["point_coords"]
        assert mine["crop_box"] == theirs["crop_box"]

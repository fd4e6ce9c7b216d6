"""``pcnet-prep sam`` on a seeded random ViT-B: the official masks, field by field and in order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

OPTIONS = {
    "points_per_side": 6,
    "pred_iou_thresh": -100.0,
    "stability_score_thresh": 0.0,
    "stability_score_offset": 0.02,
    "box_nms_thresh": 1.0,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SAM ViT-B with seeded random weights: its masks are ragged everywhere, which is the hard case."""
    import torch
    from segment_anything import sam_model_registry

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random_vit_b.pth"
    torch.save(sam_model_registry["vit_b"]().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos of different sizes."""
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for name, (width, height) in {"a.png": (320, 213), "b.png": (150, 200)}.items():
        coarse = draw.integers(0, 256, (height // 20 + 1, width // 20 + 1, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(folder / name)
    return folder


def sam(photos: Path, checkpoint: Path, out: Path, *more: str) -> list[dict[str, Any]]:
    """Run the command and read its rows."""
    options = [
        word for name, value in OPTIONS.items() for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    words = ["sam", "--preset", "sam", "--model", "vit_b", "--checkpoint", str(checkpoint), "--gpus", "0",
             "--images", str(photos), "--out", str(out), *options, *more]  # fmt: skip
    done = subprocess.run(
        [Path(sys.executable).parent / "pcnet-prep", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return sorted(pq.read_table(out / "proposals").to_pylist(), key=lambda row: str(row["image"]))


@pytest.mark.timeout(900)
def test_the_official_masks(
    photos: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from segment_anything import SamAutomaticMaskGenerator, sam_model_registry

    # A product's last bits depend on the number of threads: here and in the command as many.
    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    torch.set_num_threads(threads)
    alone = sam(photos, checkpoint, tmp_path / "one")
    assert [row["status"] for row in alone] == ["ok", "ok"]
    model = sam_model_registry["vit_b"](str(checkpoint)).eval()
    official = SamAutomaticMaskGenerator(model, output_mode="coco_rle", **OPTIONS)
    for row in alone:
        image = np.asarray(Image.open(photos / row["image"]).convert("RGB"))
        expected = official.generate(image)
        assert len(expected) > 20
        assert [row["height"], row["width"]] == list(image.shape[:2])
        assert row["masks"] == [
            {
                "counts": mask["segmentation"]["counts"],
                "area": mask["area"],
                "bbox": [float(side) for side in mask["bbox"]],
                "predicted_iou": mask["predicted_iou"],
                "stability_score": mask["stability_score"],
                "point": mask["point_coords"][0],
                "crop_box": [float(side) for side in mask["crop_box"]],
            }
            for mask in expected
        ]
    assert sam(photos, checkpoint, tmp_path / "two", "--workers", "2") == alone

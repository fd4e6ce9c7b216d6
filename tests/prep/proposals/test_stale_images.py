"""Rows whose image has changed since are found, and no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from prep.proposals.segments.generator import SegmentGenerator
from prep.proposals.select import Selection
from prep.proposals.stage import ProposalStage
from prep.proposals.stale_images import image_faults
from prep.records import ImageRef


def save(path: Path, value: int) -> None:
    Image.fromarray(np.full((12, 12, 3), value, np.uint8)).save(path)


def test_changed_gone_and_mended_images(tmp_path: Path) -> None:
    for name in ("same", "changed", "gone"):
        save(tmp_path / f"{name}.png", 50)
    (tmp_path / "torn.png").write_bytes(b"<html>")
    names = ["same", "changed", "gone", "torn", "missing", "absent"]
    stage = ProposalStage(SegmentGenerator(), Selection())
    stage.open()
    unit = [ImageRef(f"{name}.png", None, str(tmp_path / f"{name}.png")) for name in names]
    table = stage.process(stage.load([*unit, ImageRef("../out.png", None, "/")]))
    check = image_faults(tmp_path)
    assert list(check(table)) == []
    save(tmp_path / "changed.png", 60)
    (tmp_path / "gone.png").unlink()
    save(tmp_path / "torn.png", 70)
    save(tmp_path / "missing.png", 80)
    found = dict(check(table))
    assert sorted(found) == [1, 2, 3, 4]
    assert "changed" in found[1]
    assert "not found" in found[2]
    assert "changed" in found[3]
    assert "before" in found[4]

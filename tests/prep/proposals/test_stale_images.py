"""Rows whose image has changed since are found, and no others."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from prep.cache.store import open_store
from prep.proposals.segments.generator import SegmentGenerator
from prep.proposals.select import Selection
from prep.proposals.stage import ProposalStage
from prep.proposals.stale_images import changed_rows, image_faults, open_seen
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


def test_changed_images_anywhere_in_a_shard_are_found(tmp_path: Path) -> None:
    images = [f"{number}.jpg" for number in range(9000)]
    hashes = [sha256(b"before").hexdigest()] * len(images)
    files = open_store(tmp_path / "store", create=True).stage("proposals").files
    files.make()
    root = tmp_path / "images"
    root.mkdir()
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": images, "image_sha256": hashes}), sink)
    files.write("part-0123456789abcdef.parquet", sink.getvalue())
    changed = [0, 4095, 4096, 4097, 8191, 8192, 8999]
    for number in changed:
        (root / images[number]).write_bytes(b"after")
    for number in (1, 5000):
        (root / images[number]).write_bytes(b"before")
    found = changed_rows(files, ["part-0123456789abcdef.parquet"], root, open_seen(tmp_path / "seen"))
    assert found == {"part-0123456789abcdef.parquet": {number: images[number] for number in changed}}

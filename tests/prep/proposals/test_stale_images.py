"""Rows whose image has changed since are found, and no others."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from prep.cache.files import Files
from prep.cache.store import open_store
from prep.images import UnreadableImage
from prep.proposals import stale_images
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


def shard_of(folder: Path, rows: dict[str, str | None]) -> Files:
    files = open_store(folder, create=True).stage("proposals").files
    files.make()
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.table({"image": list(rows), "image_sha256": pa.array(rows.values(), pa.string())}), sink
    )
    files.write("part-0123456789abcdef.parquet", sink.getvalue())
    return files


def test_an_image_that_could_not_be_read_is_looked_at_until_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its size nor its time changes when a disk answers again or a permission is given."""
    save(tmp_path / "a.png", 50)
    files, seen = shard_of(tmp_path / "store", {"a.png": None}), open_seen(tmp_path / "seen")

    def refused(path: Path) -> None:
        raise UnreadableImage("Permission denied") from PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(stale_images, "read_bytes", refused)
        assert changed_rows(files, ["part-0123456789abcdef.parquet"], tmp_path, seen) == {}
    found = changed_rows(files, ["part-0123456789abcdef.parquet"], tmp_path, seen)
    assert found == {"part-0123456789abcdef.parquet": {0: "a.png"}}


def test_what_is_no_file_and_was_none_has_not_changed(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    rows = {"folder.png": None, "../out.png": None, "missing.png": None}
    files = shard_of(tmp_path / "store", rows)
    seen = open_seen(tmp_path / "seen")
    assert changed_rows(files, ["part-0123456789abcdef.parquet"], tmp_path, seen) == {}

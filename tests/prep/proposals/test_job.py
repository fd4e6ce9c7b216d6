"""A run over images: what is made again, what is trusted, and what the workers have to say."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prep.cache.store import Store, open_store
from prep.datasets.catalogue import open_image_folder, open_jsonl
from prep.engine.runner import Summary
from prep.errors import PrepError
from prep.proposals.job import run_proposals
from prep.proposals.sam.fidelity import lines
from prep.proposals.sam.generator import SamGenerator, SamSettings
from prep.proposals.segments.generator import SegmentGenerator
from prep.proposals.select import Selection
from prep.proposals.stage import ProposalStage
from prep.proposals.stale_images import open_seen
from prep.records import ImageRef
from prep.stage import Resources
from tests.prep.proposals.conftest import tiny_model

NAMES = ["0.png", "1.png", "2.png"]


def save(path: Path, value: int) -> None:
    Image.fromarray(np.full((16, 16, 3), value, np.uint8)).save(path, compress_level=0)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        save(folder / name, 10 * number)
    lines = [json.dumps({"sent": f"thing {name}", "image": name}) for name in [*NAMES, "later.png"]]
    (folder / "said.jsonl").write_text("\n".join(lines))
    return folder


def propose(photos: Path, place: Path, listed: bool, **options: Any) -> tuple[Store, Summary]:
    source = open_jsonl(photos / "said.jsonl", photos) if listed else open_image_folder(photos)
    store = open_store(place, create=True)
    stage = ProposalStage(SegmentGenerator(), Selection(), resources=Resources())
    return store, run_proposals(stage, [source], store, **options)[0]


def rows(store: Store) -> dict[str, dict[str, Any]]:
    found = store.stage("proposals").reader().read().to_pylist()
    by_image = {row["image"]: row for row in found}
    assert len(by_image) == len(found), "one row an image"
    return by_image


@pytest.mark.parametrize("listed", [False, True], ids=["folder", "finished dataset"])
def test_only_a_changed_image_is_proposed_for_again(photos: Path, tmp_path: Path, listed: bool) -> None:
    store, first = propose(photos, tmp_path / "store", listed)
    assert first.done == 3 + listed
    before = rows(store)
    save(photos / "1.png", 200)
    os.utime(photos / "2.png")
    again = propose(photos, tmp_path / "store", listed)[1]
    assert (again.done, again.extra["changed"]) == (1, 1)
    after = rows(store)
    assert after["1.png"]["image_sha256"] != before["1.png"]["image_sha256"]
    assert {name for name in after if after[name] != before[name]} == {"1.png"}
    nothing = propose(photos, tmp_path / "store", listed)[1]
    assert (nothing.done, nothing.extra["changed"]) == (0, 0)


def listing(path: Path, *names: str) -> Path:
    path.write_text("\n".join(json.dumps({"sent": f"thing {name}", "image": name}) for name in names))
    return path


@pytest.mark.parametrize("names", [("typo/9.png", "0.png", "1.png"), ("0.png", "1.png", "typo/9.png")])
def test_a_missing_folder_costs_its_own_images_wherever_it_stands(
    photos: Path, tmp_path: Path, names: tuple[str, ...]
) -> None:
    listing(photos / "said.jsonl", *names)
    store, summary = propose(photos, tmp_path / "store", listed=True)
    assert (summary.total, summary.failed) == (3, 1)
    assert {name: row["status"] == "error" for name, row in rows(store).items()} == {
        "0.png": False, "1.png": False, "typo/9.png": True,
    }  # fmt: skip


def test_sources_without_a_usable_image_end_the_run_in_words(photos: Path, tmp_path: Path) -> None:
    listing(photos / "said.jsonl", "typo/9.png", "typo/8.png")
    with pytest.raises(PrepError, match=r"There is no folder .*typo"):
        propose(photos, tmp_path / "store", listed=True)
    listing(photos / "said.jsonl", "../9.png")
    with pytest.raises(PrepError, match=r"has no images in .* \(left out: 1: rows whose image is no path"):
        propose(photos, tmp_path / "store", listed=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/a.txt").touch()
    with pytest.raises(PrepError, match=r"empty has no images in .*empty \(left out: 1: \*\.txt"):
        propose(tmp_path / "empty", tmp_path / "store", listed=False)


def test_what_a_folder_left_out_is_said(photos: Path, tmp_path: Path) -> None:
    (photos / "a.heic").touch()
    Path(os.fsdecode(os.fsencode(photos) + b"/caf\xe9.jpg")).touch()
    store, summary = propose(photos, tmp_path / "store", listed=False)
    assert summary.extra["left out"] == "2: *.heic; *.jsonl"
    assert rows(store)["caf\\xe9.jpg"]["error"] == "the file name is not UTF-8 (rename the file)"
    assert summary.failed == 1


def test_size_and_time_are_trusted_without_opening_a_file(photos: Path, tmp_path: Path) -> None:
    store = propose(photos, tmp_path / "store", True)[0]
    before, times = rows(store), os.stat(photos / "1.png")
    save(photos / "1.png", 77)  # other bytes, as many of them
    os.utime(photos / "1.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert os.stat(photos / "1.png").st_size == times.st_size
    assert propose(photos, tmp_path / "store", True)[1].done == 0
    assert rows(store) == before


def test_a_touched_file_is_read_once_and_its_row_kept(photos: Path, tmp_path: Path) -> None:
    store = propose(photos, tmp_path / "store", True)[0]
    known = len(open_seen(store.cache_uri))
    os.utime(photos / "1.png")
    for _ in range(2):
        assert propose(photos, tmp_path / "store", True)[1].done == 0
        assert len(open_seen(store.cache_uri)) == known + 1


def test_bytes_that_come_back_are_noticed(photos: Path, tmp_path: Path) -> None:
    """An entry of earlier bytes must not vouch for the row of later ones."""
    store = propose(photos, tmp_path / "store", False)[0]
    before, times, data = rows(store), os.stat(photos / "1.png"), (photos / "1.png").read_bytes()
    save(photos / "1.png", 200)
    assert propose(photos, tmp_path / "store", False)[1].done == 1
    (photos / "1.png").write_bytes(data)
    os.utime(photos / "1.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert propose(photos, tmp_path / "store", False)[1].done == 1
    assert rows(store) == before


def test_an_image_that_arrives_gets_its_masks_and_one_that_goes_keeps_them(
    photos: Path, tmp_path: Path
) -> None:
    store = propose(photos, tmp_path / "store", True)[0]
    assert rows(store)["later.png"]["status"] == "error"
    save(photos / "later.png", 50)
    gone = rows(store)["0.png"]
    (photos / "0.png").unlink()
    assert propose(photos, tmp_path / "store", True)[1].done == 1
    after = rows(store)
    assert after["later.png"]["status"] != "error"
    assert after["0.png"] == gone


def test_rows_of_images_that_another_file_names_are_left(photos: Path, tmp_path: Path) -> None:
    store = propose(photos, tmp_path / "store", True)[0]
    before = rows(store)
    save(photos / "1.png", 200)
    few = open_jsonl(listing(photos / "few.jsonl", "0.png"), photos)
    stage = ProposalStage(SegmentGenerator(), Selection(), resources=Resources())
    assert run_proposals(stage, [few], store)[0].done == 0
    assert rows(store) == before


class Folder:
    """Images of a folder, one after the other: what a source must offer."""

    name, split_by = "photos", ""

    def __init__(self, root: Path) -> None:
        self.root = self.place = root

    def images(self, splits: Collection[str] | None = None) -> Iterator[ImageRef]:
        for name in NAMES:
            yield ImageRef(name, None, str(self.root / name))

    def inputs(self) -> dict[str, str]:
        return {}


class CountsThreads(SamGenerator):
    """SAM that fails where torch has another number of threads than it was made with."""

    def __init__(self) -> None:
        settings = SamSettings(
            model="vit_b", device="cpu", points_per_side=2, pred_iou_thresh=-100.0, fidelity="fast",
            stability_score_thresh=0.0, threads=2,
        )  # fmt: skip
        super().__init__(settings, load=lambda _: tiny_model(0))

    @property
    def weights_sha256(self) -> str:
        return "0" * 64

    def propose(self, images: Any) -> Any:
        if torch.get_num_threads() != 2:
            raise RuntimeError(f"{torch.get_num_threads()} threads")
        return super().propose(images)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_every_worker_has_as_many_threads_and_its_account_is_kept(
    workers: int, photos: Path, tmp_path: Path
) -> None:
    """In process and on Ray, which gives its actors one thread of its own accord."""
    store, threads = open_store(tmp_path / "store", create=True), torch.get_num_threads()
    stage = ProposalStage(CountsThreads(), Selection(), resources=Resources(cpus=0.5), threads=1)
    try:
        summary = run_proposals(stage, [Folder(photos)], store, unit_size=1, workers=workers)[0]
    finally:
        torch.set_num_threads(threads)
    assert {row["error"] for row in rows(store).values()} == {None}
    report = summary.extra["report"]
    assert report["measured"] >= 3 * 4 * 3
    assert 1 <= report["compared_with_exact"]["images"] <= workers
    told = lines(report)
    assert "recomputed by the reference's operations" in told[0]
    assert "compared with exact" in told[1]
    manifest = store.stage("proposals").reader().manifest
    assert manifest is not None
    assert manifest.runs[-1]["report"] == report

"""Narrowing stored proposals gives what the generator would have given under that selection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prep.cache.store import Store, open_store
from prep.datasets.catalogue import open_image_folder
from prep.errors import PrepError
from prep.proposals.job import run_proposals
from prep.proposals.reselect import run_narrow
from prep.proposals.segments.generator import SegmentGenerator
from prep.proposals.select import Selection
from prep.proposals.stage import ProposalStage

NARROW = Selection(min_area=60, max_overlap=0.5, max_masks=4)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(3):
        image = rng.integers(90, 120, (48, 64, 3), dtype=np.uint8)
        for _ in range(5):
            top, left = rng.integers(0, 30, 2)
            image[top : top + 15, left : left + 12] = rng.integers(0, 256, 3)
        Image.fromarray(image).save(folder / f"{number}.png")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "plain.png")
    (folder / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


def proposed(photos: Path, place: Path, selection: Selection) -> Store:
    store = open_store(place, create=True)
    run_proposals(ProposalStage(SegmentGenerator(), selection), [open_image_folder(photos)], store)
    return store


def rows(store: Store) -> dict[str, dict[str, Any]]:
    return {row["image"]: row for row in store.stage("proposals").reader().read().to_pylist()}


def test_narrowing_all_masks_is_proposing_with_that_selection(photos: Path, tmp_path: Path) -> None:
    everything = proposed(photos, tmp_path / "all", Selection())
    direct = proposed(photos, tmp_path / "direct", NARROW)
    narrowed = open_store(tmp_path / "narrow", create=True)
    summary = run_narrow(everything, narrowed, NARROW)
    assert (summary.done, summary.failed) == (5, 1)
    assert rows(narrowed) == rows(direct)
    assert narrowed.stage("proposals").reader().settings == direct.stage("proposals").reader().settings
    assert sorted(len(row["masks"]) for row in rows(narrowed).values())[-1] == 4
    assert run_narrow(everything, narrowed, NARROW).reused == 5


def test_two_selections_are_both_in_the_key(photos: Path, tmp_path: Path) -> None:
    some = proposed(photos, tmp_path / "some", Selection(max_masks=6))
    fewer = open_store(tmp_path / "fewer", create=True)
    run_narrow(some, fewer, Selection(max_masks=2))
    direct = proposed(photos, tmp_path / "direct", Selection(max_masks=2))
    once, twice = rows(direct), rows(fewer)
    assert [once[i]["masks"] for i in once] == [twice[i]["masks"] for i in once]
    assert all(once[i]["key"] != twice[i]["key"] for i in once)


def test_what_cannot_be_narrowed(photos: Path, tmp_path: Path) -> None:
    store = open_store(tmp_path / "empty", create=True)
    with pytest.raises(PrepError, match="no proposals"):
        run_narrow(store, open_store(tmp_path / "other", create=True), NARROW)
    full = proposed(photos, tmp_path / "full", Selection())
    with pytest.raises(PrepError, match="the same store"):
        run_narrow(full, open_store(tmp_path / "full"), NARROW)

"""Masks are looked up by image, also while the store grows, is merged or has rows with errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prep.cache.compact import compact
from prep.cache.schema import PROPOSALS
from prep.cache.store import Store, open_store
from prep.errors import MissingInputError, PrepError
from tests.prep.cache.test_readers import pixels, proposal


def add(store: Store, *numbers: int) -> None:
    rows = [proposal(number) for number in numbers]
    with store.stage("proposals").writer({}) as writer:
        writer.write(pa.Table.from_pylist(rows, schema=PROPOSALS))


def check(store: Store, *numbers: int) -> None:
    for number in numbers:
        masks = store.masks(f"train2014/{number:06d}.jpg")
        assert masks.image.endswith(f"{number:06d}.jpg")
        assert len(masks) == number % 4
        for index in range(number % 4):
            assert np.array_equal(masks.array(index), pixels(number, index))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = open_store(tmp_path / "st", create=True)
    add(made, *range(300))  # three row groups
    add(made, *range(300, 310))
    return made


def test_every_image_is_found(store: Store) -> None:
    check(store, 0, 1, 127, 128, 129, 255, 256, 299, 300, 309, 3, 308)


def test_what_is_added_or_merged_later_is_found(store: Store) -> None:
    check(store, 5)
    other = open_store(store.uri)
    add(other, 700, 701)
    check(store, 701)
    compact(other, 1 << 30)
    check(store, 6, 309, 700)


def test_only_one_row_group_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    real = pq.ParquetFile.read_row_group
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda self, number: read.append(number) or real(self, number)
    )
    check(store, *range(256))
    assert read == [0, 1]


def test_an_unknown_image_and_a_failed_one_are_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"no image '1\.jpg'"):
        store.masks("1.jpg")
    failed = {**proposal(900), "status": "error", "error": "not an image", "masks": [], "height": None}
    with store.stage("proposals").writer({}) as writer:
        writer.write(pa.Table.from_pylist([failed], schema=PROPOSALS))
    with pytest.raises(PrepError, match=r"000900\.jpg has no masks: not an image"):
        store.masks("train2014/000900.jpg")
    with pytest.raises(MissingInputError, match="has no proposals yet"):
        open_store(tmp_path / "empty", create=True).masks("1.jpg")

"""The masks that a student trains on: the mean over each cell, of the right proposal of the right image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pcnet.data.table import Selection, load_samples
from pcnet.data.target_masks import TargetMasks, covered
from prep.cache.store import open_store
from prep.masks import rle


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_a_cell_is_the_share_that_the_mask_covers(side, factor, seed):
    mask = np.random.default_rng(seed).random((side * factor, side * factor)) < 0.5
    share = mask.reshape(side, factor, side, factor).mean((1, 3))
    assert np.abs(covered(mask, side) / 255 - share).max() <= 1 / 255


def test_each_sample_gets_its_own_mask(prepared):
    store = open_store(prepared.store)
    table = load_samples(store, Selection("refcoco", "train"))
    rows = {row["image"]: row for row in store.stage("proposals").reader().read().to_pylist()}
    rng = np.random.default_rng(0)
    chosen = np.array([rng.integers(len(rows[table.images[i]]["masks"])) for i in table.image])
    chosen[3] = -1
    for budget in (0, 1 << 20):
        cells = TargetMasks(store, table, chosen, 64, budget).stack(np.arange(len(table)))
        assert cells.dtype == np.float32
        assert not cells[3].any()
        for sample in {*range(len(table))} - {3}:
            row = rows[table.images[table.image[sample]]]
            wanted = rle.decode_counts(row["masks"][chosen[sample]]["counts"], 64, 64)
            assert np.array_equal(cells[sample], wanted)


def test_a_row_with_fewer_masks_than_its_grid_is_named(prepared):
    store = open_store(prepared.store)
    table = load_samples(store, Selection("refcoco", "train"))
    with pytest.raises(Exception, match="masks and a grid of more"):
        TargetMasks(store, table, np.full(len(table), 99), 16)

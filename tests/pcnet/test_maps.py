"""Where a response may take its maximum: inside proposals that are not the ground around objects."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pcnet.maps import edge_share, inside_union


def plain_share(mask: np.ndarray) -> float:
    """The share of outline cells on the edge, cell by cell."""
    side = len(mask)
    outline = on_edge = 0
    for y, x in np.argwhere(mask):
        around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        if all(0 <= v < side and 0 <= u < side and mask[v, u] for v, u in around):
            continue
        outline += 1
        on_edge += y in (0, side - 1) or x in (0, side - 1)
    return on_edge / outline if outline else 0.0


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 3), st.just(7), st.just(7))))
def test_the_share_of_outline_on_the_edge_is_that_of_a_count(masks):
    found = edge_share(torch.from_numpy(masks).float()[None])[0]
    assert np.allclose(found, [plain_share(mask) for mask in masks])


def test_the_ground_is_passed_over_and_an_image_of_ground_alone_counts_everywhere():
    grid = torch.zeros(2, 3, 32, 32)
    grid[0, 0, 8:16, 8:16] = 1  # an object
    grid[0, 1] = 1 - grid[0, 0]  # the ground around it
    grid[1, 0] = 1
    everything = inside_union(grid, (16, 16))
    objects = inside_union(grid, (16, 16), edge=0.1)
    assert everything.all()
    assert objects[0, 0, 4:8, 4:8].all()
    assert objects[0].sum() == 16
    assert objects[1].all()

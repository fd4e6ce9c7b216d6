"""Where a response may take its maximum: inside proposals that are not the ground around objects."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pcnet.maps import edge_share, inside_union, is_thin, released_map, without_background


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


def test_the_ground_and_rims_are_passed_over_and_interiors_are_left():
    grid = torch.zeros(2, 4, 32, 32)
    grid[0, 0, 7:16, 8:17] = 1  # an object that covers some places of 2 x 2 cells wholly and some in part
    grid[0, 1] = 1 - grid[0, 0]  # the ground around it
    grid[0, 2, 20, 4:28] = 1  # a line
    grid[0, 3, 25, 25:27] = grid[0, 3, 26, 25] = 1  # an object smaller than a place
    grid[1, 0] = 1
    assert inside_union(grid, (16, 16)).all()
    objects = inside_union(grid, (16, 16), edge=0.05)
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[4:8, 4:8] = True
    expected[12:14, 12:14] = grid[0, 3].view(16, 2, 16, 2).sum((1, 3))[12:14, 12:14] == 1
    assert torch.equal(objects[0, 0], expected)
    assert objects[1].all()  # nothing but ground: no place is ruled out


def test_what_covers_most_of_the_border_is_background():
    grid = torch.zeros(2, 5, 32, 32)
    grid[0, 0] = 1
    grid[0, 0, 9:20, 9:20] = 0  # what is left of an image around an object
    grid[0, 1, 9:20, 9:20] = 1
    grid[0, 2, :16] = 1  # the upper half: 62 of 124 border cells
    grid[0, 3, :17] = 1
    grid[0, 4, :20, :20] = 0.5  # covered by half: not the proposal's
    kept = without_background(grid)
    assert kept.flatten(2).any(-1).tolist() == [[False, True, True, False, True], [False] * 5]
    assert torch.equal(kept[0, 1:3], grid[0, 1:3])


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 3), st.just(4), st.just(4))))
def test_a_thin_proposal_has_no_block_with_three_of_its_cells(masks):
    blocks = [[mask[y : y + 2, x : x + 2].sum() for y in range(3) for x in range(3)] for mask in masks]
    found = is_thin(torch.from_numpy(masks).float()[None])[0]
    assert found.tolist() == [max(block) < 3 for block in blocks]


def test_the_released_map_keeps_the_corners():
    response = torch.tensor([[[[1.0, -2.0], [3.0, 4.0]]], [[[0.0, 1.0], [0.0, 0.0]]]])
    found = released_map(response, (5, 7))
    assert found.shape == (2, 1, 5, 7)
    corners = found[:, :, [0, 0, -1, -1], [0, -1, 0, -1]][:, 0]
    assert torch.allclose(corners, torch.tensor([[0.25, 0.0, 0.75, 1.0], [0.0, 1.0, 0.0, 0.0]]), atol=1e-5)
    # A quarter and half of the way from 1 to 3, of 4: positions count from corner to corner.
    assert found[0, 0, 1:3, 0].tolist() == pytest.approx([0.375, 0.5], abs=1e-5)

"""Cuts an image into strips of sixteen columns, and computes their pixels from low-resolution logits.

The reference generator upsamples every mask to 1024 x 1024, crops, resizes to the image and only then
compares with its thresholds. Both resizes are convex, so if all low-resolution logits around a pixel lie
between the same two thresholds, the pixel does too and needs no arithmetic. The rest is computed in *strips*
of sixteen image columns, row by row, in the order of operations of torch's kernel, and compared at once: no
pixel is stored.

A *level* is the number of edges below a logit, out of six ascending ones, one on either side of each of the
three thresholds; an odd level is too close to a threshold. The arrays of a
:class:`prep.proposals.sam.upsample.Geometry` are passed as one tuple, the memory of a thread
(:func:`prep.proposals.sam.upsample.workspace`) as another.

These functions are compiled into those of ``kernels_cpu.py``, whose compiled files numba keeps when only this
file changes: remove them then (``find prep -name '*.nb[ci]' -delete``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from prep.masks.jit import compiled, inlined
from prep.proposals.sam.simd import LANES, equal, four_taps

Floats = npt.NDArray[np.float32]
Levels = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Index = npt.NDArray[np.uint32]
Taps = tuple[Index, Index, Floats, Floats]  # of an axis: two inputs of each output, and their weights
# Of a :class:`prep.proposals.sam.upsample.Geometry`: the strips; the taps of the first step; those of the
# rows in the second, with the first and last row of each low-resolution one; the columns and weights of the
# lanes; the orders of operations.
Arrays = tuple[
    Ints,
    Taps,
    tuple[Index, Index, Floats, Floats, Ints, Ints],
    tuple[Index, Floats, Floats],
    tuple[int, int],
]
# The memory of a thread: levels, box, kinds, starts, state, low_lanes, mid_lanes, line, changes, counts.
Workspace = tuple[Levels, Ints, Levels, Ints, Ints, Floats, Floats, Floats, Ints, Ints]

UNSETTLED = 1  # stands for any odd level
HUGE = np.float32(1e30)  # from here on, and for NaN, zero weights matter too: recomputed by the reference
NO_STEP = -1  # stands for the order of operations of a first step that changes nothing
FIRST_LOW, LAST_LOW, X_FROM, X_TO = range(4)  # the columns of a geometry's strips


@compiled
def settle(low: Floats, edges: Floats, levels: Levels, box: Ints) -> int:
    """The level of every logit of ``low`` (L x L), and the first and last row and column with one above 0.

    Returns the number of logits that are huge or NaN.
    """
    size = low.shape[0]
    e0, e1, e2, e3, e4, e5 = edges[0], edges[1], edges[2], edges[3], edges[4], edges[5]
    box[0], box[1], box[2], box[3] = size, -1, size, -1
    flat = levels[size * size :]  # space after the levels: which columns have a non-zero level
    strange = 0
    for x in range(size):
        flat[x] = 0
    for y in range(size):
        row, out = low[y], levels[y * size : (y + 1) * size]
        for x in range(size):
            v = row[x]
            level = (
                np.uint8(v > e0) + np.uint8(v > e1) + np.uint8(v > e2)
                + np.uint8(v > e3) + np.uint8(v > e4) + np.uint8(v > e5)
            )  # fmt: skip
            out[x] = level
            strange += not abs(v) < HUGE
        some = np.uint8(0)
        for x in range(size):
            some |= out[x]
            flat[x] |= out[x]
        if some:
            box[0] = min(box[0], y)
            box[1] = y
    for x in range(size):
        if flat[x]:
            box[2] = min(box[2], x)
            box[3] = x
    return strange


@inlined  # type: ignore[untyped-decorator]
def cut(
    levels: Levels,
    size: int,
    box: Ints,
    first_low: int,
    last_low: int,
    n_rows: int,
    first_row: Ints,
    end_row: Ints,
    height: int,
    kinds: Levels,
    starts: Ints,
) -> int:
    """Cut the image rows of a strip into segments of one level, or ``UNSETTLED``; returns their number.

    The strip depends on low-resolution columns ``first_low`` to ``last_low`` and on the first ``n_rows``
    rows. ``kinds`` and ``starts`` receive each segment's level and first row; ``starts`` one more, the
    height.
    """
    all_lanes = (1 << (last_low - first_low + 1)) - 1
    count, at, y = 0, 0, 0  # segments so far, first image row in none, low-resolution row
    while y < n_rows:
        if y < box[0] or y > box[1]:
            level, end = np.uint8(0), min(box[0], n_rows) if y < box[0] else n_rows
        else:
            level, end = levels[y * size + first_low], y + 1
            if level & 1 or equal(levels, y * size + first_low, level) & all_lanes != all_lanes:
                y = end
                continue
            while end < n_rows and equal(levels, end * size + first_low, level) & all_lanes == all_lanes:
                end += 1
        # Image rows that depend on low-resolution rows y to end - 1 only.
        a, b = first_row[y], end_row[end - 1]
        if b > a:
            if a > at:
                kinds[count], starts[count] = UNSETTLED, at
                count += 1
            if a > at or count == 0 or kinds[count - 1] != level:
                kinds[count], starts[count] = level, a
                count += 1
            at = b
        y = end
    if at < height:
        kinds[count], starts[count] = UNSETTLED, at
        count += 1
    starts[count] = height
    return count


@inlined  # type: ignore[untyped-decorator]
def compute_row(
    y: int,
    low: Floats,
    strip: int,
    geometry: Arrays,
    state: Ints,
    low_lanes: Floats,
    mid_lanes: Floats,
    line: Floats,
) -> None:
    """The sixteen pixels of image row ``y`` in a strip, into ``line``.

    ``low_lanes`` and ``mid_lanes`` cache the last two rows of logits and of the upsampled mask, at the
    columns that the strip needs; ``state`` has the indices of those rows (-1 for none). Without a first step
    (:data:`NO_STEP`), the upsampled mask is the logits.
    """
    _, (mid_i0, mid_i1, mid_w0, mid_w1), (row_i0, row_i1, row_w0, row_w1, _, _), lanes, orders = geometry
    index, mid_u, out_u = lanes
    for k in range(2):
        m = np.int64(row_i0[y]) if k == 0 else np.int64(row_i1[y])
        slot = m & 1
        if state[slot] == m:
            continue
        state[slot] = m
        if orders[0] == NO_STEP:
            into = slot * 2 * LANES
            for i in range(LANES):
                mid_lanes[into + i] = low[m, index[strip, i]]
                mid_lanes[into + LANES + i] = low[m, index[strip, 2 * LANES + i]]
            continue
        r0, r1 = np.int64(mid_i0[m]), np.int64(mid_i1[m])
        for r in (r0, r1):
            if state[2 + (r & 1)] != r:
                state[2 + (r & 1)] = r
                into = (r & 1) * 4 * LANES
                for i in range(4 * LANES):
                    low_lanes[into + i] = low[r, index[strip, i]]
        a, b = (r0 & 1) * 4 * LANES, (r1 & 1) * 4 * LANES
        to, v0, v1 = slot * 2 * LANES, mid_w0[m], mid_w1[m]
        at = strip * 4 * LANES
        four_taps(mid_lanes, to, low_lanes, a, a + LANES, b, b + LANES, mid_u, at, v0, v1, orders[0])
        a, b, to, at = a + 2 * LANES, b + 2 * LANES, to + LANES, at + 2 * LANES
        four_taps(mid_lanes, to, low_lanes, a, a + LANES, b, b + LANES, mid_u, at, v0, v1, orders[0])
    a, b = (np.int64(row_i0[y]) & 1) * 2 * LANES, (np.int64(row_i1[y]) & 1) * 2 * LANES
    at = strip * 2 * LANES
    four_taps(line, 0, mid_lanes, a, a + LANES, b, b + LANES, out_u, at, row_w0[y], row_w1[y], orders[1])


@compiled
def same(low: Floats, geometry: Arrays, expected: Floats, work: Workspace) -> bool:
    """Whether every pixel of a mask equals ``expected`` (H x W) bit for bit."""
    strips, _, _, _, _ = geometry
    _, _, _, _, state, low_lanes, mid_lanes, line, _, _ = work
    for s in range(len(strips)):
        for k in range(4):
            state[k] = -1
        for y in range(expected.shape[0]):
            compute_row(y, low, s, geometry, state, low_lanes, mid_lanes, line)
            for x in range(strips[s, X_FROM], strips[s, X_TO]):
                if line[x - strips[s, X_FROM]] != expected[y, x]:
                    return False
    return True

"""Computes the counts, box and runs of masks from low-resolution logits in one fused pass on the CPU.

The reference generator upsamples every mask to 1024 x 1024, crops, resizes to the image and only then
compares with its thresholds. Both resizes are convex, so if all low-resolution logits around a pixel lie
between the same two thresholds, the pixel does too and needs no arithmetic. The rest is computed in *strips*
of sixteen image columns, row by row, in the order of operations of torch's kernel, and compared at once: no
pixel is stored.

A *level* is the number of edges below a logit, out of six ascending ones, one on either side of each of the
three thresholds; an odd level is too close to a threshold. The arrays of a
:class:`prep.proposals.sam.upsample.Geometry` are passed as one tuple, the memory of a thread
(:func:`prep.proposals.sam.upsample.workspace`) as another.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from prep.masks.jit import compiled, inlined
from prep.proposals.sam.simd import LANES, above, equal, four_taps, lowest, ones

UNSETTLED = 1  # stands for any odd level
HUGE = np.float32(1e30)  # from here on, and for NaN, zero weights matter too: recomputed by the reference
HIGH, LOW, AREA, LEFT, TOP, RIGHT, BOTTOM, CLOSE, EDGES = range(9)  # the results of a pass for a mask
FIRST_LOW, LAST_LOW, X_FROM, X_TO = range(4)  # the columns of a geometry's strips


@compiled
def settle(low: Any, edges: Any, levels: Any, box: Any) -> Any:
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
    levels: Any,
    size: Any,
    box: Any,
    first_low: Any,
    last_low: Any,
    n_rows: Any,
    first_row: Any,
    end_row: Any,
    height: Any,
    kinds: Any,
    starts: Any,
) -> Any:
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
    y: Any, low: Any, strip: Any, geometry: Any, state: Any, low_lanes: Any, mid_lanes: Any, line: Any
) -> None:
    """The sixteen pixels of image row ``y`` in a strip, into ``line``.

    ``low_lanes`` and ``mid_lanes`` cache the last two rows of logits and of the upsampled mask, at the
    columns that the strip needs; ``state`` has the indices of those rows (-1 for none).
    """
    _, (mid_i0, mid_i1, mid_w0, mid_w1), (row_i0, row_i1, row_w0, row_w1, _, _), lanes, orders = geometry
    index, mid_u, out_u = lanes
    for k in range(2):
        m = np.int64(row_i0[y]) if k == 0 else np.int64(row_i1[y])
        slot = m & 1
        if state[slot] == m:
            continue
        state[slot] = m
        r0, r1 = np.int64(mid_i0[m]), np.int64(mid_i1[m])
        for r in (r0, r1):
            if state[2 + (r & 1)] != r:
                state[2 + (r & 1)] = r
                row, into = low[r], (r & 1) * 4 * LANES
                for i in range(4 * LANES):
                    low_lanes[into + i] = row[index[strip, i]]
        a, b = (r0 & 1) * 4 * LANES, (r1 & 1) * 4 * LANES
        to, v0, v1 = slot * 2 * LANES, mid_w0[m], mid_w1[m]
        weights = mid_u[strip]
        four_taps(mid_lanes, to, low_lanes, a, a + LANES, b, b + LANES, weights, 0, v0, v1, orders[0])
        a, b, to = a + 2 * LANES, b + 2 * LANES, to + LANES
        four_taps(mid_lanes, to, low_lanes, a, a + LANES, b, b + LANES, weights, 2 * LANES, v0, v1, orders[0])
    a, b = (np.int64(row_i0[y]) & 1) * 2 * LANES, (np.int64(row_i1[y]) & 1) * 2 * LANES
    four_taps(
        line, 0, mid_lanes, a, a + LANES, b, b + LANES, out_u[strip], 0, row_w0[y], row_w1[y], orders[1]
    )


@compiled
def largest(low: Any, top: Any, bottom: Any, left: Any, right: Any) -> Any:
    """The largest absolute logit in rows ``top`` to ``bottom`` and columns ``left`` to ``right``."""
    found = np.float32(0)
    for y in range(np.int64(top), np.int64(bottom) + 1):
        for x in range(np.int64(left), np.int64(right) + 1):
            found = max(found, abs(low[y, x]))
    return found


@compiled
def undecided(
    line: Any,
    y: Any,
    all_lanes: Any,
    low: Any,
    strip: Any,
    geometry: Any,
    thresholds: Any,
    band: Any,
    close: Any,
) -> Any:
    """How many pixels of a row of a strip are within ``band`` times the largest logit they depend on of a
    threshold. All of those are within ``close``.
    """
    _, mid, rows, (index, _, _), _ = geometry
    top, bottom = mid[0][rows[0][y]], mid[1][rows[1][y]]
    count, near = 0, np.int64(0)
    for k in range(3):
        near |= above(line, 0, thresholds[k] - close) ^ above(line, 0, thresholds[k] + close)
    near &= all_lanes
    while near:
        lane = lowest(near)
        near &= near - 1
        left, right = index[strip, lane], index[strip, lane + 3 * LANES]
        bound = band * largest(low, top, bottom, left, right)
        away = HUGE
        for k in range(3):
            away = min(away, abs(line[lane] - thresholds[k]))
        count += away <= bound
    return count


@inlined  # type: ignore[untyped-decorator]
def tally(line: Any, y: Any, all_lanes: Any, thresholds: Any, result: Any) -> Any:
    """Count the pixels of a row of a strip; returns which of them are inside."""
    result[LOW] += ones(above(line, 0, thresholds[0]) & all_lanes)
    result[HIGH] += ones(above(line, 0, thresholds[2]) & all_lanes)
    bits = above(line, 0, thresholds[1]) & all_lanes
    if bits:
        result[AREA] += ones(bits)
        result[TOP], result[BOTTOM] = min(result[TOP], y), max(result[BOTTOM], y)
    return bits


@compiled
def measure(low: Any, geometry: Any, thresholds: Any, edges: Any, band: Any, work: Any, result: Any) -> None:
    """One mask's counts above the thresholds, its area and its box.

    ``thresholds`` (3, ascending) and ``edges`` (6, either side of each) are float32. ``band`` times the
    largest logit that a pixel depends on is the distance from a threshold within which it may differ from the
    reference's (0 if the operations are the reference's): CLOSE counts such pixels, or logits that are huge
    or NaN; if it is not 0, the other results must not be used. The box is LEFT > RIGHT for an empty mask.
    """
    strips, mid, rows, _, _ = geometry
    levels, box, kinds, starts, state, low_lanes, mid_lanes, line, _, _ = work
    size, height = low.shape[0], len(rows[0])
    n_rows = np.int64(mid[1][rows[1][height - 1]]) + 1
    result[:] = 0
    result[CLOSE] = settle(low, edges, levels, box)
    if result[CLOSE]:
        return
    result[LEFT], result[TOP], result[RIGHT], result[BOTTOM] = strips[-1, X_TO], height, -1, -1
    for s in range(len(strips)):
        first_low, last_low, x_from, x_to = strips[s, 0], strips[s, 1], strips[s, 2], strips[s, 3]
        if last_low < box[2] or first_low > box[3]:
            continue
        count = cut(levels, size, box, first_low, last_low, n_rows, rows[4], rows[5], height, kinds, starts)
        wide = x_to - x_from
        all_lanes = np.int64((1 << wide) - 1)
        inside = np.int64(0)
        for k in range(4):
            state[k] = -1
        for k in range(count):
            kind, a, b = kinds[k], starts[k], starts[k + 1]
            if kind & 1 == 0:
                result[LOW] += (kind >= 2) * (b - a) * wide
                result[HIGH] += (kind >= 6) * (b - a) * wide
                if kind >= 4:
                    result[AREA] += (b - a) * wide
                    inside = all_lanes
                    result[TOP], result[BOTTOM] = min(result[TOP], a), max(result[BOTTOM], b - 1)
                continue
            close = np.float32(0)
            if band > 0:
                close = band * largest(low, mid[0][rows[0][a]], mid[1][rows[1][b - 1]], first_low, last_low)
            for y in range(a, b):
                compute_row(y, low, s, geometry, state, low_lanes, mid_lanes, line)
                inside |= tally(line, y, all_lanes, thresholds, result)
                if close > 0:
                    result[CLOSE] += undecided(line, y, all_lanes, low, s, geometry, thresholds, band, close)
        if inside:
            result[LEFT] = min(result[LEFT], x_from + lowest(inside))
            result[RIGHT] = x_to - 1
            while not inside >> (result[RIGHT] - x_from) & 1:
                result[RIGHT] -= 1


@compiled
def measure_all(
    low: Any, geometry: Any, thresholds: Any, edges: Any, band: Any, work: Any, results: Any
) -> None:
    """:func:`measure` for each of n masks: ``low`` n x L x L, ``results`` n x 9."""
    for i in range(len(low)):
        measure(low[i], geometry, thresholds, edges, band, work, results[i])


@compiled
def append(changes: Any, base: Any, spans: Any, used: Any) -> Any:
    """Append one column's changes; a run that continues from the previous column stays one run."""
    for i in range(0, len(changes), 2):
        start, end = base + changes[i], base + changes[i + 1]
        if 0 < used <= len(spans) and spans[used - 1] == start:
            spans[used - 1] = end
            continue
        if used + 2 <= len(spans):
            spans[used], spans[used + 1] = start, end
        used += 2
    return used


@compiled
def trace(
    low: Any, geometry: Any, thresholds: Any, edges: Any, offset: Any, stride: Any, spans: Any, work: Any
) -> Any:
    """Write the ascending pixel indices at which one mask changes into ``spans``; returns their number.

    ``thresholds`` and ``edges`` are as in :func:`measure`, with the mask's threshold three times. Pixels are
    numbered down the columns of an image of ``stride`` rows, in which the mask starts at index ``offset``.
    What does not fit into ``spans`` is dropped, but counted.
    """
    strips, mid, rows, _, _ = geometry
    levels, box, kinds, starts, state, low_lanes, mid_lanes, line, changes, counts = work
    size, height = low.shape[0], len(rows[0])
    n_rows = np.int64(mid[1][rows[1][height - 1]]) + 1
    settle(low, edges, levels, box)
    used = 0
    for s in range(len(strips)):
        first_low, last_low, x_from, x_to = strips[s, 0], strips[s, 1], strips[s, 2], strips[s, 3]
        if last_low < box[2] or first_low > box[3]:
            continue
        count = cut(levels, size, box, first_low, last_low, n_rows, rows[4], rows[5], height, kinds, starts)
        all_lanes = np.int64((1 << (x_to - x_from)) - 1)
        before = np.int64(0)
        for k in range(4):
            state[k] = -1
        for k in range(LANES):
            counts[k] = 0
        for k in range(count):
            kind, a, b = kinds[k], starts[k], starts[k + 1]
            for y in range(a, a + 1 if kind & 1 == 0 else b):
                if kind & 1:
                    compute_row(y, low, s, geometry, state, low_lanes, mid_lanes, line)
                    bits = above(line, 0, thresholds[1]) & all_lanes
                else:
                    bits = all_lanes if kind >= 4 else np.int64(0)
                changed = bits ^ before
                before = bits
                while changed:
                    lane = lowest(changed)
                    changed &= changed - 1
                    changes[lane, counts[lane]] = y
                    counts[lane] += 1
        for lane in range(x_to - x_from):
            if counts[lane] & 1:
                changes[lane, counts[lane]] = height
                counts[lane] += 1
            base = offset + (x_from + lane) * stride
            used = append(changes[lane, : counts[lane]], base, spans, used)
    return used


@compiled
def lengths(spans: Any, total: Any) -> Any:
    """The runs of a mask of ``total`` pixels that changes at the ascending pixel indices ``spans``."""
    out = np.empty(len(spans) + 1, np.int64)
    end = 0
    for i in range(len(spans)):
        out[i] = spans[i] - end
        end = spans[i]
    out[len(spans)] = total - end
    return out if end < total else out[: len(spans)].copy()


@compiled
def same(low: Any, geometry: Any, expected: Any, work: Any) -> Any:
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

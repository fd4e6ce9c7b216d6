"""Computes the counts, box and runs of masks from low-resolution logits in one fused pass on the CPU.

How a mask becomes strips, levels and pixels: :mod:`prep.proposals.sam.strips`. The arrays of a
:class:`prep.proposals.sam.upsample.Geometry` are passed as one tuple, the memory of a thread
(:func:`prep.proposals.sam.upsample.workspace`) as another.
"""

from __future__ import annotations

import numpy as np

from prep.masks.jit import compiled, inlined
from prep.proposals.sam.simd import LANES, above, lowest, ones
from prep.proposals.sam.strips import HUGE, X_TO, Arrays, Floats, Ints, Workspace, compute_row, cut, settle

HIGH, LOW, AREA, LEFT, TOP, RIGHT, BOTTOM, CLOSE, EDGES = range(9)  # the results of a pass for a mask


@compiled
def largest(low: Floats, top: int, bottom: int, left: int, right: int) -> np.float32:
    """The largest absolute logit in rows ``top`` to ``bottom`` and columns ``left`` to ``right``."""
    found = np.float32(0)
    for y in range(np.int64(top), np.int64(bottom) + 1):
        for x in range(np.int64(left), np.int64(right) + 1):
            found = max(found, abs(low[y, x]))
    return found


@compiled
def undecided(
    line: Floats,
    y: int,
    all_lanes: np.int64,
    low: Floats,
    strip: int,
    geometry: Arrays,
    thresholds: Floats,
    band: np.float32,
    close: np.float32,
) -> int:
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
        if away <= bound:
            count += 1
    return count


@inlined  # type: ignore[untyped-decorator]
def tally(line: Floats, y: int, all_lanes: np.int64, thresholds: Floats, result: Ints) -> np.int64:
    """Count the pixels of a row of a strip; returns which of them are inside."""
    result[LOW] += ones(above(line, 0, thresholds[0]) & all_lanes)
    result[HIGH] += ones(above(line, 0, thresholds[2]) & all_lanes)
    bits: np.int64 = above(line, 0, thresholds[1]) & all_lanes
    if bits:
        result[AREA] += ones(bits)
        result[TOP], result[BOTTOM] = min(result[TOP], y), max(result[BOTTOM], y)
    return bits


@compiled
def measure(low: Floats, geometry: Arrays, thresholds: Floats, edges: Floats, band: np.float32,
            work: Workspace, result: Ints) -> None:  # fmt: skip
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
        all_lanes, inside = np.int64((1 << wide) - 1), np.int64(0)
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
    low: Floats,
    geometry: Arrays,
    thresholds: Floats,
    edges: Floats,
    band: np.float32,
    work: Workspace,
    results: Ints,
) -> None:
    """:func:`measure` for each of n masks: ``low`` n x L x L, ``results`` n x 9."""
    for i in range(len(low)):
        measure(low[i], geometry, thresholds, edges, band, work, results[i])


@compiled
def append(changes: Ints, base: int, spans: Ints, used: int) -> int:
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
def trace(low: Floats, geometry: Arrays, thresholds: Floats, edges: Floats, offset: int, stride: int,
          spans: Ints, work: Workspace) -> int:  # fmt: skip
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
def lengths(spans: Ints, total: int) -> Ints:
    """The runs of a mask of ``total`` pixels that changes at the ascending pixel indices ``spans``."""
    out = np.empty(len(spans) + 1, np.int64)
    end = 0
    for i in range(len(spans)):
        out[i] = spans[i] - end
        end = spans[i]
    out[len(spans)] = total - end
    return out if end < total else out[: len(spans)].copy()

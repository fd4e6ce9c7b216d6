"""Removes small holes and islands from run-length masks, as the reference does on pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from prep.masks.jit import compiled
from prep.masks.rle import Runs


def remove_small_regions(
    runs: npt.NDArray[np.integer], height: int, width: int, min_area: float
) -> tuple[Runs, bool]:
    """Fill holes, then drop islands, of fewer than ``min_area`` pixels; also returns whether anything
    changed.

    Regions are 8-connected, holes as well as islands, as in
    ``segment_anything.utils.amg.remove_small_regions``. If every island is small, the largest is kept; ties
    go to the one that OpenCV labels first.
    """
    start, end, column = intervals(np.ascontiguousarray(runs, np.int64), height, False)
    filled = dropped = False
    hole_start, hole_end, hole_column = intervals(np.ascontiguousarray(runs, np.int64), height, True)
    sizes, _, root = regions(hole_start, hole_end, hole_column, width)
    small = (sizes < min_area)[root] if len(root) else np.zeros(0, np.bool_)
    if small.any():
        filled = True
        runs = _join(
            np.concatenate([start + column * height, (hole_start + hole_column * height)[small]]),
            np.concatenate([end + column * height, (hole_end + hole_column * height)[small]]),
            height * width,
        )
        start, end, column = intervals(runs, height, False)
    sizes, first, root = regions(start, end, column, width)
    small = (sizes < min_area)[root] if len(root) else np.zeros(0, np.bool_)
    if small.any():
        dropped = True
        keep = ~small
        if not keep.any():
            keep = root == _largest(sizes, first, root)
        runs = _join((start + column * height)[keep], (end + column * height)[keep], height * width)
    return np.ascontiguousarray(runs, np.int64), filled or dropped


def _largest(sizes: Runs, first: Runs, root: Runs) -> int:
    """The root of the largest region; ties go to the first region."""
    roots = np.unique(root)
    order = np.lexsort((first[roots], -sizes[roots]))
    return int(roots[order[0]])


def _join(start: Runs, end: Runs, total: int) -> Runs:
    """The runs of a union of disjoint spans of a mask's ``total`` pixels, in any order."""
    order = np.argsort(start, kind="stable")
    return _runs_of_spans(start[order], end[order], total)


@compiled
def intervals(runs: Runs, height: int, outside: bool) -> tuple[Runs, Runs, Runs]:
    """The inside (or outside) as spans of one column: first row, row after the last, column."""
    parity = 0 if outside else 1
    count, end = 0, 0
    for i in range(len(runs)):
        start, end = end, end + runs[i]
        if (i & 1) == parity and runs[i] > 0:
            count += (end - 1) // height - start // height + 1
    first, after, columns = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.int64)
    at, end = 0, 0
    for i in range(len(runs)):
        start, end = end, end + runs[i]
        if (i & 1) != parity or runs[i] == 0:
            continue
        for column in range(start // height, (end - 1) // height + 1):
            first[at] = max(start - column * height, 0)
            after[at] = min(end - column * height, height)
            columns[at] = column
            at += 1
    return first, after, columns


@compiled
def regions(first: Runs, after: Runs, columns: Runs, width: int) -> tuple[Runs, Runs, Runs]:
    """The 8-connected regions of the spans: pixels and order by root, and each span's root.

    The order is that of OpenCV's labels: by the region's first block of 2 x 2 pixels, in row order.
    """
    count = len(first)
    root = np.arange(count)
    sizes, order = np.zeros(count, np.int64), np.zeros(count, np.int64)
    before, here = 0, 0  # the spans of the previous column that may still touch
    for i in range(count):
        if i > 0 and columns[i] != columns[i - 1]:
            before = here if columns[i] == columns[i - 1] + 1 else i
            here = i
        elif i == 0:
            before = here = 0
        while before < here and after[before] < first[i]:
            before += 1
        j = before
        while j < here and first[j] <= after[i]:
            a, b = j, i
            while root[a] != a:
                root[a] = root[root[a]]
                a = root[a]
            while root[b] != b:
                root[b] = root[root[b]]
                b = root[b]
            if a < b:
                root[b] = a
            elif b < a:
                root[a] = b
            j += 1
    for i in range(count):
        root[i] = root[root[i]]  # a root never follows its spans, so one step suffices in this order
        r = root[i]
        block = (first[i] // 2) * width + columns[i] // 2
        if r == i or block < order[r]:
            order[r] = block
        sizes[r] += after[i] - first[i]
    return sizes, order, root


@compiled
def _runs_of_spans(start: Runs, end: Runs, total: int) -> Runs:
    """The runs of sorted disjoint spans; spans that touch become one."""
    out = np.empty(2 * len(start) + 1, np.int64)
    used, last = 0, 0
    for i in range(len(start)):
        if used > 0 and start[i] == last:
            out[used - 1] += end[i] - start[i]
        else:
            out[used] = start[i] - last
            out[used + 1] = end[i] - start[i]
            used += 2
        last = end[i]
    if last < total or used == 0:
        out[used] = total - last
        used += 1
    return out[:used].copy()

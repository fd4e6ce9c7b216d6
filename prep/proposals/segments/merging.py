"""Merges neighbouring image regions bottom-up into a tree, the most similar first (compiled with numba)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prep.masks.jit import compiled

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Weights(NamedTuple):
    """The weight of each difference between two neighbouring regions.

    ``histogram``: one minus the intersection of their colour and texture histograms; ``colour``: distance of
    their mean Lab colours, over 50; ``edge``: mean Lab gradient along their common border, over 50; ``size``:
    their joint share of the image, so that small regions merge first; ``fill``: the share of the image in
    their joint bounding box but outside them, so that regions that fit into each other merge first.
    """

    histogram: float
    colour: float
    edge: float
    size: float
    fill: float


class Regions(NamedTuple):
    """The sums over each of n regions, so that a merge is an addition; borders are n x n and symmetric."""

    size: Floats  # (n,) pixels
    histogram: Floats  # (n, bins) pixels
    colour: Floats  # (n, 3) summed Lab
    box: Floats  # (n, 4) first row, first column, last row, last column
    border: Floats  # (n, n) pixel pairs across the common border
    edge: Floats  # (n, n) summed gradient over those pairs


@compiled
def describe(lab: Floats, bins: Ints, bin_count: int, labels: Ints, count: int) -> Regions:
    """Sums over the regions of ``labels`` (H x W, 0 to count-1).

    ``lab`` is H x W x 3; ``bins`` H x W x F has the histogram bin of each of a pixel's F features.
    """
    height, width = labels.shape
    size = np.zeros(count)
    histogram = np.zeros((count, bin_count))
    colour = np.zeros((count, 3))
    box = np.zeros((count, 4))
    box[:, 0], box[:, 1], box[:, 2:] = height, width, -1
    border = np.zeros((count, count))
    edge = np.zeros((count, count))
    for y in range(height):
        for x in range(width):
            region = labels[y, x]
            size[region] += 1
            for f in range(bins.shape[2]):
                histogram[region, bins[y, x, f]] += 1
            for c in range(3):
                colour[region, c] += lab[y, x, c]
            box[region, 0] = min(box[region, 0], y)
            box[region, 1] = min(box[region, 1], x)
            box[region, 2] = max(box[region, 2], y)
            box[region, 3] = max(box[region, 3], x)
            for down in range(2):  # the pixel below, then the one to the right
                ny, nx = y + down, x + 1 - down
                if ny >= height or nx >= width or labels[ny, nx] == region:
                    continue
                other = labels[ny, nx]
                # Over four pixels: blur and JPEG spread an edge over more than two.
                by, bx = max(y - down, 0), max(x - (1 - down), 0)
                ay, ax = min(ny + down, height - 1), min(nx + 1 - down, width - 1)
                step = 0.0
                for c in range(3):
                    step += (lab[by, bx, c] - lab[ay, ax, c]) ** 2
                # In steps of 1/256, so that sums are exact and the same in any order.
                step = np.rint(np.sqrt(step) * 256) / 256
                border[region, other] += 1
                border[other, region] += 1
                edge[region, other] += step
                edge[other, region] += step
    return Regions(size, histogram, colour, box, border, edge)


@compiled
def _difference(
    pair: tuple[int, int], regions: Regions, pixels: float, features: int, weights: Weights
) -> float:
    """The difference between two adjacent regions."""
    a, b = pair
    size, histogram, colour, box, border, edge = regions
    shared = 0.0
    for i in range(histogram.shape[1]):
        shared += min(histogram[a, i] / size[a], histogram[b, i] / size[b])
    distance = 0.0
    for c in range(3):
        distance += (colour[a, c] / size[a] - colour[b, c] / size[b]) ** 2
    joint = size[a] + size[b]
    rows = max(box[a, 2], box[b, 2]) - min(box[a, 0], box[b, 0]) + 1
    columns = max(box[a, 3], box[b, 3]) - min(box[a, 1], box[b, 1]) + 1
    total: float = (
        weights.histogram * (1 - shared / features)
        + weights.colour * min(np.sqrt(distance) / 50, 2.0)
        + weights.edge * min(edge[a, b] / border[a, b] / 50, 2.0)
        + weights.size * joint / pixels
        + weights.fill * (rows * columns - joint) / pixels
    )
    return total


@compiled
def _absorb(a: int, b: int, regions: Regions) -> None:
    """Add region ``b`` to region ``a`` (in place)."""
    size, histogram, colour, box, border, edge = regions
    size[a] += size[b]
    histogram[a] += histogram[b]
    colour[a] += colour[b]
    box[a, 0], box[a, 1] = min(box[a, 0], box[b, 0]), min(box[a, 1], box[b, 1])
    box[a, 2], box[a, 3] = max(box[a, 2], box[b, 2]), max(box[a, 3], box[b, 3])
    border[a] += border[b]
    edge[a] += edge[b]
    border[a, a] = 0.0
    for j in range(size.shape[0]):
        border[j, a] = border[a, j]
        edge[j, a] = edge[a, j]
        border[j, b] = 0.0
    border[b] = 0.0


@compiled
def merge(regions: Regions, pixels: float, features: int, weights: Weights) -> tuple[Ints, Floats]:
    """Merge the two most similar neighbours until none are adjacent; ``regions`` is modified.

    Returns the tree: ``children`` (m, 2), the two nodes that merge k joined into node n + k (nodes 0 to n-1
    are the regions themselves), and ``difference`` (m,). Equal differences merge in the order of the region
    indices, so the tree is deterministic.
    """
    count = regions.size.shape[0]
    table = np.full((count, count), np.inf)
    for a in range(count):
        for b in range(a):
            if regions.border[a, b] > 0:
                table[a, b] = table[b, a] = _difference((a, b), regions, pixels, features, weights)
    nearest = np.zeros(count, np.int64)
    for a in range(count):
        nearest[a] = np.argmin(table[a])
    node = np.arange(count)
    alive = np.ones(count, np.bool_)
    children = np.zeros((max(count - 1, 0), 2), np.int64)
    difference = np.zeros(max(count - 1, 0))
    for step in range(count - 1):
        a, least = -1, np.inf
        for i in range(count):
            if alive[i] and table[i, nearest[i]] < least:
                a, least = i, table[i, nearest[i]]
        if a < 0:
            return children[:step], difference[:step]
        b = nearest[a]
        a, b = min(a, b), max(a, b)
        children[step, 0], children[step, 1] = node[a], node[b]
        difference[step] = least
        node[a] = count + step
        alive[b] = False
        _absorb(a, b, regions)
        for j in range(count):
            table[b, j] = table[j, b] = np.inf
            if j != a and alive[j]:
                value = np.inf
                if regions.border[a, j] > 0:
                    value = _difference((a, j), regions, pixels, features, weights)
                table[a, j] = table[j, a] = value
        for j in range(count):
            if not alive[j]:
                continue
            if j == a or nearest[j] == a or nearest[j] == b:
                nearest[j] = np.argmin(table[j])
            elif table[j, a] < table[j, nearest[j]]:
                nearest[j] = a
    return children, difference

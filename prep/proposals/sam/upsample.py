"""Computes which low-resolution logits and weights determine each pixel of a mask in torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from prep.proposals.sam.simd import LANES, ORDERS
from prep.proposals.sam.strips import NO_STEP, Arrays, Floats, Index, Taps, Workspace, same

# Each of the two bilinear steps rounds a value at most 5 times, in any order of operations, so two
# computations of both steps differ by at most 20 roundings of 2**-24 relative to the largest value they
# interpolate; two are added as margin.
BAND = 22 * 2.0**-24


@dataclass(frozen=True)
class Axis:
    """One axis of a bilinear resize: for each output its two inputs (uint32) and their weights (float32)."""

    i0: Index
    i1: Index
    w0: Floats
    w1: Floats

    @property
    def arrays(self) -> Taps:
        """The four arrays, as the kernels expect them."""
        return self.i0, self.i1, self.w0, self.w1


def axis(n_in: int, n_out: int, device: torch.device) -> Axis:
    """The taps of ``F.interpolate`` (bilinear, corners not aligned) from ``n_in`` to ``n_out`` samples.

    The formula is torch's, in float32 with a fused multiply-add. The weights are then read from torch itself
    by resizing the numbers 1, 0, 1, 0 ..., which gives the exact bits of its kernel on this device.
    """
    scale = np.float32(np.float32(n_in) / np.float32(n_out))
    centre = np.arange(n_out, dtype=np.float64) + 0.5
    source = np.maximum((np.float64(scale) * centre - 0.5).astype(np.float32), np.float32(0))
    i0 = np.minimum(source.astype(np.int64), n_in - 1)
    w1 = np.clip(source - i0.astype(np.float32), 0, 1).astype(np.float32)
    w0 = (np.float32(1) - w1).astype(np.float32)
    even = (np.arange(n_in) % 2 == 0).astype(np.float32)
    probe = torch.as_tensor(
        np.stack([even, 1 - even, even])[None, :, None, :].repeat(2, axis=2), device=device
    )
    seen = F.interpolate(probe, (2, n_out), mode="bilinear", align_corners=False)[0, :, 0].cpu().numpy()
    # If the device rounds a position across an integer, it uses the next pair (or the previous one).
    second = _weight(i0 + 1, seen)
    i0 = i0 + np.where(w1 > 0.5, w1 - second > 0.5, 0) - np.where(w1 <= 0.5, second - w1 > 0.5, 0)
    i0 = np.clip(i0, 0, n_in - 1)
    inner = i0 + 1 < n_in  # at the end both taps are the same sample
    w0, w1 = np.where(inner, _weight(i0, seen), w0), np.where(inner, _weight(i0 + 1, seen), w1)
    i1 = np.minimum(i0 + 1, n_in - 1)
    return Axis(i0.astype(np.uint32), i1.astype(np.uint32), w0.astype(np.float32), w1.astype(np.float32))


def _weight(index: npt.NDArray[np.int64], seen: Floats) -> Floats:
    """The weight of torch for samples ``index``, from the resized even and odd samples."""
    return np.where(index % 2 == 0, seen[0], seen[1])


@dataclass(frozen=True, eq=False)
class Geometry:
    """The mapping from the logits of one crop to its pixels.

    ``low`` and ``mid`` are the sides of the low-resolution logits and of their upsampled version (256 and
    1024 in SAM; where they are equal, as in SAM 2, the first step changes nothing), ``size`` the crop's
    height and width, ``inside`` those of its part of the upsampled version. The reference resizes
    ``channels`` masks at once, on which torch's order of operations depends. ``band`` is 0 if the kernels
    give torch's bits for this size, else :data:`BAND`. ``orders`` are the orders of operations of the two
    steps (:data:`prep.proposals.sam.simd.ORDERS`, or ``NO_STEP`` for the first). ``middle``, ``rows`` and
    ``columns`` are their taps, ``arrays`` the same for the CPU's kernels.
    """

    low: int
    mid: int
    inside: tuple[int, int]
    size: tuple[int, int]
    channels: int
    band: float
    orders: tuple[int, int]
    middle: Axis
    rows: Axis
    columns: Axis
    arrays: Arrays


def reference(logits: torch.Tensor, mid: int, inside: tuple[int, int], size: tuple[int, int]) -> torch.Tensor:
    """The result of the reference's ``Sam.postprocess_masks``, for logits of shape (B, C, L, L)."""
    large = F.interpolate(logits, (mid, mid), mode="bilinear", align_corners=False)
    large = large[..., : inside[0], : inside[1]]
    return F.interpolate(large, size, mode="bilinear", align_corners=False)


def geometry(
    low: int,
    mid: int,
    inside: tuple[int, int],
    size: tuple[int, int],
    device: torch.device,
    channels: int = 3,
) -> Geometry:
    """The geometry of a crop of ``size`` (H, W) of which the model saw ``inside`` (H, W) pixels.

    It holds for the current number of threads, which determines torch's order of operations.
    """
    return _geometry(low, mid, inside, size, device, channels, torch.get_num_threads())


@lru_cache(maxsize=64)
def _geometry(
    low: int,
    mid: int,
    inside: tuple[int, int],
    size: tuple[int, int],
    device: torch.device,
    channels: int,
    threads: int,
) -> Geometry:
    middle = axis(low, mid, device)
    rows, columns = axis(inside[0], size[0], device), axis(inside[1], size[1], device)
    reach = middle.i0[rows.i0].astype(np.int64), middle.i1[rows.i1].astype(np.int64)
    first_row = np.searchsorted(reach[0], np.arange(low), side="left")
    end_row = np.searchsorted(reach[1], np.arange(low), side="right")
    cuts = strips(middle.i0[columns.i0], middle.i1[columns.i1])
    arrays = (
        cuts,
        middle.arrays,
        (*rows.arrays, first_row, end_row),
        lanes(cuts, middle, columns),
    )
    usual = (NO_STEP if mid == low else 0, 0)
    plan = Geometry(low, mid, inside, size, channels, BAND, usual, middle, rows, columns, (*arrays, usual))
    orders = agreeing(plan, device)
    return replace(plan, band=0.0, orders=orders, arrays=(*arrays, orders)) if orders else plan


def strips(first: npt.NDArray[np.uint32], last: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """Image columns in groups of at most 16 that depend on at most 16 low-resolution columns.

    Each row gives the first and last low-resolution column, the first image column and the one after the
    last.
    """
    out: list[list[int]] = []
    for x, (a, b) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        if out and b - out[-1][0] < LANES and x - out[-1][2] < LANES:
            out[-1][1], out[-1][3] = b, x + 1
        else:
            out.append([a, b, x, x + 1])
    return np.array(out, np.int64).reshape(-1, 4)


def lanes(cuts: npt.NDArray[np.int64], middle: Axis, columns: Axis) -> tuple[Index, Floats, Floats]:
    """For each strip and lane: the four low-resolution columns, their weights, and those of the second step.

    The unused lanes of the last strip repeat its last column.
    """
    x = np.minimum(cuts[:, 2:3] + np.arange(LANES), cuts[:, 3:4] - 1)
    left, right = columns.i0[x], columns.i1[x]
    index = np.concatenate([middle.i0[left], middle.i1[left], middle.i0[right], middle.i1[right]], axis=1)
    weights = np.concatenate([middle.w0[left], middle.w1[left], middle.w0[right], middle.w1[right]], axis=1)
    outer = np.concatenate([columns.w0[x], columns.w1[x]], axis=1)
    return index, weights.ravel(), outer.ravel()  # a view of a row in a kernel costs as much as its products


def agreeing(plan: Geometry, device: torch.device) -> tuple[int, int] | None:
    """The orders of operations with which the kernels give the reference's bits on noise, at every pixel."""
    noise = torch.randn((1, plan.channels, plan.low, plan.low), generator=torch.Generator().manual_seed(0))
    expected = reference(noise.to(device), plan.mid, plan.inside, plan.size)[0].cpu().numpy()
    work = workspace(plan)
    first = (NO_STEP,) if plan.mid == plan.low else range(len(ORDERS))
    for orders in product(first, range(len(ORDERS))):
        arrays = (*plan.arrays[:-1], orders)
        if all(same(noise[0, k].numpy(), arrays, expected[k], work) for k in range(plan.channels)):
            return orders
    return None


def workspace(plan: Geometry) -> Workspace:
    """The working memory of one thread: about 70 KB, and 130 bytes per image row."""
    segments = 2 * plan.low + 3
    return (
        np.empty(
            plan.low * plan.low + plan.low + LANES, np.uint8
        ),  # levels, columns in use, padding for vector reads
        np.empty(4, np.int64),
        np.empty(segments, np.uint8),
        np.empty(segments + 1, np.int64),
        np.empty(4, np.int64),
        np.empty(2 * 4 * LANES, np.float32),
        np.empty(2 * 2 * LANES, np.float32),
        np.empty(LANES, np.float32),
        np.empty((LANES, plan.size[0] + 2), np.int64),
        np.empty(LANES, np.int64),
    )

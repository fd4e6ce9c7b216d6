"""Computes the counts and boxes of all candidates in one fused Triton pass on the GPU.

One program handles one tile of one mask. It first reads the few logits that the tile depends on: if all lie
between the same two thresholds, so does every pixel, and the pixels are counted without being computed.
The others are computed in the order of operations in which torch's kernel gives the same bits. Where no order
does, values within the error bound of a threshold are counted as close, and their masks are recomputed by the
reference's operations. Only the logits of the remaining masks are copied from the device.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl

from prep.proposals.sam import strips
from prep.proposals.sam.simd import NESTED
from prep.proposals.sam.upsample import BAND, Geometry, reference

ROWS, COLUMNS = 16, 32  # the pixels of a tile
HUGE = float(strips.HUGE)


@triton.jit  # type: ignore
def _sum(a, u, b, v, fused: tl.constexpr):  # type: ignore[no-untyped-def]
    """``a * u + b * v``, of which product 0 or 1 is fused, or none (-1)."""
    if fused == 0:
        total = tl.fma(a, u, b * v)
    elif fused == 1:
        total = tl.fma(b, v, a * u)
    else:
        total = a * u + b * v
    return total


@triton.jit  # type: ignore
def _four(  # type: ignore[no-untyped-def]
    top_left, top_right, bottom_left, bottom_right, top, bottom, left, right,
    flat: tl.constexpr, within: tl.constexpr, between: tl.constexpr,
):  # fmt: skip
    """The bilinear interpolation of four taps, in an order of :data:`prep.proposals.sam.simd.ORDERS`."""
    if flat == 1:
        total = top_right * (top * right)
        total = tl.fma(top_left, top * left, total)
        total = tl.fma(bottom_left, bottom * left, total)
        total = tl.fma(bottom_right, bottom * right, total)
    elif flat == 0:
        total = top_left * (top * left)
        total = total + top_right * (top * right)
        total = total + bottom_left * (bottom * left)
        total = total + bottom_right * (bottom * right)
    else:
        upper = _sum(top_left, left, top_right, right, within)
        lower = _sum(bottom_left, left, bottom_right, right, within)
        total = _sum(upper, top, lower, bottom, between)
    return total


@triton.jit  # type: ignore
def _mix(  # type: ignore[no-untyped-def]
    base, side, r0, r1, v0, v1, c0, c1, u0, u1,
    flat: tl.constexpr, within: tl.constexpr, between: tl.constexpr,
):  # fmt: skip
    """The upsampled mask at rows (r0, r1, v0, v1) and columns (c0, c1, u0, u1)."""
    top, bottom = base + r0[:, None] * side, base + r1[:, None] * side
    return _four(
        tl.load(top + c0[None, :]), tl.load(top + c1[None, :]),
        tl.load(bottom + c0[None, :]), tl.load(bottom + c1[None, :]),
        v0[:, None], v1[:, None], u0[None, :], u1[None, :], flat, within, between,
    )  # fmt: skip


@triton.jit
def _axis(at, i0, i1, w0, w1, mid_i0, mid_i1, mid_w0, mid_w1):  # type: ignore[no-untyped-def]
    """For image rows or columns ``at``: each tap's rows and weights in the logits, and its own weight."""
    a, b = tl.load(i0 + at), tl.load(i1 + at)
    return (
        tl.load(mid_i0 + a), tl.load(mid_i1 + a), tl.load(mid_w0 + a), tl.load(mid_w1 + a),
        tl.load(mid_i0 + b), tl.load(mid_i1 + b), tl.load(mid_w0 + b), tl.load(mid_w1 + b),
        tl.load(w0 + at), tl.load(w1 + at),
    )  # fmt: skip


@triton.jit  # type: ignore
def _measure(  # type: ignore[no-untyped-def]
    low, results, pixels, side, height, width, tiles_across, edges, thresholds, band,
    mid_i0, mid_i1, mid_w0, mid_w1, row_i0, row_i1, row_w0, row_w1, col_i0, col_i1, col_w0, col_w1,
    huge: tl.constexpr, tile_rows: tl.constexpr, tile_columns: tl.constexpr,
    reach_rows: tl.constexpr, reach_columns: tl.constexpr,
    flat_0: tl.constexpr, within_0: tl.constexpr, between_0: tl.constexpr,
    flat_1: tl.constexpr, within_1: tl.constexpr, between_1: tl.constexpr, keep: tl.constexpr,
):  # fmt: skip
    """Process one tile of one mask: adds to the mask's nine numbers (see
    :mod:`prep.proposals.sam.kernels_cpu`), and writes the computed pixels if they are to be kept.
    """
    mask, tile = tl.program_id(0), tl.program_id(1)
    base, result = low + mask.to(tl.int64) * side * side, results + mask * 9
    y = tile // tiles_across * tile_rows + tl.arange(0, tile_rows)
    x = tile % tiles_across * tile_columns + tl.arange(0, tile_columns)
    valid = (y < height)[:, None] & (x < width)[None, :]
    y_read, x_read = tl.minimum(y, height - 1), tl.minimum(x, width - 1)
    ra0, ra1, va0, va1, rb0, rb1, vb0, vb1, v0, v1 = _axis(
        y_read, row_i0, row_i1, row_w0, row_w1, mid_i0, mid_i1, mid_w0, mid_w1
    )
    ca0, ca1, ua0, ua1, cb0, cb1, ub0, ub1, u0, u1 = _axis(
        x_read, col_i0, col_i1, col_w0, col_w1, mid_i0, mid_i1, mid_w0, mid_w1
    )

    # The logits that the tile depends on, and whether they determine it.
    r = tl.min(ra0) + tl.arange(0, reach_rows)
    c = tl.min(ca0) + tl.arange(0, reach_columns)
    there = (r <= tl.max(rb1))[:, None] & (c <= tl.max(cb1))[None, :]
    block = tl.load(base + r[:, None] * side + c[None, :], mask=there, other=0.0)
    strange = tl.sum(tl.sum(tl.where(there & ~(tl.abs(block) < huge), 1, 0), axis=1), axis=0)
    least = tl.min(tl.min(tl.where(there, block, huge), axis=1), axis=0)
    most = tl.max(tl.max(tl.where(there, block, -huge), axis=1), axis=0)
    level, level_of_most = 0, 0
    for k in tl.static_range(6):
        edge = tl.load(edges + k)
        level += (least > edge).to(tl.int32)
        level_of_most += (most > edge).to(tl.int32)
    size = tl.sum(tl.sum(valid.to(tl.int32), axis=1), axis=0)
    t0, t1, t2 = tl.load(thresholds), tl.load(thresholds + 1), tl.load(thresholds + 2)

    if strange > 0:
        tl.atomic_add(result + 7, 1)
    elif (level == level_of_most) & (level % 2 == 0):
        if level >= 2:
            tl.atomic_add(result + 1, size)
        if level >= 6:
            tl.atomic_add(result + 0, size)
        if level >= 4:
            tl.atomic_add(result + 2, size)
            tl.atomic_min(result + 3, tl.min(x_read))
            tl.atomic_min(result + 4, tl.min(y_read))
            tl.atomic_max(result + 5, tl.max(x_read))
            tl.atomic_max(result + 6, tl.max(y_read))
    else:
        value = _four(
            _mix(base, side, ra0, ra1, va0, va1, ca0, ca1, ua0, ua1, flat_0, within_0, between_0),
            _mix(base, side, ra0, ra1, va0, va1, cb0, cb1, ub0, ub1, flat_0, within_0, between_0),
            _mix(base, side, rb0, rb1, vb0, vb1, ca0, ca1, ua0, ua1, flat_0, within_0, between_0),
            _mix(base, side, rb0, rb1, vb0, vb1, cb0, cb1, ub0, ub1, flat_0, within_0, between_0),
            v0[:, None], v1[:, None], u0[None, :], u1[None, :], flat_1, within_1, between_1,
        )  # fmt: skip
        if keep:
            place = pixels + mask.to(tl.int64) * height * width + y[:, None] * width + x[None, :]
            tl.store(place, value, mask=valid)

        close = band * tl.maximum(tl.abs(least), tl.abs(most))
        near = (tl.abs(value - t0) < close) | (tl.abs(value - t1) < close) | (tl.abs(value - t2) < close)
        inside = (value > t1) & valid
        tl.atomic_add(result + 0, tl.sum(tl.sum(((value > t2) & valid).to(tl.int32), axis=1), axis=0))
        tl.atomic_add(result + 1, tl.sum(tl.sum(((value > t0) & valid).to(tl.int32), axis=1), axis=0))
        tl.atomic_add(result + 7, tl.sum(tl.sum((near & valid).to(tl.int32), axis=1), axis=0))
        area = tl.sum(tl.sum(inside.to(tl.int32), axis=1), axis=0)
        if area > 0:
            tl.atomic_add(result + 2, area)
            tl.atomic_min(result + 3, tl.min(tl.min(tl.where(inside, x[None, :], width), axis=1), axis=0))
            tl.atomic_min(result + 4, tl.min(tl.min(tl.where(inside, y[:, None], height), axis=1), axis=0))
            tl.atomic_max(result + 5, tl.max(tl.max(tl.where(inside, x[None, :], -1), axis=1), axis=0))
            tl.atomic_max(result + 6, tl.max(tl.max(tl.where(inside, y[:, None], -1), axis=1), axis=0))


def measure(
    logits: torch.Tensor, plan: Geometry, values: npt.NDArray[np.float32], edges: npt.NDArray[np.float32]
) -> npt.NDArray[np.int64]:
    """The results of :func:`prep.proposals.sam.kernels_cpu.measure_all` for logits (n, L, L), float32.

    Where the kernel does not give torch's bits (:func:`agrees`), every mask with a value within the bound of
    a threshold has a CLOSE count above zero.
    """
    band = 0.0 if agrees(plan, logits.device) else BAND
    return _launch(logits, plan, values, edges, band).cpu().numpy().astype(np.int64)


@lru_cache(maxsize=64)
def agrees(plan: Geometry, device: torch.device) -> bool:
    """Whether the kernel, in the plan's orders of operations, gives torch's bits on noise at every pixel."""
    if plan.band:
        return False
    noise = torch.randn((plan.channels, plan.low, plan.low), generator=torch.Generator().manual_seed(0)).to(
        device
    )
    expected = reference(noise[None], plan.mid, plan.inside, plan.size)[0].contiguous()
    # All logits lie between the first two edges, between which no tile is decided by its logits alone.
    edges = np.full(6, strips.HUGE, np.float32)
    edges[0] = -strips.HUGE
    found = torch.full_like(expected, torch.nan)
    _launch(noise, plan, np.zeros(3, np.float32), edges, 0.0, found)
    return torch.equal(found, expected)


def _launch(
    logits: torch.Tensor,
    plan: Geometry,
    values: npt.NDArray[np.float32],
    edges: npt.NDArray[np.float32],
    band: float,
    pixels: torch.Tensor | None = None,
) -> torch.Tensor:
    """The nine numbers of each mask (n, 9), int32; ``pixels`` (n, H, W) takes those that were computed."""
    (height, width), device = plan.size, logits.device
    start = [0, 0, 0, width, height, -1, -1, 0, 0]
    results = torch.tensor(start, dtype=torch.int32, device=device).repeat(len(logits), 1)
    if len(logits):
        tables, reach_rows, reach_columns = _tables(plan, device)
        across, down = triton.cdiv(width, COLUMNS), triton.cdiv(height, ROWS)
        (flat_0, within_0, between_0), (flat_1, within_1, between_1) = map(_constants, plan.orders)
        _measure[(len(logits), across * down)](
            logits.contiguous(), results, logits if pixels is None else pixels,
            plan.low, height, width, across,
            torch.as_tensor(edges, device=device), torch.as_tensor(values, device=device), band, *tables,
            huge=HUGE, tile_rows=ROWS, tile_columns=COLUMNS,
            reach_rows=reach_rows, reach_columns=reach_columns,
            flat_0=flat_0, within_0=within_0, between_0=between_0,
            flat_1=flat_1, within_1=within_1, between_1=between_1, keep=pixels is not None,
            enable_fp_fusion=False,  # the compiler fuses products as it likes, the orders say which
        )  # fmt: skip
    return results


def _constants(order: int) -> tuple[int, int, int]:
    """An index in :data:`prep.proposals.sam.simd.ORDERS` as ``flat``, ``within`` and ``between``.

    Any order leaves the logits as they are where there is no first step: its weights are 1 and 0.
    """
    order = max(order, 0)
    return ((1, 0, 0), (0, 0, 0), *((-1, *nested) for nested in NESTED))[order]


@lru_cache(maxsize=64)
def _tables(plan: Geometry, device: torch.device) -> tuple[list[torch.Tensor], int, int]:
    """A geometry's taps on the device, and the maximum number of rows and columns of logits that a tile
    needs.
    """
    arrays = [*plan.middle.arrays, *plan.rows.arrays, *plan.columns.arrays]
    tables = [torch.as_tensor(np.asarray(a, np.int32 if a.dtype.kind == "u" else a.dtype)) for a in arrays]
    reaches = []
    for axis, step in ((plan.rows, ROWS), (plan.columns, COLUMNS)):
        first, last = plan.middle.i0[axis.i0].astype(np.int64), plan.middle.i1[axis.i1].astype(np.int64)
        starts = np.arange(0, len(first), step)
        ends = np.minimum(starts + step, len(first)) - 1
        reaches.append(int(triton.next_power_of_2(int((last[ends] - first[starts]).max()) + 1)))
    return [table.to(device) for table in tables], reaches[0], reaches[1]

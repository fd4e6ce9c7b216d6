"""Defines numba vector operations on sixteen pixels that its own vectoriser does not generate.

Each is plain LLVM, compiled to the instructions of each processor; the order of the floating-point operations
is fixed, so the bits do not depend on the machine's vector width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils, types
from numba.extending import intrinsic

if TYPE_CHECKING:
    from numba.core.base import BaseContext
    from numba.core.typing import BaseContext as TypingContext
    from numba.core.typing import Signature

    Generator = Callable[[BaseContext, ir.IRBuilder, Signature, list[ir.Value]], ir.Value]
    Intrinsic = tuple[Signature, Generator]

LANES = 16
# Of a builder, the function fma, four taps and the weights of the top, bottom, left and right.
Arithmetic = Callable[
    [ir.IRBuilder, ir.Function, list[ir.Value], ir.Value, ir.Value, ir.Value, ir.Value], ir.Value
]
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_BYTES = ir.VectorType(ir.IntType(8), LANES)


def _pointer(
    context: BaseContext,
    builder: ir.IRBuilder,
    kind: types.Array,
    array: ir.Value,
    index: ir.Value,
    vector: ir.VectorType,
) -> ir.Value:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _load(
    context: BaseContext, builder: ir.IRBuilder, kind: types.Array, array: ir.Value, index: ir.Value
) -> ir.Value:
    return builder.load(_pointer(context, builder, kind, array, index, _FLOATS), align=4)


def _splat(builder: ir.IRBuilder, value: ir.Value, vector: ir.VectorType) -> ir.Value:
    single = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    order = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    return builder.shuffle_vector(single, ir.Constant(vector, ir.Undefined), order)


def _as_bits(builder: ir.IRBuilder, flags: ir.Value) -> ir.Value:
    return builder.zext(builder.bitcast(flags, ir.IntType(LANES)), ir.IntType(64))


def _flat(fused: bool) -> Arithmetic:
    """Each tap times the product of its two weights; fused, the sum starts with the top right."""

    def generate(
        builder: ir.IRBuilder,
        fma: ir.Function,
        taps: list[ir.Value],
        top: ir.Value,
        bottom: ir.Value,
        left: ir.Value,
        right: ir.Value,
    ) -> ir.Value:
        weights = [builder.fmul(y, x) for y in (top, bottom) for x in (left, right)]
        if fused:
            total = builder.fmul(taps[1], weights[1])
            for k in (0, 2, 3):
                total = builder.call(fma, [taps[k], weights[k], total])
            return total
        total = builder.fmul(taps[0], weights[0])
        for k in (1, 2, 3):
            total = builder.fadd(total, builder.fmul(taps[k], weights[k]))
        return total

    return generate


def _nested(within: int, between: int) -> Arithmetic:
    """Each row of taps first, then the two rows: of either sum, product 0 or 1 is fused, or none (-1)."""

    def mix(
        builder: ir.IRBuilder,
        fma: ir.Function,
        fused: int,
        a: ir.Value,
        u: ir.Value,
        b: ir.Value,
        v: ir.Value,
    ) -> ir.Value:
        if fused == 0:
            return builder.call(fma, [a, u, builder.fmul(b, v)])
        if fused == 1:
            return builder.call(fma, [b, v, builder.fmul(a, u)])
        return builder.fadd(builder.fmul(a, u), builder.fmul(b, v))

    def generate(
        builder: ir.IRBuilder,
        fma: ir.Function,
        taps: list[ir.Value],
        top: ir.Value,
        bottom: ir.Value,
        left: ir.Value,
        right: ir.Value,
    ) -> ir.Value:
        rows = [mix(builder, fma, within, taps[k], left, taps[k + 1], right) for k in (0, 2)]
        return mix(builder, fma, between, rows[0], top, rows[1], bottom)

    return generate


# The orders of operations in which torch computes a bilinear interpolation. On a CPU, three channels and one
# thread, or a small output, take the flat ones and others the nested ones, fused where the processor can. Its
# CUDA kernel is nested, with the products fused that its compiler chose.
NESTED = ((0, 0), (-1, -1), (0, 1), (1, 0), (1, 1))
ORDERS = (_flat(True), _flat(False), *(_nested(within, between) for within, between in NESTED))


def _chosen(builder: ir.IRBuilder, order: ir.Value, apply: Callable[[Arithmetic], ir.Value]) -> ir.Value:
    """The result of the arithmetic number ``order``."""
    blocks = [builder.append_basic_block() for _ in ORDERS]
    done = builder.append_basic_block()
    choice = builder.switch(order, blocks[0])
    totals = []
    for number, (block, arithmetic) in enumerate(zip(blocks, ORDERS, strict=True)):
        choice.add_case(ir.Constant(order.type, number), block)
        builder.position_at_end(block)
        totals.append(apply(arithmetic))
        builder.branch(done)
    builder.position_at_end(done)
    result = builder.phi(_FLOATS)
    for total, block in zip(totals, blocks, strict=True):
        result.add_incoming(total, block)
    return result


@intrinsic  # type: ignore[untyped-decorator]
def four_taps(
    typing: TypingContext,
    out: types.Array,
    o: types.Integer,
    source: types.Array,
    tl: types.Integer,
    tr: types.Integer,
    bl: types.Integer,
    br: types.Integer,
    u: types.Array,
    j: types.Integer,
    top: types.Float,
    bottom: types.Float,
    order: types.Integer,
) -> Intrinsic:
    """``out[o:o+16]`` = the bilinear interpolation of ``source`` at offsets ``tl``, ``tr``, ``bl`` and
    ``br``, 16 of each.

    ``u`` has the 16 left weights at ``j`` and the 16 right ones after them; ``top`` and ``bottom`` are
    numbers, ``order`` is the index in :data:`ORDERS` of the order of operations.
    """
    kinds = (out, types.intp, source) + (types.intp,) * 4 + (u, types.intp, types.float32, types.float32)

    def generate(
        context: BaseContext, builder: ir.IRBuilder, signature: Signature, values: list[ir.Value]
    ) -> ir.Value:
        fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_FLOATS, [_FLOATS] * 3), f"llvm.fma.v{LANES}f32"
        )
        taps = [_load(context, builder, source, values[2], values[k]) for k in (3, 4, 5, 6)]
        left = _load(context, builder, u, values[7], values[8])
        after = builder.add(values[8], ir.Constant(values[8].type, LANES))
        right = _load(context, builder, u, values[7], after)
        first, second = _splat(builder, values[9], _FLOATS), _splat(builder, values[10], _FLOATS)
        total = _chosen(builder, values[11], lambda a: a(builder, fma, taps, first, second, left, right))
        builder.store(total, _pointer(context, builder, out, values[0], values[1], _FLOATS), align=4)
        return context.get_dummy_value()

    return types.void(*kinds, types.intp), generate


@intrinsic  # type: ignore[untyped-decorator]
def above(typing: TypingContext, row: types.Array, at: types.Integer, threshold: types.Float) -> Intrinsic:
    """Which of ``row[at:at+16]`` are above the threshold (NaN is not), the first in the lowest bit."""

    def generate(
        context: BaseContext, builder: ir.IRBuilder, signature: Signature, values: list[ir.Value]
    ) -> ir.Value:
        floats = _load(context, builder, row, values[0], values[1])
        return _as_bits(builder, builder.fcmp_ordered(">", floats, _splat(builder, values[2], _FLOATS)))

    return types.int64(row, types.intp, types.float32), generate


@intrinsic  # type: ignore[untyped-decorator]
def equal(typing: TypingContext, levels: types.Array, at: types.Integer, level: types.Integer) -> Intrinsic:
    """Which of the bytes ``levels[at:at+16]`` are ``level``, the first in the lowest bit."""

    def generate(
        context: BaseContext, builder: ir.IRBuilder, signature: Signature, values: list[ir.Value]
    ) -> ir.Value:
        held = builder.load(_pointer(context, builder, levels, values[0], values[1], _BYTES), align=1)
        return _as_bits(builder, builder.icmp_unsigned("==", held, _splat(builder, values[2], _BYTES)))

    return types.int64(levels, types.intp, types.uint8), generate


@intrinsic  # type: ignore[untyped-decorator]
def ones(typing: TypingContext, bits: types.Integer) -> Intrinsic:
    """The number of set bits."""

    def generate(
        context: BaseContext, builder: ir.IRBuilder, signature: Signature, values: list[ir.Value]
    ) -> ir.Value:
        return builder.ctpop(values[0])

    return types.int64(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def lowest(typing: TypingContext, bits: types.Integer) -> Intrinsic:
    """The index of the lowest set bit."""

    def generate(
        context: BaseContext, builder: ir.IRBuilder, signature: Signature, values: list[ir.Value]
    ) -> ir.Value:
        return builder.cttz(values[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate

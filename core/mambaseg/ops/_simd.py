"""A vector of W floats as a numba type, and the dozen operations on it that the scan kernels need.

numba vectorises loops only where LLVM finds them; with a type whose data model is the LLVM vector ``<W x float>`` the
kernels say what they mean, and LLVM lowers the same code to AVX-512, AVX2 or NEON. W is chosen when the kernel is
called: `w`, the first argument of most functions here, is a tuple of W zeros whose only use is its length, which is
part of its type.

Memory is named by `address`, a whole number, and a `position` in float32 values from there; nothing is range-checked.
A numba array would be seven arguments to each function called in a kernel (which cost a quarter of the backward pass)
and thirty instructions for negative indices in the inner loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import binding, ir
from numba.core import cgutils, config, types
from numba.core.datamodel import models
from numba.core.datamodel.registry import register_default
from numba.extending import intrinsic

__all__ = [
    "Vector",
    "add",
    "decay",
    "fma",
    "load",
    "log_one_plus_exp",
    "mul",
    "native_width",
    "peek",
    "peek_index",
    "poke",
    "prefetch",
    "row_sums",
    "sigmoid",
    "splat",
    "spread",
    "store",
    "transpose_block",
]

LOG2_E = math.log2(math.e)

# 2**r on [-1/2, 1/2], relative error 9.1e-8 and exactly 1 at 0, so that a short step forgets exactly nothing.
_EXP2 = (1.0, 0.6931470036506653, 0.24022242426872253, 0.05550733581185341, 0.009671512991189957, 0.001326472731307149)
# log(1 + e) / e on [0, 1], relative error 3e-8; minimax.
_LOG1P = (
    0.99999996988,
    -0.499994931405,
    0.333190968074,
    -0.248429822135,
    0.191060067612,
    -0.136632457972,
    0.0782259519167,
    -0.0295052388049,
    0.00523269427175,
)
# 1 / x on [1, 2], relative error 1/99; two Newton steps make it 1e-8. A vector division costs as much as two states.
_RECIPROCAL = (210.0 / 99.0, -144.0 / 99.0, 32.0 / 99.0)
_ROUND = 1.5 * 2.0**23  # adding it rounds a float32 to an integer, which then stands in the low bits

_FLOAT = ir.FloatType()
_INT32 = ir.IntType(32)
_INT64 = ir.IntType(64)


class Vector(types.Type):
    """numba type of W float32 lanes."""

    def __init__(self, width: int) -> None:
        self.width = width
        super().__init__(name=f"Vector({width})")


@register_default(Vector)
class _VectorModel(models.PrimitiveModel):
    """Held in memory and in registers as ``<W x float>``."""

    def __init__(self, manager: Any, vector: Vector) -> None:
        begin: Any = super().__init__  # numba gives it no types
        begin(manager, vector, ir.VectorType(_FLOAT, vector.width))


def native_width() -> int:
    """Lanes to use on this CPU: 16 with AVX-512, else 8 (two registers each on NEON)."""
    settings: Any = config  # numba fills this module when it is imported
    restricted = settings.CPU_NAME or settings.CPU_FEATURES is not None or not settings.ENABLE_AVX
    return 16 if not restricted and _has_avx512() else 8


def _has_avx512() -> bool:
    features = binding.get_host_cpu_features()
    return bool(features.get("avx512f") and features.get("avx512dq") and features.get("avx512vl"))


# ---- building LLVM code ------------------------------------------------------------------------------------------


def _constant(like: ir.Value, value: float) -> ir.Constant:
    """`value` in every lane; `like` is a vector of floats."""
    return ir.Constant(like.type, [value] * like.type.count)


def _call(builder: ir.IRBuilder, name: str, *args: ir.Value) -> ir.Value:
    """Call the LLVM intrinsic `name` whose result is of the type of its first argument."""
    kind = ir.FunctionType(args[0].type, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def _fma(builder: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    """``x * y + z``, fused where the CPU can: llvm.fma would call libm lane by lane where it cannot."""
    return _call(builder, f"llvm.fmuladd.v{x.type.count}f32", x, y, z)


def _polynomial(builder: ir.IRBuilder, x: ir.Value, coefficients: Sequence[float]) -> ir.Value:
    """Horner's rule; `coefficients` from the constant upwards."""
    result: ir.Value = _constant(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        result = _fma(builder, result, x, _constant(x, coefficient))
    return result


def _exp2_of_product(builder: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """``2 ** (x * y)``; NaN stays NaN, underflow gives 0 (2**-126 without AVX-512)."""
    return (_exp2_scalef if x.type.count == 16 else _exp2_bits)(builder, x, y)


def _exp2_scalef(builder: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """With AVX-512's own ``p * 2**k``, which handles overflow, underflow and NaN."""
    shift = _constant(x, _ROUND)
    k = builder.fsub(_fma(builder, x, y, shift), shift)
    r = _fma(builder, x, y, builder.fneg(k))
    power = _polynomial(builder, r, _EXP2)
    every_lane, current_rounding = ir.Constant(ir.IntType(16), -1), ir.Constant(_INT32, 4)
    return _call(builder, "llvm.x86.avx512.mask.scalef.ps.512", power, k, power, every_lane, current_rounding)


def _exp2_bits(builder: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    """With the exponent put together from bits; the exponent is clamped to what a normal float can hold."""
    exponent = builder.fmul(x, y)
    low, high = _constant(x, -126.0), _constant(x, 127.0)
    # Unordered comparisons are true for NaN, which so goes through.
    exponent = builder.select(builder.fcmp_unordered(">", exponent, low), exponent, low)
    exponent = builder.select(builder.fcmp_unordered("<", exponent, high), exponent, high)
    shift = _constant(x, _ROUND + 127.0)
    shifted = builder.fadd(exponent, shift)
    r = builder.fsub(exponent, builder.fsub(shifted, shift))
    integers = ir.VectorType(_INT32, x.type.count)
    places = ir.Constant(integers, [23] * x.type.count)
    scale = builder.bitcast(builder.shl(builder.bitcast(shifted, integers), places), x.type)
    return builder.fmul(_polynomial(builder, r, _EXP2), scale)


def _exp_of_minus_abs(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """``exp(-|x|)``, between 0 and 1; the clamp keeps an infinite x from giving inf - inf."""
    size = _call(builder, f"llvm.fabs.v{x.type.count}f32", x)
    high = _constant(x, 1000.0)
    size = builder.select(builder.fcmp_unordered("<", size, high), size, high)
    return _exp2_of_product(builder, size, _constant(x, -LOG2_E))


def _pointer(builder: ir.IRBuilder, address: ir.Value, position: ir.Value) -> ir.Value:
    """Pointer to the float at `position` after `address`."""
    return builder.gep(builder.inttoptr(address, _FLOAT.as_pointer()), [position])


def _load_at(builder: ir.IRBuilder, pointer: ir.Value, width: int) -> ir.Value:
    vector = ir.VectorType(_FLOAT, width)
    return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=4)


def _store_at(builder: ir.IRBuilder, pointer: ir.Value, value: ir.Value) -> None:
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=4)


def _shuffle(builder: ir.IRBuilder, x: ir.Value, y: ir.Value, lanes: Sequence[int]) -> ir.Value:
    """Lanes of `x` (0..W-1) and `y` (W..2W-1) in the order given."""
    return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(_INT32, len(lanes)), list(lanes)))


# ---- operations for kernels --------------------------------------------------------------------------------------


def _operation(function: Callable[..., Any]) -> Any:
    """An intrinsic of numba, which for mypy may be called in any way."""
    return intrinsic(function)


def _elementwise(n_args: int, build: Callable[..., ir.Value], doc: str) -> Any:
    """An intrinsic that takes `n_args` vectors and gives one."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        return build(builder, *args)

    def one(typingctx: Any, x: Any) -> Any:
        return x(x), codegen

    def two(typingctx: Any, x: Any, y: Any) -> Any:
        return x(x, y), codegen

    def three(typingctx: Any, x: Any, y: Any, z: Any) -> Any:
        return x(x, y, z), codegen

    function = (one, two, three)[n_args - 1]
    function.__doc__ = doc
    return _operation(function)


def _build_log_one_plus_exp(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    e = _exp_of_minus_abs(builder, x)
    zero = _constant(x, 0.0)
    positive = builder.select(builder.fcmp_ordered(">", x, zero), x, zero)
    return _fma(builder, e, _polynomial(builder, e, _LOG1P), positive)


def _build_sigmoid(builder: ir.IRBuilder, x: ir.Value) -> ir.Value:
    e = _exp_of_minus_abs(builder, x)
    below = builder.fadd(e, _constant(x, 1.0))
    inverse = _polynomial(builder, below, _RECIPROCAL)
    for _ in range(2):
        error = _fma(builder, builder.fneg(below), inverse, _constant(x, 1.0))
        inverse = _fma(builder, inverse, error, inverse)
    is_positive = builder.fcmp_ordered(">=", x, _constant(x, 0.0))
    return builder.select(is_positive, inverse, builder.fmul(e, inverse))


add = _elementwise(2, lambda builder, x, y: builder.fadd(x, y), "x + y")
mul = _elementwise(2, lambda builder, x, y: builder.fmul(x, y), "x * y")
fma = _elementwise(3, _fma, "x * y + z, rounded once where the CPU can")
decay = _elementwise(2, _exp2_of_product, "2 ** (dt * A2): exp(dt * A) for A2 = A * log2(e)")
log_one_plus_exp = _elementwise(1, _build_log_one_plus_exp, "softplus: log(1 + exp(x)), relative error below 4e-7")
sigmoid = _elementwise(1, _build_sigmoid, "1 / (1 + exp(-x))")


@_operation
def load(typingctx: Any, w: Any, address: Any, position: Any) -> Any:
    """W neighbouring floats from `position` on."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        return _load_at(builder, _pointer(builder, args[1], args[2]), signature.return_type.width)

    return Vector(w.count)(w, types.int64, types.int64), codegen


@_operation
def store(typingctx: Any, address: Any, position: Any, value: Any) -> Any:
    """Write the lanes of `value` from `position` on."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        _store_at(builder, _pointer(builder, args[0], args[1]), args[2])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, value), codegen


@_operation
def peek(typingctx: Any, address: Any, position: Any) -> Any:
    """The single float at `position`."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        return builder.load(_pointer(builder, args[0], args[1]))

    return types.float32(types.int64, types.int64), codegen


@_operation
def peek_index(typingctx: Any, address: Any, position: Any) -> Any:
    """The int64 at `position`, counted in int64 values."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        return builder.load(builder.gep(builder.inttoptr(args[0], _INT64.as_pointer()), [args[1]]))

    return types.int64(types.int64, types.int64), codegen


@_operation
def poke(typingctx: Any, address: Any, position: Any, value: Any) -> Any:
    """Write the single float `value` at `position`."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        builder.store(args[2], _pointer(builder, args[0], args[1]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float32), codegen


@_operation
def prefetch(typingctx: Any, address: Any, position: Any) -> Any:
    """Ask for the cache line at `position` in the second-level cache; harmless where there is no memory."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        pointer = builder.bitcast(_pointer(builder, args[0], args[1]), ir.IntType(8).as_pointer())
        hints = [ir.Constant(_INT32, hint) for hint in (0, 2, 1)]  # to read, second level, data
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, _INT32, _INT32, _INT32])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0"), [pointer, *hints])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@_operation
def spread(typingctx: Any, w: Any, address: Any, position: Any) -> Any:
    """The float at `position` in every lane."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        value = builder.load(_pointer(builder, args[1], args[2]))
        return _in_every_lane(builder, value, signature.return_type.width)

    return Vector(w.count)(w, types.int64, types.int64), codegen


@_operation
def splat(typingctx: Any, w: Any, value: Any) -> Any:
    """The number `value` in every lane."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        return _in_every_lane(builder, args[1], signature.return_type.width)

    return Vector(w.count)(w, types.float32), codegen


def _in_every_lane(builder: ir.IRBuilder, value: ir.Value, width: int) -> ir.Value:
    empty = ir.Constant(ir.VectorType(_FLOAT, width), ir.Undefined)
    return _shuffle(builder, builder.insert_element(empty, value, ir.Constant(_INT32, 0)), empty, [0] * width)


@_operation
def transpose_block(
    typingctx: Any, w: Any, source: Any, position: Any, stride: Any, target: Any, target_at: Any, target_stride: Any
) -> Any:
    """Write the transpose of W rows of W floats; the rows of `source` and of `target` lie a stride apart."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        width = len(signature.args[0])
        rows = []
        for i in range(width):
            place = builder.add(args[2], builder.mul(args[3], ir.Constant(_INT64, i)))
            rows.append(_load_at(builder, _pointer(builder, args[1], place), width))
        for i, column in enumerate(_transposed(builder, rows)):
            place = builder.add(args[5], builder.mul(args[6], ir.Constant(_INT64, i)))
            _store_at(builder, _pointer(builder, args[4], place), column)
        return context.get_dummy_value()

    return types.void(w, *(types.int64,) * 6), codegen


def _transposed(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """Swap ever smaller squares across the diagonal: log2(W) rounds of W shuffles."""
    width = len(rows)
    step = width // 2
    while step:
        upper = [lane if not lane & step else width + lane - step for lane in range(width)]
        lower = [lane + step if not lane & step else width + lane for lane in range(width)]
        for i in range(width):
            if not i & step:
                x, y = rows[i], rows[i + step]
                rows[i], rows[i + step] = _shuffle(builder, x, y, upper), _shuffle(builder, x, y, lower)
        step //= 2
    return rows


@_operation
def row_sums(typingctx: Any, w: Any, address: Any, position: Any) -> Any:
    """W neighbouring rows of W floats: lane i of the result is the sum of row i."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, args: Sequence[ir.Value]) -> ir.Value:
        width = signature.return_type.width
        data = _pointer(builder, args[1], args[2])
        rows = [_load_at(builder, builder.gep(data, [ir.Constant(_INT64, i * width)]), width) for i in range(width)]
        return _summed(builder, rows)

    return Vector(w.count)(w, types.int64, types.int64), codegen


def _summed(builder: ir.IRBuilder, rows: list[ir.Value]) -> ir.Value:
    """A butterfly: half of row i and half of row i + step share a vector, until one vector holds all sums."""
    width = len(rows)
    step = width // 2
    while step:
        stay = [lane if not lane & step else width + lane for lane in range(width)]
        move = [lane + step if not lane & step else width + lane - step for lane in range(width)]
        rows = [
            builder.fadd(_shuffle(builder, x, y, stay), _shuffle(builder, x, y, move))
            for x, y in zip(rows[:step], rows[step:], strict=True)
        ]
        step //= 2
    return rows[0]

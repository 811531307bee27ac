"""Blocks and tiles of the CPU scan: where a task's data lies and how it comes into and out of the vector layout.

A *block* is W neighbouring channels of one group, one a lane; the last block of a group may have fewer and is filled
up with zeros. A *tile* is `TILE` steps of a block, stored step by step: the vector of step t starts at ``t * W``. Tiles
are small enough to stay in the first-level cache while all states pass over them.
"""

# numba gives the types of kernel arguments.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

from mambaseg.ops._simd import (
    add,
    load,
    log_one_plus_exp,
    mul,
    peek,
    peek_index,
    poke,
    prefetch,
    row_sums,
    sigmoid,
    splat,
    store,
    transpose_block,
)

__all__ = [
    "TILE",
    "add_row_sums",
    "cached",
    "copy",
    "fill",
    "gate_tile",
    "gather_lines",
    "gather_tile",
    "inlined",
    "jit",
    "locate_block",
    "prefetch_rows",
    "prefetch_tile",
    "prepare_tile",
    "read_tile",
    "scatter_lines",
    "scatter_tile",
    "skip_tile",
    "tile_at",
    "write_tile",
]

TILE = 64  # steps; a multiple of every width
_LINE = 16  # floats of a cache line
_KERNEL_SOURCES = ("_simd.py", "_tiles.py", "_forward.py", "_backward.py", "_cross_forward.py", "_cross_backward.py")

# Divisors here are never zero; the Python error model would add a branch to each division.
jit: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(nogil=True, error_model="numpy")
# For what stands in inner loops and LLVM would rather call.
inlined: Callable[[Callable[..., Any]], Callable[..., Any]] = numba.njit(
    nogil=True, error_model="numpy", forceinline=True
)


def cached(kernel: Any) -> Any:
    """The kernel as an entry point whose machine code is kept on disk between processes.

    numba looks only at the file of the entry point to tell whether kept code is still good. The name that it is kept
    under therefore carries a digest of all kernel sources. Where no folder can be written, the code is not kept.
    """
    folder = Path(__file__).parent
    sources = b"".join((folder / name).read_bytes() for name in _KERNEL_SOURCES)
    function = kernel.py_func
    function.__qualname__ = f"{function.__name__}_{hashlib.sha256(sources).hexdigest()[:12]}"
    try:
        return numba.njit(function, nogil=True, error_model="numpy", cache=True)
    except RuntimeError:  # numba: no locator available
        return kernel


@inlined
def tile_at(w, scratch, i):
    """Address of tile `i` of the scratch; the odd line keeps one step of all tiles out of one set of the cache."""
    return scratch + 4 * i * (TILE + 1) * len(w)


@inlined
def copy(w, source, position, target, target_position, size):
    """Copy `size` floats, a multiple of W."""
    for i in range(0, size, len(w)):
        store(target, target_position + i, load(w, source, position + i))


@inlined
def fill(w, target, position, size, value):
    """Write `value` to `size` floats, a multiple of W."""
    for i in range(0, size, len(w)):
        store(target, position + i, splat(w, value))


@jit
def locate_block(w, block, per_group):
    """Group, first channel and number of channels of a block; a block never crosses a group."""
    width = len(w)
    blocks_per_group = (per_group + width - 1) // width
    group = block // blocks_per_group
    offset = (block % blocks_per_group) * width
    return group, group * per_group + offset, min(width, per_group - offset)


@jit
def read_tile(w, source, strides, b, channel, t0, lanes, steps, tile):
    """Copy `lanes` channels and `steps` steps of a (batch, channel, step) sequence into a tile."""
    width = len(w)
    by_lane, by_step = strides[1], strides[2]
    start = b * strides[0] + channel * by_lane + t0 * by_step
    done = 0
    if lanes == width and by_step == 1:
        done = steps - steps % width
        for t in range(0, done, width):
            transpose_block(w, source, start + t, by_lane, tile, t * width, width)
    elif lanes == width and by_lane == 1:
        done = steps
        for t in range(steps):
            store(tile, t * width, load(w, source, start + t * by_step))
    for t in range(done, steps):
        for lane in range(lanes):
            poke(tile, t * width + lane, peek(source, start + lane * by_lane + t * by_step))
        for lane in range(lanes, width):
            poke(tile, t * width + lane, np.float32(0.0))


@jit
def write_tile(w, tile, target, strides, b, channel, t0, lanes, steps):
    """The way back of `read_tile`."""
    width = len(w)
    by_lane, by_step = strides[1], strides[2]
    start = b * strides[0] + channel * by_lane + t0 * by_step
    done = 0
    if lanes == width and by_step == 1:
        done = steps - steps % width
        for t in range(0, done, width):
            transpose_block(w, tile, t * width, width, target, start + t, by_lane)
    elif lanes == width and by_lane == 1:
        done = steps
        for t in range(steps):
            store(target, start + t * by_step, load(w, tile, t * width))
    for t in range(done, steps):
        for lane in range(lanes):
            poke(target, start + lane * by_lane + t * by_step, peek(tile, t * width + lane))


@jit
def gather_tile(w, source, start, stride, order, first, lanes, steps, tile):
    """Copy `lanes` channels, neighbours in memory, of the pixels ``order[first:first + steps]`` into a tile."""
    width = len(w)
    for t in range(steps):
        at = start + peek_index(order, first + t) * stride
        if lanes == width:
            store(tile, t * width, load(w, source, at))
        else:
            store(tile, t * width, splat(w, np.float32(0.0)))
            for lane in range(lanes):
                poke(tile, t * width + lane, peek(source, at + lane))


@jit
def scatter_tile(w, tile, target, start, stride, order, first, lanes, steps, fresh):
    """Add a tile to where `gather_tile` would have read it; with `fresh`, write instead of add."""
    width = len(w)
    for t in range(steps):
        at = start + peek_index(order, first + t) * stride
        if lanes == width:
            value = load(w, tile, t * width)
            store(target, at, value if fresh else add(load(w, target, at), value))
        else:
            for lane in range(lanes):
                before = np.float32(0.0) if fresh else peek(target, at + lane)
                poke(target, at + lane, before + peek(tile, t * width + lane))


@jit
def gather_lines(w, source, start, stride, order, first, size, steps, lines, by_line):
    """Copy `size` neighbouring floats of each of the pixels ``order[first:first + steps]`` to lines `by_line` apart."""
    width = len(w)
    for t in range(steps):
        at, to = start + peek_index(order, first + t) * stride, t * by_line
        if size >= width:
            for i in range(0, size - width, width):
                store(lines, to + i, load(w, source, at + i))
            store(lines, to + size - width, load(w, source, at + size - width))  # may overlap the one before
        else:
            for i in range(size):
                poke(lines, to + i, peek(source, at + i))


@jit
def scatter_lines(w, lines, by_line, target, start, stride, order, first, size, steps, fresh):
    """Add lines to where `gather_lines` would have read them; with `fresh`, write instead of add."""
    width = len(w)
    whole = size - size % width
    for t in range(steps):
        at, to = start + peek_index(order, first + t) * stride, t * by_line
        for i in range(0, whole, width):
            value = load(w, lines, to + i)
            store(target, at + i, value if fresh else add(load(w, target, at + i), value))
        for i in range(whole, size):
            before = np.float32(0.0) if fresh else peek(target, at + i)
            poke(target, at + i, before + peek(lines, to + i))


@jit
def prefetch_rows(source, start, by_row, by_step, n_rows, steps):
    """Ask for what the next tile will read: so many distant rows are too much for the CPU's own prefetcher."""
    if by_step == 1:
        for row in range(n_rows):
            for t in range(0, steps, _LINE):
                prefetch(source, start + row * by_row + t)
    elif by_row == 1:
        for t in range(steps):
            prefetch(source, start + t * by_step)


@jit
def prefetch_tile(source, strides, b, channel, t0, lanes, steps):
    """Ask for what `read_tile` will read."""
    start = b * strides[0] + channel * strides[1] + t0 * strides[2]
    prefetch_rows(source, start, strides[1], strides[2], lanes, steps)


@jit
def prepare_tile(w, steps, softplus, u, delta, dt, dtu, bias, block):
    """Write the step size to `dt` (which may be `delta` itself) and ``dt * u`` to `dtu`."""
    width = len(w)
    shift = load(w, bias, block * width)
    for t in range(0, steps * width, width):
        step = add(load(w, delta, t), shift)
        if softplus:
            step = log_one_plus_exp(step)
        store(dt, t, step)
        store(dtu, t, mul(step, load(w, u, t)))


@jit
def skip_tile(w, steps, y, u, D, block):
    """Start `y` with ``D * u``."""
    width = len(w)
    skip = load(w, D, block * width)
    for t in range(0, steps * width, width):
        store(y, t, mul(skip, load(w, u, t)))


@jit
def gate_tile(w, steps, y, z):
    """Multiply `y` by ``z * sigmoid(z)``."""
    width = len(w)
    for t in range(0, steps * width, width):
        gate = load(w, z, t)
        store(y, t, mul(load(w, y, t), mul(gate, sigmoid(gate))))


@inlined
def add_row_sums(w, rows, position, n_rows, fresh, target, target_position):
    """Add the sum over lanes of each of `n_rows` rows (at most W) to neighbouring floats of `target`.

    With `fresh`, write instead of add: what stood there is not looked at.
    """
    sums = row_sums(w, rows, position)
    if n_rows == len(w):
        if not fresh:
            sums = add(load(w, target, target_position), sums)
        store(target, target_position, sums)
    else:
        store(rows, position, sums)
        for i in range(n_rows):
            before = np.float32(0.0) if fresh else peek(target, target_position + i)
            poke(target, target_position + i, before + peek(rows, position + i))

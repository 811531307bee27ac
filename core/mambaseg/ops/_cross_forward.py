"""Forward kernel of the 2-D scan: one task is one block of channels of one batch element, in all four directions.

The map is read where it lies: `order`, (direction, step), says which pixel is read at which step. A pixel's channels
are neighbours in memory, a cache line a block, so that no order costs more than another. A task adds its four outputs
in one place, which no other task touches. What the input decides (step size, B and C) comes as a line for each pixel
and direction: the factors of the step size, then B, then C.
"""

# numba gives the types of kernel arguments.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import numpy as np

from mambaseg.ops._forward import DT, DTU, FORWARD_TILES, U, Y, advance
from mambaseg.ops._simd import fma, load, peek_index, prefetch, splat, spread, store
from mambaseg.ops._tiles import (
    TILE,
    copy,
    fill,
    gather_lines,
    gather_tile,
    jit,
    prepare_tile,
    scatter_tile,
    skip_tile,
    tile_at,
)
from mambaseg.ops.cross_scan import N_DIRECTIONS

__all__ = ["cross_forward_tasks", "line_stride", "load_steps", "locate", "near_lines", "prefetch_pixels"]

_ZERO = np.float32(0.0)
_LINE = 16  # floats of a cache line


@jit
def cross_forward_tasks(w, first, last, shape, keep_starts, inputs, out, starts, scratch):
    """Run tasks `first` to `last` - 1.

    `shape` is (batch, channels, pixels, states, rank, strides (batch, pixel) of u). `inputs` are the addresses of order
    (int64), u (batch, pixel, channel), lines (batch, pixel, direction, rank + 2 states), A2 (row, state, lane), rates
    (row, rank, lane), D and bias (row, lane); a row is a block of one direction. Written are out (batch, pixel,
    channel) and, if kept, starts (batch, row, tile, state, lane): the states at the start of each tile.
    """
    width = len(w)
    blocks = (shape[1] + width - 1) // width
    for task in range(first, last):
        for direction in range(N_DIRECTIONS):
            _scan(w, task // blocks, task % blocks, direction, shape, keep_starts, inputs, out, starts, scratch)


@jit
def locate(w, b, block, direction, shape):
    """Channels of a block, its row, its row counted over the batch, and where it begins in u, lines and the output."""
    width = len(w)
    _, channels, length, n_states, rank, by_batch, _ = shape
    blocks = (channels + width - 1) // width
    channel, row = block * width, direction * blocks + block
    u_at, out_at = b * by_batch + channel, b * length * channels + channel
    lines_at = (b * length * N_DIRECTIONS + direction) * (rank + 2 * n_states)
    return min(width, channels - channel), row, b * N_DIRECTIONS * blocks + row, u_at, lines_at, out_at


@jit
def line_stride(w, n_states, rank):
    """Distance of the lines of two steps in the scratch; they end on a whole vector."""
    width = len(w)
    return (rank + 2 * n_states + width - 1) // width * width


@jit
def near_lines(w, scratch, n_tiles, n_states):
    """Address of the lines of a tile, step by step; they follow the tiles and a vector for each state."""
    return tile_at(w, scratch, n_tiles) + 4 * n_states * len(w)


@jit
def _scan(w, b, block, direction, shape, keep_starts, inputs, out, starts, scratch):
    """One direction of one block, tile after tile."""
    _, channels, length, n_states, rank, _, _ = shape
    where = locate(w, b, block, direction, shape)
    lanes, row, batch_row, _, _, out_at = where
    n_tiles = (length + TILE - 1) // TILE
    size = n_states * len(w)
    by_step = line_stride(w, n_states, rank)
    h, near = tile_at(w, scratch, FORWARD_TILES), near_lines(w, scratch, FORWARD_TILES, n_states)
    fill(w, h, 0, size, _ZERO)
    for tile in range(n_tiles):
        first, steps = direction * length + tile * TILE, min(TILE, length - tile * TILE)
        if keep_starts:
            copy(w, h, 0, starts, (batch_row * n_tiles + tile) * size, size)
        _load_tile(w, where, first, steps, shape, inputs, near, scratch)
        after = min(TILE, length - tile * TILE - steps)
        prefetch_pixels(where, first + steps, after, shape, inputs)
        for n in range(0, n_states, 4):
            advance(
                w, n, steps, scratch, inputs[3], row * size, near, rank, 1, by_step, near, rank + n_states, 1, by_step
            )
        y = tile_at(w, scratch, Y)
        scatter_tile(w, y, out, out_at, channels, inputs[0], first, lanes, steps, direction == 0)


@jit
def _load_tile(w, where, first, steps, shape, inputs, near, scratch):
    """Fill the lines, the tiles u, dt, dt * u and the y that starts with the skip."""
    _, _, _, n_states, rank, _, by_pixel = shape
    lanes, row, _, u_at, lines_at, _ = where
    order, u, lines, _, rates, D, bias = inputs
    line, by_step = rank + 2 * n_states, line_stride(w, n_states, rank)
    us, dt = tile_at(w, scratch, U), tile_at(w, scratch, DT)
    gather_lines(w, lines, lines_at, N_DIRECTIONS * line, order, first, line, steps, near, by_step)
    gather_tile(w, u, u_at, by_pixel, order, first, lanes, steps, us)
    load_steps(w, steps, near, by_step, rank, rates, row * rank * len(w), dt)
    prepare_tile(w, steps, 1, us, dt, dt, tile_at(w, scratch, DTU), bias, row)
    skip_tile(w, steps, tile_at(w, scratch, Y), us, D, row)


@jit
def load_steps(w, steps, lines, by_step, rank, rates, rates_at, delta):
    """Write the step sizes of a block, before bias and softplus: the factors of each step, weighted by `rates`.

    Four steps at once; what comes after the last step of a tile is never read.
    """
    width = len(w)
    for t in range(0, steps, 4):
        sum0, sum1, sum2, sum3 = splat(w, _ZERO), splat(w, _ZERO), splat(w, _ZERO), splat(w, _ZERO)
        at = t * by_step
        for r in range(rank):
            rate = load(w, rates, rates_at + r * width)
            sum0 = fma(rate, spread(w, lines, at + r), sum0)
            sum1 = fma(rate, spread(w, lines, at + by_step + r), sum1)
            sum2 = fma(rate, spread(w, lines, at + 2 * by_step + r), sum2)
            sum3 = fma(rate, spread(w, lines, at + 3 * by_step + r), sum3)
        store(delta, t * width, sum0)
        store(delta, (t + 1) * width, sum1)
        store(delta, (t + 2) * width, sum2)
        store(delta, (t + 3) * width, sum3)


@jit
def prefetch_pixels(where, first, steps, shape, inputs):
    """Ask for what the next tile will read of u and of the lines: the orders jump, the CPU cannot guess."""
    _, _, _, n_states, rank, _, by_pixel = shape
    _, _, _, u_at, lines_at, _ = where
    order, u, lines = inputs[:3]
    line = rank + 2 * n_states
    for t in range(first, first + steps):
        pixel = peek_index(order, t)
        prefetch(u, u_at + pixel * by_pixel)
        for i in range(0, line, _LINE):
            prefetch(lines, lines_at + pixel * N_DIRECTIONS * line + i)

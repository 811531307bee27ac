"""Backward kernel of the 2-D scan: the map is read, and its gradient added up, where it lies; see `_cross_forward`."""

# numba gives the types of kernel arguments.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import numpy as np

from mambaseg.ops._backward import (
    BACKWARD_TILES,
    DECAYS,
    DT,
    DTU,
    GDT,
    GDTU,
    GY,
    RAW,
    U,
    finish_tile,
    replay,
    reverse,
)
from mambaseg.ops._cross_forward import line_stride, load_steps, locate, near_lines, prefetch_pixels
from mambaseg.ops._simd import add, fma, load, splat, spread, store, transpose_block
from mambaseg.ops._tiles import (
    TILE,
    fill,
    gather_lines,
    gather_tile,
    jit,
    prepare_tile,
    scatter_lines,
    scatter_tile,
    tile_at,
)
from mambaseg.ops.cross_scan import N_DIRECTIONS

__all__ = ["cross_backward_tasks"]

_ZERO = np.float32(0.0)


@jit
def cross_backward_tasks(w, first, last, shape, parts, inputs, grad_out, starts, grads, scratch):
    """Run tasks `first` to `last` - 1; a task is one of the `parts` of the blocks of one batch element.

    `shape` and `inputs` are those of the forward kernel, `starts` what it kept; grad_out is (batch, pixel, channel).
    `grads` are the addresses of du (batch, pixel, channel), dlines (batch, part, pixel, direction, rank + 2 states),
    both in any state, and of dA (batch, row, state, lane), drates (batch, row, rank, lane), dD and dbias (batch, row,
    lane), all zero at the start.
    """
    width = len(w)
    blocks = (shape[1] + width - 1) // width
    for task in range(first, last):
        b, part = task // parts, task % parts
        start = part * blocks // parts
        for block in range(start, (part + 1) * blocks // parts):
            for direction in range(N_DIRECTIONS):
                fresh = block == start
                _reverse_scan(w, b, block, direction, task, fresh, shape, inputs, grad_out, starts, grads, scratch)


@jit
def _reverse_scan(w, b, block, direction, task, fresh, shape, inputs, grad_out, starts, grads, scratch):
    """One direction of one block, last tile first; the carry holds ``a * g`` of the step after the tile."""
    width = len(w)
    _, _, length, n_states, rank, _, _ = shape
    where = locate(w, b, block, direction, shape)
    _, row, batch_row, _, _, _ = where
    n_tiles = (length + TILE - 1) // TILE
    by_step = line_stride(w, n_states, rank)
    near = near_lines(w, scratch, BACKWARD_TILES, n_states)
    dnear = near + 4 * TILE * by_step  # gradients of the near lines, transposed: (factor or state, step)
    fill(w, tile_at(w, scratch, BACKWARD_TILES), 0, n_states * width, _ZERO)
    for tile in range(n_tiles - 1, -1, -1):
        first, steps = direction * length + tile * TILE, min(TILE, length - tile * TILE)
        _load_tile(w, where, first, steps, shape, inputs, grad_out, near, scratch)
        before = min(TILE, tile * TILE)
        prefetch_pixels(where, first - before, before, shape, inputs)
        for n in range(0, n_states, 2):
            A2_at, B_at, C_at = (row * n_states + n) * width, rank + n, rank + n_states + n
            replay(
                w, steps, 0, scratch, starts, ((batch_row * n_tiles + tile) * n_states + n) * width, inputs[3], A2_at,
                near, B_at, 1, by_step, near, C_at, 1, by_step, dnear, C_at * TILE, TILE, True,
            )  # fmt: skip
            reverse(
                w, steps, scratch, n, inputs[3], A2_at, near, B_at, 1, by_step, near, C_at, 1, by_step,
                grads[2], (batch_row * n_states + n) * width, dnear, B_at * TILE, TILE, True,
            )  # fmt: skip
        finish_tile(w, steps, 1, scratch, inputs[5], inputs[6], row, grads[4], grads[5], batch_row)
        rates_at, drates_at = row * rank * width, batch_row * rank * width
        _reverse_steps(w, steps, near, by_step, rank, inputs[4], rates_at, grads[3], drates_at, dnear, scratch)
        _store_tile(w, where, direction, task, fresh, first, steps, shape, inputs[0], grads, near, dnear, scratch)


@jit
def _load_tile(w, where, first, steps, shape, inputs, grad_out, near, scratch):
    """Lines, u, gradient of y, raw step size, dt, dt * u; zeros for the gradients of dt and dt * u."""
    width = len(w)
    _, channels, _, n_states, rank, _, by_pixel = shape
    lanes, row, _, u_at, lines_at, out_at = where
    order, u, lines, _, rates, _, bias = inputs
    line, by_step = rank + 2 * n_states, line_stride(w, n_states, rank)
    us, raw = tile_at(w, scratch, U), tile_at(w, scratch, RAW)
    gather_lines(w, lines, lines_at, N_DIRECTIONS * line, order, first, line, steps, near, by_step)
    gather_tile(w, u, u_at, by_pixel, order, first, lanes, steps, us)
    gather_tile(w, grad_out, out_at, channels, order, first, lanes, steps, tile_at(w, scratch, GY))
    load_steps(w, steps, near, by_step, rank, rates, row * rank * width, raw)
    prepare_tile(w, steps, 1, us, raw, tile_at(w, scratch, DT), tile_at(w, scratch, DTU), bias, row)
    fill(w, tile_at(w, scratch, GDT), 0, steps * width, _ZERO)
    fill(w, tile_at(w, scratch, GDTU), 0, steps * width, _ZERO)


@jit
def _store_tile(w, where, direction, task, fresh, first, steps, shape, order, grads, near, dnear, scratch):
    """Add the gradients of u and of the lines to those of other directions and blocks."""
    width = len(w)
    _, channels, length, n_states, rank, _, _ = shape
    lanes, _, _, _, _, out_at = where
    line, by_step = rank + 2 * n_states, line_stride(w, n_states, rank)
    by_line = N_DIRECTIONS * line
    scatter_tile(w, tile_at(w, scratch, U), grads[0], out_at, channels, order, first, lanes, steps, direction == 0)
    for chunk in range(0, steps, width):
        for i in range(0, line, width):
            transpose_block(w, dnear, i * TILE + chunk, TILE, near, chunk * by_step + i, by_step)
    lines_at = task * length * by_line + direction * line
    scatter_lines(w, near, by_step, grads[1], lines_at, by_line, order, first, line, steps, fresh)


@jit
def _reverse_steps(w, steps, near, by_step, rank, rates, rates_at, drates, drates_at, dnear, scratch):
    """From the gradients of the step sizes (in the tile dt) those of the factors and of the rates."""
    width = len(w)
    gdelta, square = tile_at(w, scratch, DT), tile_at(w, scratch, DECAYS)
    fours = steps - steps % 4
    for r in range(rank):
        sum0, sum1, sum2, sum3 = splat(w, _ZERO), splat(w, _ZERO), splat(w, _ZERO), splat(w, _ZERO)
        for t in range(0, fours, 4):
            at, factor = t * width, t * by_step + r
            sum0 = fma(load(w, gdelta, at), spread(w, near, factor), sum0)
            sum1 = fma(load(w, gdelta, at + width), spread(w, near, factor + by_step), sum1)
            sum2 = fma(load(w, gdelta, at + 2 * width), spread(w, near, factor + 2 * by_step), sum2)
            sum3 = fma(load(w, gdelta, at + 3 * width), spread(w, near, factor + 3 * by_step), sum3)
        for t in range(fours, steps):
            sum0 = fma(load(w, gdelta, t * width), spread(w, near, t * by_step + r), sum0)
        total = add(add(sum0, sum1), add(sum2, sum3))
        store(drates, drates_at + r * width, add(load(w, drates, drates_at + r * width), total))
    for chunk in range(0, steps, width):
        transpose_block(w, gdelta, chunk * width, width, square, 0, width)  # a step a lane
        for r in range(rank):
            total = splat(w, _ZERO)
            for lane in range(width):
                total = fma(spread(w, rates, rates_at + r * width + lane), load(w, square, lane * width), total)
            store(dnear, r * TILE + chunk, total)

"""Backward kernel of the CPU scan: tiles in reverse, each first run forward again from its stored start.

With ``g_t`` the gradient of state ``h_t``: ``g_t = a_(t+1) * g_(t+1) + C_t * gy_t``, where ``a_t = exp(dt_t * A)`` and
``gy`` is the gradient of y. From it follow dB (sum of ``g * dt * u`` over the channels of a group), dC (sum of
``h * gy``), and through ``g_t * a_t * h_(t-1)`` the gradients of A and dt. Sums over channels go through a butterfly of
the lanes into a buffer of each part of a group, so no two tasks write to one place and the order of summation is fixed.
"""

# numba gives the types of kernel arguments.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import math

import numpy as np

from mambaseg.ops._simd import add, decay, fma, load, mul, sigmoid, splat, spread, store
from mambaseg.ops._tiles import (
    TILE,
    add_row_sums,
    copy,
    fill,
    gate_tile,
    jit,
    locate_block,
    prefetch_rows,
    prefetch_tile,
    prepare_tile,
    read_tile,
    skip_tile,
    tile_at,
    write_tile,
)

__all__ = [
    "BACKWARD_TILES",
    "DECAYS",
    "DT",
    "DTU",
    "GDT",
    "GDTU",
    "GY",
    "RAW",
    "U",
    "backward_tasks",
    "finish_tile",
    "replay",
    "reverse",
]

_LN2 = np.float32(math.log(2.0))
_ONE = np.float32(1.0)
_ZERO = np.float32(0.0)

# Tiles of the scratch. DECAYS and DECAYED are a tile for each of the two states that go through together.
U, RAW, DT, DTU, GY, Y, GDT, GDTU, DECAYS, DECAYED, LINES = 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12
BACKWARD_TILES = 13  # the carry of a block follows them


@jit
def backward_tasks(w, first, last, shape, flags, rows, maps, inputs, states, grads, scratch):
    """Run tasks `first` to `last` - 1; a task is a part of the blocks of one group of one batch element.

    `shape` is (batch, groups, channels of a group, length, states, parts of a group), `flags` (softplus, gated); `rows`
    holds the strides of u, delta, z, grad_out, du, ddelta, dz; `maps` those of B and C. `inputs` are the addresses of
    u, delta, z, grad_out, A2, B, C, D and bias, `states` those of the starts of the tiles and the gradient of the last
    state, `grads` those of du, ddelta, dz, dA, dB, dC, dD and dbias; dA is (batch, block, state, lane), dD and dbias
    (batch, block, lane), all three zero at the start; dB and dC are (batch, group, part, state, step), in any state.
    """
    _, groups, per_group, _, n_states, parts = shape
    width = len(w)
    blocks = (per_group + width - 1) // width
    size = n_states * width
    for task in range(first, last):
        b, group, part = task // (groups * parts), (task // parts) % groups, task % parts
        start = part * blocks // parts
        for k in range(start, (part + 1) * blocks // parts):
            block = group * blocks + k
            copy(w, states[1], (b * groups * blocks + block) * size, tile_at(w, scratch, BACKWARD_TILES), 0, size)
            _reverse_block(w, b, block, task, k == start, shape, flags, rows, maps, inputs, states[0], grads, scratch)


@jit
def _reverse_block(w, b, block, task, fresh, shape, flags, rows, maps, inputs, starts, grads, scratch):
    """All tiles of a block, last first; the carry holds ``a * g`` of the step after the tile."""
    width = len(w)
    _, groups, per_group, length, n_states, _ = shape
    group, channel, lanes = locate_block(w, block, per_group)
    row = b * groups * ((per_group + width - 1) // width) + block
    n_tiles = (length + TILE - 1) // TILE
    (_, _, Bn, Bt), (_, _, Cn, Ct) = maps
    B_at, C_at = b * maps[0][0] + group * maps[0][1], b * maps[1][0] + group * maps[1][1]
    for tile in range(n_tiles - 1, -1, -1):
        t0 = tile * TILE
        steps = min(TILE, length - t0)
        _load_tile(w, b, block, channel, lanes, t0, steps, flags, rows, inputs, scratch)
        before = min(TILE, t0)
        prefetch_rows(inputs[5], B_at + (t0 - before) * Bt, Bn, Bt, n_states, before)
        prefetch_rows(inputs[6], C_at + (t0 - before) * Ct, Cn, Ct, n_states, before)
        for n in range(0, n_states, 2):
            A2_at = (block * n_states + n) * width
            B_n, C_n = B_at + n * Bn + t0 * Bt, C_at + n * Cn + t0 * Ct
            sums_at = (task * n_states + n) * length + t0
            replay(
                w, steps, flags[1], scratch, starts, ((row * n_tiles + tile) * n_states + n) * width, inputs[4], A2_at,
                inputs[5], B_n, Bn, Bt, inputs[6], C_n, Cn, Ct, grads[5], sums_at, length, fresh,
            )  # fmt: skip
            reverse(
                w, steps, scratch, n, inputs[4], A2_at, inputs[5], B_n, Bn, Bt, inputs[6], C_n, Cn, Ct,
                grads[3], (row * n_states + n) * width, grads[4], sums_at, length, fresh,
            )  # fmt: skip
        finish_tile(w, steps, flags[0], scratch, inputs[7], inputs[8], block, grads[6], grads[7], row)
        _store_tile(w, b, channel, lanes, t0, steps, flags, rows, inputs, grads, scratch)


@jit
def _load_tile(w, b, block, channel, lanes, t0, steps, flags, rows, inputs, scratch):
    """u, raw delta, dt, dt * u, gradient of y, y = D * u to begin with, zeros for the gradients of dt and dt * u."""
    u, raw, gy = tile_at(w, scratch, U), tile_at(w, scratch, RAW), tile_at(w, scratch, GY)
    read_tile(w, inputs[0], rows[0], b, channel, t0, lanes, steps, u)
    read_tile(w, inputs[1], rows[1], b, channel, t0, lanes, steps, raw)
    read_tile(w, inputs[3], rows[3], b, channel, t0, lanes, steps, gy)
    before = min(TILE, t0)
    for i in range(4):
        if i != 2 or flags[1]:
            prefetch_tile(inputs[i], rows[i], b, channel, t0 - before, lanes, before)
    prepare_tile(w, steps, flags[0], u, raw, tile_at(w, scratch, DT), tile_at(w, scratch, DTU), inputs[8], block)
    if flags[1]:
        z = tile_at(w, scratch, GDT)  # free until the states begin
        read_tile(w, inputs[2], rows[2], b, channel, t0, lanes, steps, z)
        gate_tile(w, steps, gy, z)
        skip_tile(w, steps, tile_at(w, scratch, Y), u, inputs[7], block)
    fill(w, tile_at(w, scratch, GDT), 0, steps * len(w), _ZERO)
    fill(w, tile_at(w, scratch, GDTU), 0, steps * len(w), _ZERO)


@jit
def replay(
    w, steps, gated, scratch, starts, start_at, A2, A2_at, B, B_at, Bn, Bt, C, C_at, Cn, Ct, dC, dC_at, length, fresh
):
    """Run two states forward through a tile, keep ``a_t`` and ``a_t * h_(t-1)`` of each step, and add up dC."""
    width = len(w)
    dt, dtu, gy, y = (
        tile_at(w, scratch, DT), tile_at(w, scratch, DTU), tile_at(w, scratch, GY), tile_at(w, scratch, Y)
    )  # fmt: skip
    decays0, decays1 = tile_at(w, scratch, DECAYS), tile_at(w, scratch, DECAYS + 1)
    decayed0, decayed1 = tile_at(w, scratch, DECAYED), tile_at(w, scratch, DECAYED + 1)
    lines = tile_at(w, scratch, LINES)
    a0, a1 = load(w, A2, A2_at), load(w, A2, A2_at + width)
    h0, h1 = load(w, starts, start_at), load(w, starts, start_at + width)
    for chunk in range(0, steps, width):
        n_rows = min(width, steps - chunk)
        for row in range(n_rows):
            t = chunk + row
            at = t * width
            step, entry, gradient = load(w, dt, at), load(w, dtu, at), load(w, gy, at)
            decay0, decay1 = decay(step, a0), decay(step, a1)
            kept0, kept1 = mul(decay0, h0), mul(decay1, h1)
            h0 = fma(entry, spread(w, B, B_at + t * Bt), kept0)
            h1 = fma(entry, spread(w, B, B_at + Bn + t * Bt), kept1)
            store(decays0, at, decay0)
            store(decays1, at, decay1)
            store(decayed0, at, kept0)
            store(decayed1, at, kept1)
            store(lines, row * width, mul(h0, gradient))
            store(lines, (width + row) * width, mul(h1, gradient))
            if gated:
                read = fma(h0, spread(w, C, C_at + t * Ct), load(w, y, at))
                store(y, at, fma(h1, spread(w, C, C_at + Cn + t * Ct), read))
        add_row_sums(w, lines, 0, n_rows, fresh, dC, dC_at + chunk)
        add_row_sums(w, lines, width * width, n_rows, fresh, dC, dC_at + length + chunk)


@jit
def reverse(w, steps, scratch, n, A2, A2_at, B, B_at, Bn, Bt, C, C_at, Cn, Ct, dA, dA_at, dB, dB_at, length, fresh):
    """Take the gradient of two states backwards through a tile; add up dB, dA and the gradients of dt and dt * u."""
    width = len(w)
    dt, dtu, gy = tile_at(w, scratch, DT), tile_at(w, scratch, DTU), tile_at(w, scratch, GY)
    gdt, gdtu = tile_at(w, scratch, GDT), tile_at(w, scratch, GDTU)
    decays0, decays1 = tile_at(w, scratch, DECAYS), tile_at(w, scratch, DECAYS + 1)
    decayed0, decayed1 = tile_at(w, scratch, DECAYED), tile_at(w, scratch, DECAYED + 1)
    lines, carry = tile_at(w, scratch, LINES), tile_at(w, scratch, BACKWARD_TILES)
    a0, a1 = load(w, A2, A2_at), load(w, A2, A2_at + width)
    g0, g1 = load(w, carry, n * width), load(w, carry, (n + 1) * width)
    later0, later1 = splat(w, _ONE), splat(w, _ONE)  # the decay from step t to t + 1, already in the carry
    sum0, sum1 = splat(w, _ZERO), splat(w, _ZERO)  # dA of this tile: a sum of sums rounds less over long sequences
    for chunk in range((steps - 1) // width * width, -1, -width):
        n_rows = min(width, steps - chunk)
        for row in range(n_rows - 1, -1, -1):
            t = chunk + row
            at = t * width
            step, entry, gradient = load(w, dt, at), load(w, dtu, at), load(w, gy, at)
            g0 = fma(later0, g0, mul(gradient, spread(w, C, C_at + t * Ct)))
            g1 = fma(later1, g1, mul(gradient, spread(w, C, C_at + Cn + t * Ct)))
            entry_sum = fma(g0, spread(w, B, B_at + t * Bt), load(w, gdtu, at))
            store(gdtu, at, fma(g1, spread(w, B, B_at + Bn + t * Bt), entry_sum))
            store(lines, row * width, mul(g0, entry))
            store(lines, (width + row) * width, mul(g1, entry))
            # The gradient of the exponent dt * A.
            exponent0, exponent1 = mul(g0, load(w, decayed0, at)), mul(g1, load(w, decayed1, at))
            store(gdt, at, fma(exponent1, a1, fma(exponent0, a0, load(w, gdt, at))))
            sum0, sum1 = fma(exponent0, step, sum0), fma(exponent1, step, sum1)
            later0, later1 = load(w, decays0, at), load(w, decays1, at)
        add_row_sums(w, lines, 0, n_rows, fresh, dB, dB_at + chunk)
        add_row_sums(w, lines, width * width, n_rows, fresh, dB, dB_at + length + chunk)
    store(carry, n * width, mul(later0, g0))
    store(carry, (n + 1) * width, mul(later1, g1))
    store(dA, dA_at, add(load(w, dA, dA_at), sum0))
    store(dA, dA_at + width, add(load(w, dA, dA_at + width), sum1))


@jit
def finish_tile(w, steps, softplus, scratch, D, bias, block, dD, dbias, row):
    """Turn the gradients of dt * u and dt into those of u (left in the tile u) and delta (left in the tile dt)."""
    width = len(w)
    us, dts, raws = tile_at(w, scratch, U), tile_at(w, scratch, DT), tile_at(w, scratch, RAW)
    gys, gdts, gdtus = tile_at(w, scratch, GY), tile_at(w, scratch, GDT), tile_at(w, scratch, GDTU)
    skip, shift, ln2 = load(w, D, block * width), load(w, bias, block * width), splat(w, _LN2)
    skip_sum, bias_sum = splat(w, _ZERO), splat(w, _ZERO)
    for at in range(0, steps * width, width):
        u, gy, gdtu = load(w, us, at), load(w, gys, at), load(w, gdtus, at)
        # The states were weighted with A * log2(e), hence the ln 2.
        gdelta = fma(load(w, gdts, at), ln2, mul(gdtu, u))
        if softplus:
            gdelta = mul(gdelta, sigmoid(add(load(w, raws, at), shift)))
        store(us, at, fma(gdtu, load(w, dts, at), mul(skip, gy)))
        store(dts, at, gdelta)
        skip_sum, bias_sum = fma(gy, u, skip_sum), add(bias_sum, gdelta)
    store(dD, row * width, add(load(w, dD, row * width), skip_sum))
    store(dbias, row * width, add(load(w, dbias, row * width), bias_sum))


@jit
def _store_tile(w, b, channel, lanes, t0, steps, flags, rows, inputs, grads, scratch):
    """Write du and ddelta; with a gate also ``dz = grad_out * y * sigmoid(z) * (1 + z * (1 - sigmoid(z)))``."""
    width = len(w)
    write_tile(w, tile_at(w, scratch, U), grads[0], rows[4], b, channel, t0, lanes, steps)
    write_tile(w, tile_at(w, scratch, DT), grads[1], rows[5], b, channel, t0, lanes, steps)
    if flags[1]:
        z, gout, y = tile_at(w, scratch, U), tile_at(w, scratch, GY), tile_at(w, scratch, Y)
        read_tile(w, inputs[2], rows[2], b, channel, t0, lanes, steps, z)
        read_tile(w, inputs[3], rows[3], b, channel, t0, lanes, steps, gout)
        one, minus = splat(w, _ONE), splat(w, -_ONE)
        for at in range(0, steps * width, width):
            gate = load(w, z, at)
            share = sigmoid(gate)
            slope = mul(share, fma(gate, fma(share, minus, one), one))
            store(z, at, mul(mul(load(w, gout, at), load(w, y, at)), slope))
        write_tile(w, z, grads[2], rows[6], b, channel, t0, lanes, steps)

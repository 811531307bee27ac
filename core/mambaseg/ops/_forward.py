"""Forward kernel of the CPU scan: one task is one block of channels of one batch element, over the whole sequence."""

# numba gives the types of kernel arguments.
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# ruff: noqa: ANN001, ANN202

from __future__ import annotations

import numpy as np

from mambaseg.ops._simd import decay, fma, load, mul, spread, store
from mambaseg.ops._tiles import (
    TILE,
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

__all__ = ["DT", "DTU", "FORWARD_TILES", "U", "Y", "advance", "forward_tasks"]

U, DT, DTU, Y = 0, 1, 2, 3
FORWARD_TILES = 4  # tiles of the scratch; the states of a block follow them

_ZERO = np.float32(0.0)


@jit
def forward_tasks(w, first, last, shape, flags, rows, maps, arrays, scratch):
    """Run tasks `first` to `last` - 1.

    `shape` is (batch, groups, channels of a group, length, states), `flags` (softplus, gated, keep starts); `rows`
    holds the strides (batch, channel, step) of u, delta, z and out, `maps` the (batch, group, state, step) of B and C.
    `arrays` are the addresses of float32 u, delta, z, out, A2, B, C, D, bias, starts and final: A2 (block, state, lane)
    and D, bias (block, lane) are filled up with zeros; written are out, final (batch, block, state, lane) and, if kept,
    starts (batch, block, tile, state, lane): the states at the start of each tile.
    """
    width = len(w)
    _, groups, per_group, _, n_states = shape
    blocks = groups * ((per_group + width - 1) // width)
    h = tile_at(w, scratch, FORWARD_TILES)
    for task in range(first, last):
        fill(w, h, 0, n_states * width, _ZERO)
        _scan_block(w, task // blocks, task % blocks, task, shape, flags, rows, maps, arrays, scratch)
        copy(w, h, 0, arrays[10], task * n_states * width, n_states * width)


@jit
def _scan_block(w, b, block, task, shape, flags, rows, maps, arrays, scratch):
    """Tile after tile of one block; the states in the scratch end as those after the last step."""
    width = len(w)
    _, _, per_group, length, n_states = shape
    group, channel, lanes = locate_block(w, block, per_group)
    A2, B, C = arrays[4], arrays[5], arrays[6]
    B_at, C_at = b * maps[0][0] + group * maps[0][1], b * maps[1][0] + group * maps[1][1]
    n_tiles = (length + TILE - 1) // TILE
    size = n_states * width
    h, y = tile_at(w, scratch, FORWARD_TILES), tile_at(w, scratch, Y)
    for tile in range(n_tiles):
        t0 = tile * TILE
        steps = min(TILE, length - t0)
        if flags[2]:
            copy(w, h, 0, arrays[9], (task * n_tiles + tile) * size, size)
        _load_tile(w, b, block, channel, lanes, t0, steps, flags, rows, arrays, scratch)
        after = min(TILE, length - t0 - steps)
        prefetch_rows(B, B_at + (t0 + steps) * maps[0][3], maps[0][2], maps[0][3], n_states, after)
        prefetch_rows(C, C_at + (t0 + steps) * maps[1][3], maps[1][2], maps[1][3], n_states, after)
        for i in range(2 + flags[1]):
            prefetch_tile(arrays[i], rows[i], b, channel, t0 + steps, lanes, after)
        for n in range(0, n_states, 4):
            advance(
                w, n, steps, scratch, A2, block * size,
                B, B_at + t0 * maps[0][3], maps[0][2], maps[0][3], C, C_at + t0 * maps[1][3], maps[1][2], maps[1][3],
            )  # fmt: skip
        if flags[1]:
            read_tile(w, arrays[2], rows[2], b, channel, t0, lanes, steps, tile_at(w, scratch, U))
            gate_tile(w, steps, y, tile_at(w, scratch, U))
        write_tile(w, y, arrays[3], rows[3], b, channel, t0, lanes, steps)


@jit
def _load_tile(w, b, block, channel, lanes, t0, steps, flags, rows, arrays, scratch):
    """Fill the tiles u, dt, dt * u and the y that starts with the skip."""
    u, dt, dtu = tile_at(w, scratch, U), tile_at(w, scratch, DT), tile_at(w, scratch, DTU)
    read_tile(w, arrays[0], rows[0], b, channel, t0, lanes, steps, u)
    read_tile(w, arrays[1], rows[1], b, channel, t0, lanes, steps, dt)
    prepare_tile(w, steps, flags[0], u, dt, dt, dtu, arrays[8], block)
    skip_tile(w, steps, tile_at(w, scratch, Y), u, arrays[7], block)


@jit
def advance(w, n, steps, scratch, A2, A2_at, B, B_at, Bn, Bt, C, C_at, Cn, Ct):
    """Take four states through a tile; they and their A stay in registers, y is read and written once for all four."""
    width = len(w)
    dt, dtu, y = tile_at(w, scratch, DT), tile_at(w, scratch, DTU), tile_at(w, scratch, Y)
    h = tile_at(w, scratch, FORWARD_TILES)
    a0, a1 = load(w, A2, A2_at + n * width), load(w, A2, A2_at + (n + 1) * width)
    a2, a3 = load(w, A2, A2_at + (n + 2) * width), load(w, A2, A2_at + (n + 3) * width)
    h0, h1 = load(w, h, n * width), load(w, h, (n + 1) * width)
    h2, h3 = load(w, h, (n + 2) * width), load(w, h, (n + 3) * width)
    B0, C0 = B_at + n * Bn, C_at + n * Cn
    B1, B2, B3 = B0 + Bn, B0 + 2 * Bn, B0 + 3 * Bn
    C1, C2, C3 = C0 + Cn, C0 + 2 * Cn, C0 + 3 * Cn
    for t in range(steps):
        step, entry, read = load(w, dt, t * width), load(w, dtu, t * width), load(w, y, t * width)
        i, k = t * Bt, t * Ct
        h0 = fma(h0, decay(step, a0), mul(entry, spread(w, B, B0 + i)))
        h1 = fma(h1, decay(step, a1), mul(entry, spread(w, B, B1 + i)))
        h2 = fma(h2, decay(step, a2), mul(entry, spread(w, B, B2 + i)))
        h3 = fma(h3, decay(step, a3), mul(entry, spread(w, B, B3 + i)))
        read = fma(h0, spread(w, C, C0 + k), read)
        read = fma(h1, spread(w, C, C1 + k), read)
        read = fma(h2, spread(w, C, C2 + k), read)
        read = fma(h3, spread(w, C, C3 + k), read)
        store(y, t * width, read)
    store(h, n * width, h0)
    store(h, (n + 1) * width, h1)
    store(h, (n + 2) * width, h2)
    store(h, (n + 3) * width, h3)

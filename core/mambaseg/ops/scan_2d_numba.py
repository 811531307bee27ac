"""The 2-D scan on the CPU: kernels that read the feature map in place, in all four orders.

The projection of a pixel does not depend on the order in which pixels are read: one matrix product on the map serves
all four directions, and the step sizes of a tile come from its R factors inside the kernel. Nothing of the size of four
maps ever exists: neither the four sequences, nor their step sizes, nor the four outputs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mambaseg.ops import scan_numba
from mambaseg.ops._backward import BACKWARD_TILES
from mambaseg.ops._blocks import BACKWARD_TASKS, Blocks, addresses, n_chunks
from mambaseg.ops._cross_backward import cross_backward_tasks
from mambaseg.ops._cross_forward import cross_forward_tasks
from mambaseg.ops._forward import FORWARD_TILES
from mambaseg.ops._pool import share_out
from mambaseg.ops._simd import LOG2_E
from mambaseg.ops._tiles import TILE, cached
from mambaseg.ops.cross_scan import N_DIRECTIONS, cross_scan

__all__ = ["numba_cross_scan"]

_forward_kernel = cached(cross_forward_tasks)
_backward_kernel = cached(cross_backward_tasks)


def numba_cross_scan(
    features: Tensor, x_proj: Tensor, dt_proj: Tensor, A: Tensor, D: Tensor, delta_bias: Tensor
) -> Tensor:
    """Same arguments and result as `plain_cross_scan` for float32 tensors on the CPU; once differentiable.

    A map whose channels are neighbours in memory (channels last) is read where it lies, others are copied once. The
    result is channels last and does not depend on the number of threads.
    """
    n_states, rank = A.shape[-1], dt_proj.shape[-1]
    if missing := -n_states % 4:  # states that stay zero
        low, B, C = x_proj.split([rank, n_states, n_states], dim=1)
        x_proj = torch.cat((low, functional.pad(B, (0, 0, 0, missing)), functional.pad(C, (0, 0, 0, missing))), dim=1)
        A = functional.pad(A, (0, missing))
    pixels = features.permute(0, 2, 3, 1).flatten(1, 2)  # (batch, L, D)
    pixels = pixels if pixels.stride(2) == 1 else pixels.contiguous()
    lines = functional.linear(pixels, x_proj.flatten(0, 1))  # (batch, L, 4 * (R + 2N))
    inputs = (pixels, lines, dt_proj, A, D, delta_bias)
    size = (features.shape[2], features.shape[3])
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        apply: Any = _CrossScan.apply  # torch has no annotation
        y = apply(*inputs, size)
    else:
        y, _ = _Problem(inputs, size).forward(keep_starts=False)
    out: Tensor = y.transpose(1, 2).unflatten(2, size)
    return out


@lru_cache(maxsize=8)
def _order(height: int, width: int) -> Tensor:
    """(4, L), int64: the pixel, counted row by row, that each direction reads at each step."""
    order: Tensor = cross_scan(torch.arange(height * width, device="cpu").view(1, 1, height, width))
    return order


class _CrossScan(torch.autograd.Function):
    """Ties the kernels into autograd."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        inputs, size = args[:6], args[6]
        problem = _Problem(inputs, size)
        out, starts = problem.forward(keep_starts=True)
        ctx.save_for_backward(*inputs, starts)
        ctx.size, ctx.width = size, problem.blocks.width
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, starts = ctx.saved_tensors
        grads = _Problem(tuple(inputs), ctx.size, ctx.width).backward(starts, grad_out.contiguous())
        return (*(grad if need else None for grad, need in zip(grads, ctx.needs_input_grad, strict=False)), None)


class _Problem:
    """Inputs as the kernels want them."""

    def __init__(self, inputs: tuple[Tensor, ...], size: tuple[int, int], width: int | None = None) -> None:
        self.pixels, self.lines, dt_proj, A, D, bias = (x.detach() for x in inputs)
        batch, length, channels = self.pixels.shape
        self.n_states, self.rank = A.shape[-1], dt_proj.shape[-1]
        self.blocks = Blocks(N_DIRECTIONS, channels, width or scan_numba.WIDTH)
        self.shape = (batch, channels, length, self.n_states, self.rank, *self.pixels.stride()[:2])
        pack = self.blocks.pack
        self.order = _order(*size)
        self.weights = (
            pack(A.flatten(0, 1) * LOG2_E), pack(dt_proj.flatten(0, 1)),
            self.blocks.pack_vector(D.flatten()), self.blocks.pack_vector(bias.flatten()))  # fmt: skip
        self.inputs = addresses(self.order, self.pixels, self.lines, *self.weights)
        self.n_scanned = batch * N_DIRECTIONS * channels * length * self.n_states

    def forward(self, keep_starts: bool) -> tuple[Tensor, Tensor | None]:
        """Output (batch, L, D) and, if kept, the states at the starts of the tiles."""
        batch, channels, length, n_states, *_ = self.shape
        empty = self.pixels.new_empty
        out = empty(batch, length, channels)
        starts = None
        if keep_starts:
            rows = N_DIRECTIONS * self.blocks.of_group
            starts = empty(batch, rows, -(-length // TILE), n_states, self.blocks.width)
        written = addresses(out, starts)
        lines_of_tile = self._line_vectors() * TILE

        def work(first: int, last: int) -> None:
            scratch = self.blocks.scratch(FORWARD_TILES, n_states + lines_of_tile)
            _forward_kernel(
                self.blocks.lanes, first, last, self.shape, int(keep_starts), self.inputs, *written, scratch.data_ptr()
            )

        n_tasks = batch * self.blocks.of_group
        share_out(work, n_tasks, n_chunks(n_tasks, self.n_scanned))
        return out, starts

    def backward(self, starts: Tensor, grad_out: Tensor) -> tuple[Tensor, ...]:
        """Gradients of pixels, lines, dt_proj, A, D and delta_bias; `grad_out` is (batch, L, D), contiguous."""
        batch, channels, length, n_states, rank, *_ = self.shape
        parts = min(self.blocks.of_group, -(-BACKWARD_TASKS // batch))
        rows, width = N_DIRECTIONS * self.blocks.of_group, self.blocks.width
        empty, zeros = self.pixels.new_empty, self.pixels.new_zeros
        du, dlines = empty(batch, length, channels), empty(batch, parts, *self.lines.shape[1:])
        dA, drates = zeros(batch, rows, n_states, width), zeros(batch, rows, rank, width)
        dD, dbias = zeros(batch, rows, 1, width), zeros(batch, rows, 1, width)
        grads = addresses(du, dlines, dA, drates, dD, dbias)
        lines_of_tile = 2 * self._line_vectors() * TILE  # and their gradients

        def work(first: int, last: int) -> None:
            scratch = self.blocks.scratch(BACKWARD_TILES, n_states + lines_of_tile)
            _backward_kernel(
                self.blocks.lanes, first, last, self.shape, parts, self.inputs,
                grad_out.data_ptr(), starts.data_ptr(), grads, scratch.data_ptr(),
            )  # fmt: skip

        n_tasks = batch * parts
        share_out(work, n_tasks, n_chunks(n_tasks, self.n_scanned))
        weights = (self.blocks.unpack(x.sum(0)).unflatten(0, (N_DIRECTIONS, channels)) for x in (drates, dA, dD, dbias))
        ddt_proj, dA, dD, dbias = weights
        return du, dlines.sum(1), ddt_proj, dA, dD[..., 0], dbias[..., 0]

    def _line_vectors(self) -> int:
        """Vectors that hold the line of one step."""
        return -(-(self.rank + 2 * self.n_states) // self.blocks.width)

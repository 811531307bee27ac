"""The selective scan on the CPU: numba kernels over blocks of channels, shared out to a few threads.

The kernels need float32; half precision is widened on the way in. Inference keeps nothing; training keeps the states at
the start of each tile of 64 steps, from which the backward pass runs each tile again. The array (batch, D, L, N) of all
states never exists.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mambaseg.ops._backward import BACKWARD_TILES, backward_tasks
from mambaseg.ops._blocks import BACKWARD_TASKS, Blocks, addresses, n_chunks
from mambaseg.ops._forward import FORWARD_TILES, forward_tasks
from mambaseg.ops._pool import share_out
from mambaseg.ops._simd import LOG2_E, native_width
from mambaseg.ops._tiles import TILE, cached

__all__ = ["numba_scan"]

WIDTH = native_width()  # channels a vector holds; 8 and 16 are tested

_forward_kernel = cached(forward_tasks)
_backward_kernel = cached(backward_tasks)


def numba_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> tuple[Tensor, Tensor]:
    """Same arguments and result as `reference_scan` for float32 and half tensors on the CPU; once differentiable.

    Sequences whose channels or steps are neighbours in memory are read where they lie, others are copied first.
    `out` has the memory layout of `u`. The result does not depend on the number of threads.
    """
    inputs = (u, delta, A, B, C, D, z, delta_bias)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in inputs):
        apply: Any = _Scan.apply  # torch has no annotation
        out, last_state = apply(*inputs, delta_softplus)
        return out, last_state
    out, last_state, _ = _run_forward(_Problem.gather(inputs, delta_softplus), keep_starts=False)
    return out.to(u.dtype), last_state


class _Scan(torch.autograd.Function):
    """Ties the kernels into autograd."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        inputs, delta_softplus = args[:8], args[8]
        problem = _Problem.gather(inputs, delta_softplus)
        out, last_state, starts = _run_forward(problem, keep_starts=True)
        ctx.save_for_backward(*inputs, starts)
        ctx.width, ctx.delta_softplus = problem.width, delta_softplus
        ctx.set_materialize_grads(False)
        return out.to(args[0].dtype), last_state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor | None, grad_last: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, starts = ctx.saved_tensors
        problem = _Problem.gather(tuple(inputs), ctx.delta_softplus, ctx.width)
        grads = _run_backward(problem, starts, grad_out, grad_last)
        typed = [
            grad.to(x.dtype) if grad is not None and needed else None
            for grad, x, needed in zip(grads, inputs, ctx.needs_input_grad, strict=False)
        ]
        return (*typed, None)


@dataclass(frozen=True)
class _Problem:
    """Inputs as the kernels want them: float32, states filled up to a multiple of four."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    z: Tensor | None
    delta_bias: Tensor | None
    softplus: bool
    width: int
    n_states: int  # before filling up

    @classmethod
    def gather(cls, inputs: tuple[Tensor | None, ...], softplus: bool, width: int | None = None) -> _Problem:
        """Widen and fill up; zeros for A, B and C give states that stay zero."""
        u, delta, A, B, C, D, z, bias = (None if x is None else x.detach().float() for x in inputs)
        if u is None or delta is None or A is None or B is None or C is None:
            raise TypeError("u, delta, A, B and C are needed")
        n_states = A.shape[1]
        if missing := -n_states % 4:
            A = functional.pad(A, (0, missing))
            B, C = functional.pad(B, (0, 0, 0, missing)), functional.pad(C, (0, 0, 0, missing))
        u, delta, z = _neighbours(u), _neighbours(delta), None if z is None else _neighbours(z)
        return cls(u, delta, A, B, C, D, z, bias, softplus, width or WIDTH, n_states)

    @property
    def shape(self) -> tuple[int, int, int, int, int]:
        """batch, groups, channels of a group, steps, states."""
        batch, channels, length = self.u.shape
        groups = self.B.shape[1]
        return batch, groups, channels // groups, length, self.A.shape[1]

    @property
    def blocks(self) -> Blocks:
        _, groups, per_group, _, _ = self.shape
        return Blocks(groups, per_group, self.width)

    def share_out(self, work: Callable[[int, int], None], n_tasks: int) -> None:
        """Run the tasks of a kernel in threads."""
        share_out(work, n_tasks, n_chunks(n_tasks, math.prod(self.shape)))


def _neighbours(x: Tensor) -> Tensor:
    """`x` (batch, D, L) itself if its channels or its steps are neighbours in memory, else a copy."""
    return x if x.stride(1) == 1 or x.stride(2) == 1 else x.contiguous()


def _strides(x: Tensor | None) -> tuple[int, ...]:
    """Strides (batch, channel, step); zeros for None."""
    return (0, 0, 0) if x is None else x.stride()


def _run_forward(problem: _Problem, keep_starts: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Output (float32), last state (batch, D, N) and, if kept, the states at the starts of the tiles."""
    p, cut = problem, problem.blocks
    batch, groups, _, length, n_states = p.shape
    blocks = groups * cut.of_group
    out = torch.empty_like(p.u)
    final = p.u.new_empty(batch, blocks, n_states, p.width)
    starts = p.u.new_empty(batch, blocks, -(-length // TILE), n_states, p.width) if keep_starts else None
    A2, D, bias = cut.pack(p.A * LOG2_E), cut.pack_vector(p.D), cut.pack_vector(p.delta_bias)
    arrays = addresses(p.u, p.delta, p.z, out, A2, p.B, p.C, D, bias, starts, final)
    flags = (int(p.softplus), int(p.z is not None), int(keep_starts))
    rows = (p.u.stride(), p.delta.stride(), _strides(p.z), out.stride())
    maps = (p.B.stride(), p.C.stride())

    def work(first: int, last: int) -> None:
        scratch = cut.scratch(FORWARD_TILES, n_states)
        _forward_kernel(cut.lanes, first, last, p.shape, flags, rows, maps, arrays, scratch.data_ptr())

    p.share_out(work, batch * blocks)
    return out, cut.unpack(final)[..., : p.n_states].contiguous(), starts


def _run_backward(
    problem: _Problem, starts: Tensor, grad_out: Tensor | None, grad_last: Tensor | None
) -> tuple[Tensor | None, ...]:
    """Gradients of u, delta, A, B, C, D, z and delta_bias in float32; that of z is None without z."""
    p, cut = problem, problem.blocks
    batch, groups, _, length, n_states = p.shape
    blocks = groups * cut.of_group
    parts = min(cut.of_group, -(-BACKWARD_TASKS // (batch * groups)))
    gout = torch.zeros_like(p.u) if grad_out is None else _neighbours(grad_out.float())
    du, ddelta = torch.empty_like(p.u), torch.empty_like(p.delta)
    dz = None if p.z is None else torch.empty_like(p.z)
    dA = p.u.new_zeros(batch, blocks, n_states, p.width)
    dD, dbias = p.u.new_zeros(batch, blocks, 1, p.width), p.u.new_zeros(batch, blocks, 1, p.width)
    dB, dC = (p.u.new_empty(batch, groups, parts, n_states, length) for _ in range(2))
    A2, D, bias = cut.pack(p.A * LOG2_E), cut.pack_vector(p.D), cut.pack_vector(p.delta_bias)
    last = _last_gradient(p, grad_last)
    inputs = addresses(p.u, p.delta, p.z, gout, A2, p.B, p.C, D, bias)
    states, grads = addresses(starts, last), addresses(du, ddelta, dz, dA, dB, dC, dD, dbias)
    rows = tuple(_strides(x) for x in (p.u, p.delta, p.z, gout, du, ddelta, dz))
    flags, shape = (int(p.softplus), int(p.z is not None)), (*p.shape, parts)
    maps = (p.B.stride(), p.C.stride())

    def work(first: int, last: int) -> None:
        scratch = cut.scratch(BACKWARD_TILES, n_states)
        _backward_kernel(cut.lanes, first, last, shape, flags, rows, maps, inputs, states, grads, scratch.data_ptr())

    p.share_out(work, batch * groups * parts)
    keep = p.n_states
    vectors = [cut.unpack(x.sum(0)) for x in (dA, dD, dbias)]  # (D, N), (D, 1), (D, 1)
    dB, dC = dB.sum(2)[:, :, :keep], dC.sum(2)[:, :, :keep]
    return du, ddelta, vectors[0][:, :keep], dB, dC, vectors[1][:, 0], dz, vectors[2][:, 0]


def _last_gradient(problem: _Problem, grad_last: Tensor | None) -> Tensor:
    """The gradient of the last state as (batch, block, state, lane), where the way back begins."""
    batch, groups, _, _, n_states = problem.shape
    if grad_last is None:
        return problem.u.new_zeros(batch, groups * problem.blocks.of_group, n_states, problem.width)
    return problem.blocks.pack(functional.pad(grad_last.float(), (0, n_states - problem.n_states)))

"""The selective scan written down step by step: the truth that every other backend is held to."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["compute_dtype", "gate_and_skip", "reference_scan", "step_size"]


def compute_dtype(u: Tensor) -> torch.dtype:
    """float64 for float64 input, else float32: half precision loses the long memory of exp(dt * A) near 1."""
    return torch.float64 if u.dtype == torch.float64 else torch.float32


def step_size(delta: Tensor, delta_bias: Tensor | None, delta_softplus: bool, dtype: torch.dtype) -> Tensor:
    """The step dt, (batch, D, L): the bias goes in before the softplus."""
    dt = delta.to(dtype)
    if delta_bias is not None:
        dt = dt + delta_bias.to(dtype)[:, None]
    return functional.softplus(dt) if delta_softplus else dt


def gate_and_skip(y: Tensor, u: Tensor, D: Tensor | None, z: Tensor | None) -> Tensor:
    """Add ``D * u``, then multiply by ``z * sigmoid(z)``; all (batch, D, L) in the dtype of `y`."""
    if D is not None:
        y = y + D.to(y.dtype)[:, None] * u.to(y.dtype)
    return y if z is None else y * functional.silu(z.to(y.dtype))


def reference_scan(
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
    """Run the recurrence of Mamba (doi:10.48550/arXiv.2312.00752, algorithm 2): discretise, then step by step.

    As in the authors' code, A is discretised exactly and B by the simple product ``dt * B``, not by the formula that
    the paper prints, and both for all steps at once. Slow, and several arrays (batch, D, L, N) in memory: the place to
    read, and for tests.

    Parameters
    ----------
    u, delta, z : (batch, D, L)
    A : (D, N)
    B, C : (batch, G, N, L)
    D, delta_bias : (D,)
    delta_softplus : pass the biased delta through log(1 + exp(.))

    Returns
    -------
    out : (batch, D, L), dtype of `u`
    last_state : (batch, D, N), float32 (float64 for float64 input), before D and z
    """
    dtype = compute_dtype(u)
    group_size = u.shape[1] // B.shape[1]
    dt = step_size(delta, delta_bias, delta_softplus, dtype)
    B = B.to(dtype).repeat_interleave(group_size, dim=1)  # (batch, D, N, L)
    C = C.to(dtype).repeat_interleave(group_size, dim=1)
    decay = torch.exp(dt[..., None] * A.to(dtype)[:, None, :])  # what a state keeps in a step: (batch, D, L, N)
    entry = (dt * u.to(dtype))[..., None] * B.transpose(2, 3)  # what the input adds to it

    h = torch.zeros_like(decay[:, :, 0])  # (batch, D, N)
    outputs = []
    # Unbinding keeps the backward linear in L; indexing [:, :, t] would make a full-size gradient at each step.
    for decay_t, entry_t, C_t in zip(decay.unbind(2), entry.unbind(2), C.unbind(3), strict=True):
        h = decay_t * h + entry_t
        outputs.append((h * C_t).sum(-1))
    y = torch.stack(outputs, dim=-1)
    return gate_and_skip(y, u, D, z).to(u.dtype), h

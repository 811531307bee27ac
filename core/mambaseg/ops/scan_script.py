"""The selective scan as a TorchScript loop: what a traced network carries, for programs that know only torch.

Tracing writes down the operations that run. The CPU kernels are none, and the chunks of `torch` would be written down
one by one; a scripted loop is kept as a loop.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from mambaseg.ops.scan_reference import compute_dtype, gate_and_skip, step_size

__all__ = ["script_scan"]


def script_scan(
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
    """Same arguments and result as `reference_scan`."""
    dtype = compute_dtype(u)
    dt = step_size(delta, delta_bias, delta_softplus, dtype)
    out, last_state = _scripted()(dt, dt * u.to(dtype), A.to(dtype), B.to(dtype), C.to(dtype))
    return gate_and_skip(out, u, D, z).to(u.dtype), last_state


def _loop(dt: Tensor, dtu: Tensor, A: Tensor, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Step after step; dt and dtu (batch, D, L), B and C (batch, G, N, L)."""
    batch, channels, length = dt.shape
    groups, states = B.shape[1], B.shape[2]
    grouped = [batch, groups, channels // groups, length]
    steps = dt.reshape(grouped).unbind(-1)  # each (batch, G, D/G)
    entries = dtu.reshape(grouped).unbind(-1)
    B_steps, C_steps = B.unbind(-1), C.unbind(-1)  # each (batch, G, N)
    A = A.reshape([groups, channels // groups, states])
    h = torch.zeros([batch, groups, channels // groups, states], dtype=dt.dtype, device=dt.device)
    outputs: list[Tensor] = []
    for t in range(length):
        entry = entries[t].unsqueeze(-1) * B_steps[t].unsqueeze(2)
        h = torch.addcmul(entry, torch.exp(steps[t].unsqueeze(-1) * A), h)
        outputs.append((h @ C_steps[t].unsqueeze(-1)).squeeze(-1))
    return torch.stack(outputs, -1).reshape(dt.shape), h.reshape([batch, channels, states])


@functools.cache
def _scripted() -> Callable[..., tuple[Tensor, Tensor]]:
    """The loop, compiled when first needed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript, which other programs still read
        return torch.jit.script(_loop)

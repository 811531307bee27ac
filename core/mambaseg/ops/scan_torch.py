"""The selective scan in plain torch operations, chunked in time: for machines without numba and for MPS.

Time is cut three times. A *segment* is what may be in memory at once while a gradient is taken; in training only the
state at its start is kept and the rest is computed again in the backward pass. A *block* is what stays in the cache.
Inside a block all *chunks* advance together: first from a zero state, which gives each chunk's own contribution; then
the true start states are carried from chunk to chunk; then the chunks run again from those. Where one step of all
channels is work enough for one torch operation, a block is a single chunk and runs only once. Nothing is ever divided
by a running product, so nothing can overflow that does not overflow in the plain recurrence.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from mambaseg.ops.scan_reference import compute_dtype, gate_and_skip, step_size

__all__ = ["torch_scan"]

_MAX_CHUNK = 64  # steps
_SEGMENT_STATES = 1 << 23  # states (batch * D * N * steps) that a segment may hold
# States an operation must touch to be worth its call, and states of a block: measured on a CPU; a GPU wants more.
_OPERATION_STATES = {"cpu": 1 << 12}
_BLOCK_STATES = {"cpu": 1 << 17}


def torch_scan(
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
    """Same arguments and result as `reference_scan`, several times faster, on any device; not an approximation."""
    dtype = compute_dtype(u)
    batch, channels, length = u.shape
    groups, states = B.shape[1:3]
    dt = step_size(delta, delta_bias, delta_softplus, dtype)
    # Time first, because steps are taken out one by one; channels last, because they make the longest inner loop.
    grouped = (batch, groups, 1, channels // groups, length)
    dtu = (dt * u.to(dtype)).reshape(grouped).movedim(-1, 0)  # (L, batch, G, 1, D/G)
    dt = dt.reshape(grouped).movedim(-1, 0)
    B = B.to(dtype).unsqueeze(3).movedim(-1, 0)  # (L, batch, G, N, 1)
    C = C.to(dtype).unsqueeze(3).movedim(-1, 0)
    A = A.to(dtype).reshape(groups, channels // groups, states).transpose(1, 2).contiguous()  # (G, N, D/G)
    h = torch.zeros(batch, groups, states, channels // groups, dtype=dtype, device=u.device)

    steps = max(1, _SEGMENT_STATES // h.numel())
    keep_start_only = torch.is_grad_enabled() and length > steps
    outputs = []
    for dt_s, dtu_s, B_s, C_s in zip(*(x.split(steps) for x in (dt, dtu, B, C)), strict=True):
        piece = (dt_s, dtu_s, B_s, C_s, A, h)
        if keep_start_only:
            y, h = checkpoint(_segment, *piece, use_reentrant=False, preserve_rng_state=False)
        else:
            y, h = _segment(*piece)
        outputs.append(y)
    out = torch.cat(outputs).movedim(0, -1).reshape(u.shape)
    last_state = h.transpose(2, 3).reshape(batch, channels, states)
    return gate_and_skip(out, u, D, z).to(u.dtype), last_state


def _segment(dt: Tensor, dtu: Tensor, B: Tensor, C: Tensor, A: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Block after block; y (steps, batch, G, D/G) and the state after the last step."""
    operation = _OPERATION_STATES.get(h.device.type, 1 << 18)
    block = _BLOCK_STATES.get(h.device.type, 1 << 22)
    n_chunks = min(max(1, operation // h.numel()), -(-dt.shape[0] // _MAX_CHUNK))
    chunk = min(_MAX_CHUNK, max(1, block // (n_chunks * h.numel())))
    outputs = []
    for dt_b, dtu_b, B_b, C_b in zip(*(x.split(n_chunks * chunk) for x in (dt, dtu, B, C)), strict=True):
        y, h = _block(dt_b, dtu_b, B_b, C_b, A, h, min(chunk, dt_b.shape[0]))
        outputs.append(y)
    return torch.cat(outputs), h


def _block(dt: Tensor, dtu: Tensor, B: Tensor, C: Tensor, A: Tensor, h: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Scan one block from state `h` (batch, G, N, D/G), cut into chunks of `chunk` steps."""
    steps = dt.shape[0]
    dt, dtu, B, C = (_in_chunks(x, chunk) for x in (dt, dtu, B, C))  # (chunk, chunks, batch, G, 1 or N, D/G or 1)
    decays = torch.exp(dt * A).unbind()  # each (chunks, batch, G, N, D/G)
    entries = (dtu * B).unbind()
    starts = h.unsqueeze(0)
    if dt.shape[1] > 1:
        own = entries[0]
        for decay, entry in zip(decays[1:], entries[1:], strict=True):
            own = torch.addcmul(entry, decay, own)
        starts = _carry(torch.exp(dt.sum(0) * A), own, h)
    state, states = starts, []
    for decay, entry in zip(decays, entries, strict=True):
        state = torch.addcmul(entry, decay, state)
        states.append(state)
    y = (torch.stack(states) * C).sum(-2)  # (chunk, chunks, batch, G, D/G)
    return y.transpose(0, 1).flatten(0, 1)[:steps], state[-1]


def _carry(decays: Tensor, own: Tensor, h: Tensor) -> Tensor:
    """The state at the start of each chunk, from that of the first and what whole chunks forget and add."""
    starts = [h]
    for decay, entry in zip(decays[:-1].unbind(), own[:-1].unbind(), strict=True):
        starts.append(torch.addcmul(entry, decay, starts[-1]))
    return torch.stack(starts)


def _in_chunks(x: Tensor, chunk: int) -> Tensor:
    """(steps, ...) as (chunk, chunks, ...); steps added at the end have dt = 0 and no input, which changes no state."""
    missing = -x.shape[0] % chunk
    x = functional.pad(x, (0, 0) * (x.ndim - 1) + (0, missing)) if missing else x
    chunks: Tensor = x.unflatten(0, (-1, chunk)).transpose(0, 1)
    return chunks

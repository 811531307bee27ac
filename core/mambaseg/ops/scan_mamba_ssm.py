"""The selective scan through the CUDA kernels of the Mamba authors (package mamba-ssm)."""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

__all__ = ["mamba_ssm_scan"]


def mamba_ssm_scan(
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
    """Same arguments and result as `reference_scan`; the last state carries no gradient here."""
    interface = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    sequences = [x for x in (u, delta, B, C, z) if x is not None]
    # The kernels take one type for all sequences, and float32 for the rest.
    dtype = u.dtype if all(x.dtype == u.dtype for x in sequences) else torch.float32
    out, last_state = interface.selective_scan_fn(
        u.to(dtype),
        delta.to(dtype),
        A.float(),
        B.to(dtype),
        C.to(dtype),
        D=None if D is None else D.float(),
        z=None if z is None else z.to(dtype),
        delta_bias=None if delta_bias is None else delta_bias.float(),
        delta_softplus=delta_softplus,
        return_last_state=True,
    )
    return out.to(u.dtype), last_state

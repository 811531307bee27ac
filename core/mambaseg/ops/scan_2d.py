"""The 2-D selective scan of VMamba: a map read in four orders, with a scan of its own for each."""

from __future__ import annotations

import torch
from torch import Tensor

from mambaseg.ops.cross_scan import N_DIRECTIONS, cross_merge, cross_scan
from mambaseg.ops.scan import choose_backend, require_cpu_kernels, selective_scan

__all__ = ["cross_selective_scan", "plain_cross_scan"]


def cross_selective_scan(
    features: Tensor,
    x_proj: Tensor,
    dt_proj: Tensor,
    A: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    """Sum of four selective scans of a map: by rows, by columns and both backwards; differentiable for all inputs.

    Parameters
    ----------
    features : (batch, D, H, W); float32, float64, float16 or bfloat16; any strides, fastest channels last
    x_proj : (4, R + 2N, D); makes the R factors of delta, B and C of a pixel from its channels
    dt_proj : (4, D, R); makes delta from its factors
    A : (4, D, N), negative
    D : (4, D)
    delta_bias : (4, D); the step size is log(1 + exp(delta + delta_bias))
    backend : as for `selective_scan`; "cpu" reads the map in place, all others scan four copies of it

    Returns
    -------
    (batch, D, H, W), dtype of `features`; computed in float32 (float64 for float64 input)

    Raises
    ------
    ValueError : shapes that do not fit together, or an empty map
    UserError : an unknown backend, or one that cannot take these tensors
    MissingPackageError : a backend was forced whose package is not installed
    """
    inputs = (features, x_proj, dt_proj, A, D, delta_bias)
    _check_shapes(*inputs)
    backend = choose_backend(features) if backend == "auto" else backend
    dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
    wide = tuple(x.to(dtype) for x in inputs)
    if backend != "cpu":
        return plain_cross_scan(*wide, backend=backend).to(features.dtype)
    require_cpu_kernels(features)
    from mambaseg.ops.scan_2d_numba import numba_cross_scan

    return numba_cross_scan(*wide).to(features.dtype)


def plain_cross_scan(
    features: Tensor,
    x_proj: Tensor,
    dt_proj: Tensor,
    A: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    *,
    backend: str = "auto",
) -> Tensor:
    """The reference: four copies of the map, one scan with four groups, and the four outputs put back and added.

    Arguments and result as for `cross_selective_scan`, without its checks; `backend` is that of the scan.
    """
    rank, n_states = dt_proj.shape[-1], A.shape[-1]
    u = cross_scan(features)  # (batch, 4, D, L)
    low_rank, B, C = (x_proj @ u).split([rank, n_states, n_states], dim=2)
    delta = dt_proj @ low_rank  # (batch, 4, D, L)
    y = selective_scan(u.flatten(1, 2), delta.flatten(1, 2), A.flatten(0, 1), B, C, D.flatten(),
                       delta_bias=delta_bias.flatten(), delta_softplus=True, backend=backend)  # fmt: skip
    return cross_merge(y.view_as(u), *features.shape[2:])


def _check_shapes(features: Tensor, x_proj: Tensor, dt_proj: Tensor, A: Tensor, D: Tensor, delta_bias: Tensor) -> None:
    """Raise ValueError with the offending shape."""
    if features.ndim != 4 or 0 in features.shape:
        raise ValueError(f"features must be (batch, D, H, W) and not empty, got {tuple(features.shape)}")
    rows = (N_DIRECTIONS, features.shape[1])
    for name, tensor, last in (("dt_proj", dt_proj, "R"), ("A", A, "N")):
        if tensor.ndim != 3 or tensor.shape[:2] != rows:
            raise ValueError(f"{name} must be ({rows[0]}, {rows[1]}, {last}), got {tuple(tensor.shape)}")
    projected = (N_DIRECTIONS, dt_proj.shape[2] + 2 * A.shape[2], rows[1])
    for name, tensor, shape in (("x_proj", x_proj, projected), ("D", D, rows), ("delta_bias", delta_bias, rows)):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {shape}, got {tuple(tensor.shape)}")

"""The selective scan: checks the shapes once and hands the work to a backend."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, Literal, overload

import torch
from torch import Tensor

from mambaseg._errors import MissingPackageError, UserError
from mambaseg.ops.scan_reference import reference_scan
from mambaseg.ops.scan_script import script_scan
from mambaseg.ops.scan_torch import torch_scan

__all__ = ["BACKENDS", "available_backends", "choose_backend", "require_cpu_kernels", "selective_scan", "warm_up"]

BACKENDS = ("auto", "reference", "torch", "cpu", "mamba_ssm")

_Scan = Callable[..., tuple[Tensor, Tensor]]


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: Literal[False] = False,
    backend: str = "auto",
) -> Tensor: ...


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    return_last_state: Literal[True],
    backend: str = "auto",
) -> tuple[Tensor, Tensor]: ...


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]: ...


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Selective state-space scan of Mamba (doi:10.48550/arXiv.2312.00752); differentiable for all inputs.

    Parameters
    ----------
    u, delta : (batch, D, L); float32, float64, float16 or bfloat16; any strides
    A : (D, N), negative
    B, C : (batch, N, L), or (batch, G, N, L) with G dividing D; channel d reads group ``d // (D / G)``
    D, delta_bias : (D,) or None
    z : (batch, D, L) or None; gate
    delta_softplus : take log(1 + exp(delta + delta_bias)) as the step size
    return_last_state : also return the states after step L
    backend : "auto", "reference", "torch", "cpu" or "mamba_ssm"

    Returns
    -------
    out : (batch, D, L), dtype of `u`; computed in float32 (float64 for float64 input)
    last_state : only with `return_last_state`; (batch, D, N), float32 (float64 for float64 input), without D and z

    Raises
    ------
    ValueError : shapes that do not fit together, or an empty sequence
    UserError : an unknown backend, or one that cannot take these tensors
    MissingPackageError : a backend was forced whose package is not installed
    """
    if B.ndim == 3:
        B = B.unsqueeze(1)
    if C.ndim == 3:
        C = C.unsqueeze(1)
    _check_shapes(u, delta, A, B, C, D, z, delta_bias)
    last_needs_grad = return_last_state and torch.is_grad_enabled()
    scan = _load(choose_backend(u, last_needs_grad) if backend == "auto" else backend, u)
    out, last_state = scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    return (out, last_state) if return_last_state else out


def available_backends() -> tuple[str, ...]:
    """Backends that can run on this machine, best first; "cpu" and "mamba_ssm" need their packages."""
    names = []
    if _has_mamba_ssm() and torch.cuda.is_available():
        names.append("mamba_ssm")
    if _has_numba():
        names.append("cpu")
    return (*names, "torch", "reference")


def warm_up(
    background: bool = True, on_message: Callable[[str], None] | None = None, training: bool = True
) -> Callable[[], None]:
    """Compile the CPU kernels, or load them from the cache, before the first scan needs them.

    Parameters
    ----------
    background : compile in a thread of its own and return at once; the process does not end before it has
    on_message : called with one sentence while something compiles, and one after it; from another thread
    training : the backward kernels too

    Returns
    -------
    A function that waits until the kernels are ready; does nothing where numba is missing.
    """
    if not _has_numba():
        return _nothing
    from mambaseg.ops._warm_up import warm_up_kernels

    return warm_up_kernels(background, on_message, training)


def _nothing() -> None:
    """Wait for nothing."""


def choose_backend(u: Tensor, last_needs_grad: bool = False) -> str:
    """The backend that "auto" takes for tensors like `u`, when the last state needs a gradient or not."""
    jit: Any = torch.jit  # `is_tracing` is public, but not listed
    if jit.is_tracing():
        return "script"
    if u.device.type == "cpu" and u.dtype != torch.float64 and _has_numba():
        return "cpu"
    # mamba_ssm gives no gradient through the last state.
    if u.device.type == "cuda" and u.dtype != torch.float64 and not last_needs_grad and _has_mamba_ssm():
        return "mamba_ssm"
    return "torch"


def _load(name: str, u: Tensor) -> _Scan:
    """The function of a backend, or an error that says why it cannot run here."""
    if name == "reference":
        return reference_scan
    if name == "torch":
        return torch_scan
    if name == "script":
        return script_scan
    if name == "cpu":
        return _load_cpu(u)
    if name == "mamba_ssm":
        return _load_mamba_ssm(u)
    raise UserError(f'Scan backend "{name}" does not exist; choose one of {", ".join(BACKENDS)}.')


def _load_cpu(u: Tensor) -> _Scan:
    """The numba kernels, for float32 and half tensors in main memory."""
    require_cpu_kernels(u)
    from mambaseg.ops.scan_numba import numba_scan

    return numba_scan


def require_cpu_kernels(u: Tensor) -> None:
    """Raise the error that says why the CPU kernels cannot run here or cannot take tensors like `u`."""
    if not _has_numba():
        raise MissingPackageError(
            'Scan backend "cpu" needs the package numba, which is not installed; '
            'pip install numba, or use backend "torch".'
        )
    if u.device.type != "cpu" or u.dtype == torch.float64:
        raise UserError(
            f'Scan backend "cpu" takes float32, float16 or bfloat16 tensors on the CPU, but was given {_describe(u)}; '
            'use backend "auto" or "torch".'
        )


def _load_mamba_ssm(u: Tensor) -> _Scan:
    """The CUDA kernels of the Mamba authors."""
    if not _has_mamba_ssm():
        raise MissingPackageError(
            'Scan backend "mamba_ssm" needs the package mamba-ssm, which is not installed; '
            'pip install "mambaseg[cuda]", or use backend "auto".'
        )
    if u.device.type != "cuda" or u.dtype == torch.float64:
        raise UserError(
            f'Scan backend "mamba_ssm" takes float32, float16 or bfloat16 tensors on a CUDA device, but was given '
            f'{_describe(u)}; use backend "auto".'
        )
    from mambaseg.ops.scan_mamba_ssm import mamba_ssm_scan

    return mamba_ssm_scan


def _describe(u: Tensor) -> str:
    """Dtype and device in words."""
    return f"{str(u.dtype).removeprefix('torch.')} on {u.device}"


def _has_numba() -> bool:
    return importlib.util.find_spec("numba") is not None


def _has_mamba_ssm() -> bool:
    return importlib.util.find_spec("mamba_ssm") is not None


def _check_shapes(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
) -> None:
    """Raise ValueError with the offending shape."""
    if u.ndim != 3 or 0 in u.shape:
        raise ValueError(f"u must be (batch, D, L) and not empty, got {tuple(u.shape)}")
    batch, channels, length = u.shape
    if A.ndim != 2 or A.shape[0] != channels:
        raise ValueError(f"A must be ({channels}, N), got {tuple(A.shape)}")
    groups = B.shape[1] if B.ndim == 4 else 1
    if groups < 1 or channels % groups:
        raise ValueError(f"B has {groups} groups, which do not divide {channels} channels")
    maps = (batch, groups, A.shape[1], length)
    expected = (("delta", delta, u.shape), ("B", B, maps), ("C", C, maps), ("z", z, u.shape))
    vectors = (("D", D, (channels,)), ("delta_bias", delta_bias, (channels,)))
    for name, tensor, shape in (*expected, *vectors):
        if tensor is not None and tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"{name} must be {tuple(shape)}, got {tuple(tensor.shape)}")

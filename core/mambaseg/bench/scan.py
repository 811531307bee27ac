"""Ratios of the selective scan's backends, side by side in one process.

Times are CPU time of one thread, the best of several rounds in which all candidates take turns, so that what else the
machine does touches all alike. Ratios are the finding; milliseconds depend on the machine and the moment.
"""

# The scan keeps the letters of its paper.
# ruff: noqa: N803, N806

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mambaseg.ops import cross_selective_scan, selective_scan
from mambaseg.ops.scan_2d import plain_cross_scan
from mambaseg.ops.scan_reference import gate_and_skip, step_size

__all__ = ["run"]


@dataclass(frozen=True)
class _Shape:
    """One scan: batch 1, 16 states."""

    name: str
    channels: int
    groups: int
    length: int
    rounds: int
    reference_rounds: int


# The scans of VM-UNet's first stage, U-Mamba Enc's first stage and U-Mamba Bot at 512 x 512 pixels or near it.
_VM = _Shape("vm", 384, 4, 4096, rounds=12, reference_rounds=2)
_BOT = _Shape("bot", 640, 1, 1680, rounds=12, reference_rounds=2)
_ENC = _Shape("enc", 256, 1, 65536, rounds=5, reference_rounds=1)
_ENC_QUICK = _Shape("enc_length_8192", 256, 1, 8192, rounds=8, reference_rounds=1)

# VM-UNet's stages at 256 x 256 pixels, the first and the last: inner width, height and width of the map, rank of delta.
_MAPS = {"stage1": (192, 64, 6), "stage4": (1536, 8, 48)}

_N_STATES = 16
_ROOF_VALUES = 1 << 24


def run(quick: bool) -> dict[str, float]:
    """Measure all backends that run on this machine's CPU.

    Parameters
    ----------
    quick : at most 45 seconds: the long sequence of U-Mamba Enc is cut to 8192 steps and named so

    Returns
    -------
    Flat figures; the unit or the two things compared are in the name. Ratios ``x_over_y`` are time of x / time of y.

    Notes
    -----
    ``reference`` is the backend of that name, which like published code discretises all steps at once; ``lean_loop`` is
    the same loop written with care for the cache. ``map_in_place`` against ``map_copied`` is the scan of a map in four
    directions, both with the CPU kernels; training is forward and backward.

    Raises
    ------
    MissingPackageError : numba is not installed, so there is no CPU kernel to measure
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        figures: dict[str, float] = {}
        for shape in (_VM, _BOT, _ENC_QUICK if quick else _ENC):
            figures |= _measure(shape)
        for name, sizes in _MAPS.items():
            figures |= _measure_map(name, *sizes, rounds=8 if quick else 20)
    finally:
        torch.set_num_threads(threads)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return {**figures, "load_average_1_min": load}


def _measure(shape: _Shape) -> dict[str, float]:
    """All figures of one shape."""
    inputs = _inputs(shape)
    out, candidates = _candidates(shape, inputs)
    with torch.no_grad():
        truth: Tensor = selective_scan(**inputs, delta_softplus=True, backend="torch")
    seconds = _best_times(candidates)
    error = float((out.detach() - truth).abs().max() / truth.abs().max())
    return _figures(shape, seconds, error)


def _measure_map(name: str, channels: int, side: int, rank: int, rounds: int) -> dict[str, float]:
    """The scan of a square map in place, over that of four copies of it."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    inputs = {
        "features": normal(1, channels, side, side).contiguous(memory_format=torch.channels_last),
        "x_proj": normal(4, rank + 2 * _N_STATES, channels) / channels**0.5,
        "dt_proj": normal(4, channels, rank) * 0.5 / rank**0.5,
        "A": -torch.arange(1.0, _N_STATES + 1).repeat(4, channels, 1),
        "D": torch.ones(4, channels),
        "delta_bias": torch.empty(4, channels).uniform_(-6.9, -2.3, generator=generator),
    }
    training = {key: value.clone().requires_grad_() for key, value in inputs.items()}

    def forward(scan: Callable[..., Tensor]) -> Tensor:
        with torch.no_grad():
            return scan(**inputs, backend="cpu")

    def train(scan: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        out = scan(**training, backend="cpu")
        return torch.autograd.grad(out, list(training.values()), torch.ones_like(out))

    ways = {"in_place": cross_selective_scan, "copied": plain_cross_scan}
    seconds = _best_times({f"{way}_{what.__name__}": (partial(what, scan), rounds)
                           for way, scan in ways.items() for what in (forward, train)})
    return {
        f"map_in_place_over_map_copied_forward_{name}": seconds["in_place_forward"] / seconds["copied_forward"],
        f"map_in_place_over_map_copied_training_{name}": seconds["in_place_train"] / seconds["copied_train"],
        f"map_in_place_forward_{name}_ms": seconds["in_place_forward"] * 1e3,
    }


def _candidates(shape: _Shape, inputs: dict[str, Any]) -> tuple[Tensor, dict[str, tuple[Callable[[], object], int]]]:
    """The output of the kernel, and what to time how often."""
    from mambaseg.bench._exp_roof import exp2_many

    last = {name: inputs[name].transpose(1, 2).contiguous().transpose(1, 2) for name in ("u", "delta")}
    training: dict[str, Any] = {name: value.clone().requires_grad_() for name, value in inputs.items()}
    out = selective_scan(**training, delta_softplus=True, backend="cpu")
    leaves, grad_out = list(training.values()), torch.randn_like(out)
    gated = {**inputs, "z": torch.randn_like(out)}
    rounds = shape.rounds
    return out, {
        "exp_roof": (lambda: exp2_many(_ROOF_VALUES), rounds),
        "cpu_forward": (lambda: _forward(inputs, "cpu"), rounds),
        "cpu_forward_channels_last": (lambda: _forward({**inputs, **last}, "cpu"), rounds),
        "cpu_forward_gated": (lambda: _forward(gated, "cpu"), rounds),
        "cpu_forward_for_training": (lambda: selective_scan(**training, delta_softplus=True, backend="cpu"), rounds),
        "cpu_backward": (lambda: torch.autograd.grad(out, leaves, grad_out, retain_graph=True), rounds),
        "torch_forward": (lambda: _forward(inputs, "torch"), 2),
        "lean_loop_forward": (lambda: _lean_loop(**inputs), shape.reference_rounds),
        "reference_forward": (lambda: _forward(inputs, "reference"), shape.reference_rounds),
    }


def _inputs(shape: _Shape) -> dict[str, Any]:
    """Random tensors with the sizes and the step sizes (0.001 to 0.1) of a fresh network."""
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    D, L, G = shape.channels, shape.length, shape.groups
    return {
        "u": normal(1, D, L),
        "delta": normal(1, D, L) * 0.5,
        "A": -torch.arange(1.0, _N_STATES + 1).repeat(D, 1),
        "B": normal(1, G, _N_STATES, L),
        "C": normal(1, G, _N_STATES, L),
        "D": torch.ones(D),
        "delta_bias": torch.empty(D).uniform_(-6.9, -2.3, generator=generator),
    }


def _forward(inputs: dict[str, Any], backend: str) -> Tensor:
    with torch.no_grad():
        out: Tensor = selective_scan(**inputs, delta_softplus=True, backend=backend)
    return out


def _lean_loop(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
    """The reference with each step discretised when its turn comes: no array over all steps and states.

    A fairer rival than the reference backend, which writes the whole discretisation to memory as published code does.
    """
    group_size = u.shape[1] // B.shape[1]
    dt = step_size(delta, delta_bias, True, torch.float32)
    h, outputs = torch.zeros(u.shape[0], *A.shape), []
    steps = zip(dt.unbind(-1), (dt * u).unbind(-1), B.unbind(-1), C.unbind(-1), strict=True)
    for dt_t, dtu_t, B_t, C_t in steps:
        entry = dtu_t[..., None] * B_t.repeat_interleave(group_size, dim=1)
        h = torch.exp(dt_t[..., None] * A) * h + entry
        outputs.append((h * C_t.repeat_interleave(group_size, dim=1)).sum(-1))
    return gate_and_skip(torch.stack(outputs, dim=-1), u, D, None)


def _best_times(candidates: dict[str, tuple[Callable[[], object], int]]) -> dict[str, float]:
    """Least CPU seconds of each candidate; each runs once before, except the loops, which need no warming."""
    for name, (call, _) in candidates.items():
        if not name.startswith(("reference", "lean")):
            call()
    best = dict.fromkeys(candidates, float("inf"))
    n_rounds = max(rounds for _, rounds in candidates.values())
    for i in range(n_rounds):
        for name, (call, rounds) in candidates.items():
            if i % -(-n_rounds // rounds) == 0:
                started = time.process_time()
                call()
                best[name] = min(best[name], time.process_time() - started)
    return best


def _figures(shape: _Shape, seconds: dict[str, float], error: float) -> dict[str, float]:
    """Names and ratios for the times of one shape."""
    forward = seconds["cpu_forward"]
    states = shape.channels * shape.length * _N_STATES
    roof = seconds["exp_roof"] / _ROOF_VALUES * states
    ratios = {
        "reference_over_cpu_forward": seconds["reference_forward"] / forward,
        "lean_loop_over_cpu_forward": seconds["lean_loop_forward"] / forward,
        "torch_over_cpu_forward": seconds["torch_forward"] / forward,
        "backward_over_forward": seconds["cpu_backward"] / forward,
        "training_forward_over_forward": seconds["cpu_forward_for_training"] / forward,
        "gated_forward_over_forward": seconds["cpu_forward_gated"] / forward,
        "channels_last_forward_over_forward": seconds["cpu_forward_channels_last"] / forward,
        "forward_over_exp_roof": forward / roof,
        "cpu_forward_giga_states_per_s": states / forward / 1e9,
        "cpu_against_torch_max_relative_error": error,
        "cpu_forward_ms": forward * 1e3,
        "cpu_backward_ms": seconds["cpu_backward"] * 1e3,
        "torch_forward_ms": seconds["torch_forward"] * 1e3,
        "reference_forward_ms": seconds["reference_forward"] * 1e3,
    }
    return {_named(name, shape.name): value for name, value in ratios.items()}


def _named(figure: str, shape: str) -> str:
    """The shape goes before the unit: cpu_forward_vm_ms."""
    for unit in ("_giga_states_per_s", "_ms"):
        if figure.endswith(unit):
            return f"{figure.removesuffix(unit)}_{shape}{unit}"
    return f"{figure}_{shape}"

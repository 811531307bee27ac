"""Where prediction spends its time: the share of each kind of layer, and what precision and threads bring.

Networks have random weights, which cost what trained ones do. What is compared runs in turn, round after round, and
medians are taken, so that a busy machine slows all sides alike.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from mambaseg.nets import layers
from mambaseg.nets.registry import build, config_from_plan
from mambaseg.ops import selective_scan
from mambaseg.plan.plan import Plan
from mambaseg.predict.run import predict_logits

__all__ = ["run"]

_N_CLASSES = 3
_SCAN = "mambaseg::scan"
_CONVOLUTIONS = ("convolution", "conv1d", "conv2d", "conv3d", "_nnpack", "slow_conv")
_NORMS = ("norm", "leaky_relu", "relu", "silu", "gelu", "softplus", "sigmoid")


class _Subject(NamedTuple):
    """A network and its window, under the name that its figures carry."""

    label: str
    network: str
    plan: Plan


def run(quick: bool = False) -> dict[str, float]:
    """Figures of prediction on this machine's CPU.

    Parameters
    ----------
    quick : smaller windows and fewer rounds, below 45 s on two cores

    Returns
    -------
    per network and window: seconds a window (float32, two threads), percentages of its time in the scan, in
    convolutions, in norms and activations and in the rest, and how many times longer float32 takes than bfloat16 and
    one thread than two
    """
    figures: dict[str, float] = {}
    for subject in _subjects(quick):
        torch.manual_seed(0)
        config = config_from_plan(subject.plan, 1, _N_CLASSES, network=subject.network)
        network = build(subject.network, **config).eval()
        window = np.random.default_rng(0).normal(size=(1, *subject.plan.patch_size)).astype(np.float32)
        figures |= _measure(subject, network, window, n_rounds=3 if quick else 7)
    return figures


def _subjects(quick: bool) -> list[_Subject]:
    """What is measured."""
    small = [("umamba-bot", (192, 192)), ("umamba-enc", (128, 128)), ("umamba-bot", (16, 48, 48))]
    full = [("umamba-bot", (512, 512)), ("umamba-enc", (512, 512)), ("umamba-bot", (64, 128, 128))]
    return [_Subject(f"{name.replace('-', '_')}_{'x'.join(map(str, patch))}", name, _plan(patch))
            for name, patch in (small if quick else full)]


def _plan(patch: tuple[int, ...]) -> Plan:
    """A network of five stages for a window."""
    ndim, n_stages = len(patch), 5
    return Plan(ndim=ndim, patch_size=patch, batch_size=1, features_per_stage=(32, 64, 128, 256, 320),
                kernel_sizes=((3,) * ndim,) * n_stages, strides=((1,) * ndim, *((2,) * ndim,) * (n_stages - 1)),
                n_blocks_encoder=(2,) * n_stages, n_blocks_decoder=(2,) * (n_stages - 1), transpose=tuple(range(ndim)))


def _measure(subject: _Subject, network: torch.nn.Module, window: np.ndarray[Any, np.dtype[np.float32]],
             n_rounds: int) -> dict[str, float]:
    """All figures of one network."""

    def go(precision: str = "float32", n_threads: int = 2) -> None:
        with _threads(n_threads):
            predict_logits([network], window, subject.plan, n_classes=_N_CLASSES, precision=precision)

    go()  # compiles kernels, allocates
    plain, half, single = _medians([go, lambda: go("bfloat16"), lambda: go(n_threads=1)], n_rounds)
    figures = {"window_s": plain, "float32_over_bfloat16_time_ratio": plain / half,
               "one_over_two_threads_time_ratio": single / plain}
    figures |= {f"{part}_percent": share for part, share in _shares(go).items()}
    return {f"{subject.label}_{name}": value for name, value in figures.items()}


def _medians(sides: list[Callable[[], None]], n_rounds: int) -> list[float]:
    """Median seconds of each side; the sides take turns."""
    seconds: list[list[float]] = [[] for _ in sides]
    for _ in range(n_rounds):
        for side, taken in zip(sides, seconds, strict=True):
            start = time.perf_counter()
            side()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in seconds]


def _shares(go: Callable[[], None]) -> dict[str, float]:
    """Percentage of a run's time in each kind of layer."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own chatter on stderr
    marks = mock.patch.object(layers, "selective_scan", _marked_scan)
    with marks, profile(activities=[ProfilerActivity.CPU]) as profiler:
        start = time.perf_counter()
        go()
        total_us = 1e6 * (time.perf_counter() - start)
    spent = {"scan": 0.0, "convolutions": 0.0, "norms_and_activations": 0.0}
    for event in profiler.events():
        part = _part(event)
        if part is not None:
            spent[part] += event.self_cpu_time_total
    spent["rest"] = max(0.0, total_us - sum(spent.values()))
    return {part: 100 * taken / total_us for part, taken in spent.items()}


def _part(event: Any) -> str | None:
    """Which layers a profiled operation belongs to, None for the rest; whatever runs inside the scan is scan."""
    around = event
    while around is not None:
        if around.name == _SCAN:
            return "scan"
        around = around.cpu_parent
    if any(word in event.name for word in _CONVOLUTIONS):
        return "convolutions"
    return "norms_and_activations" if any(word in event.name for word in _NORMS) else None


def _marked_scan(*arguments: Any, **options: Any) -> Any:
    """The scan under a name that the profiler shows."""
    with record_function(_SCAN):
        return selective_scan(*arguments, **options)


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    """At most `n` threads for torch's own kernels."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)

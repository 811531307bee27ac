"""What every network costs at one size: parameters, multiply-adds, peak memory and the time of one image.

Each network is built in a process of its own, so that its peak of resident memory can be told from that of the others:
what is reported is the peak less what the process held before the network was built, weights included. Times are
medians, float32, on torch's usual threads; they depend on the machine and the moment.

One multiply-add is a multiplication and the addition after it. Counted are convolutions, linear layers and matrix
products, attention's included, as `torch.utils.flop_counter` sees them, halved; not norms, activations and resizing.
The selective scan of D channels, N states and L steps counts ``L D (4 N + 2)``: the exponent ``delta A``, the input
``(delta u) B``, the decay of the state and the read-out with C for each state, ``delta u`` and the skip ``D u`` for
each channel; one more for each channel where it is gated. An exponential counts nothing.
"""

# The scan keeps the letters of its paper.
# ruff: noqa: N803

from __future__ import annotations

import contextlib
import importlib
import math
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from unittest import mock

import psutil
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mambaseg._errors import MissingPackageError
from mambaseg.machine import peak_memory_bytes
from mambaseg.nets import layers
from mambaseg.nets.registry import NETWORKS, build, config_from_plan
from mambaseg.nets.vssm import SS2D
from mambaseg.ops import selective_scan
from mambaseg.plan.network_size import features_per_stage
from mambaseg.plan.plan import Plan

__all__ = ["FIGURES", "count_multiply_adds", "label", "plan_for", "run"]

# What is said of each network, in the order of a table: the end of a figure's name, and the head of its column
FIGURES = {
    "parameters_millions": "Weights (M)",
    "authors_parameters_millions": "authors' (M)",
    "paper_parameters_millions": "paper (M)",
    "multiply_adds_giga": "MACs (G)",
    "peak_memory_mb": "Peak (MB)",
    "image_s": "Time (s)",
}
_SIDE_PX, _QUICK_SIDE_PX = 512, 64
_N_CHANNELS, _N_CLASSES = 3, 3
_LIBRARIES = ("mambaseg.ops.scan_numba", "mambaseg.ops.scan_2d_numba",
              "dynamic_network_architectures.architectures.unet", "monai.networks.nets",
              "torch._dynamo")  # the last is what counting operations loads
_LEAST_EDGE = 4  # nnU-Net pools down to this many pixels

# Counted in the authors' own code at the published configuration: U-Mamba's for the cells of NeurIPS 2022 (512 x 512,
# 3 classes, so the same network as here in full size), VM-UNet 2-2-2-2 / 2-2-2-1, VM-UNetV2 2-2-9-2 and U-Net v2 with
# PVT v2 B2, these for one class
_AUTHORS = {"umamba-bot": 64_797_301, "umamba-enc": 64_014_261, "vmunet": 27_427_561, "vmunetv2": 22_770_934,
            "unetv2": 25_145_036}
_PAPER_MILLIONS = {"vmunet": 30.0}  # arXiv:2402.02491, "about 30M"; its shipped configuration has fewer


def run(quick: bool = False) -> dict[str, float | str]:
    """Figures of all networks for a picture of three channels and three classes.

    Parameters
    ----------
    quick : pictures of 64 x 64 rather than 512 x 512 pixels, and fewer rounds; below 45 s on two cores

    Returns
    -------
    Flat figures, ``<network>_<figure>`` with the names of `FIGURES`: millions of weights here, in the authors' code
    (at its published size) and as the paper says, multiply-adds, memory and time; for a network whose package is not
    installed ``<network>_missing``, a sentence that says what to install
    """
    side = _QUICK_SIDE_PX if quick else _SIDE_PX
    figures: dict[str, float | str] = {"image_side_px": side}
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:  # imports are paid for once
        context.set_forkserver_preload([__name__, *_LIBRARIES])
    for network in NETWORKS:
        with ProcessPoolExecutor(1, mp_context=context) as process:
            found = process.submit(_measure, network, side, 3 if quick else 5).result()
        figures |= {f"{label(network)}_{name}": value for name, value in (found | _published(network)).items()}
    return figures


def label(network: str) -> str:
    """A network's name as the names of figures begin."""
    return network.replace("-", "_")


def plan_for(side: int) -> Plan:
    """nnU-Net's network for square pictures of `side` pixels, a power of two."""
    n_stages = 1 + int(math.log2(side / _LEAST_EDGE))
    return Plan(ndim=2, patch_size=(side, side), batch_size=1, features_per_stage=features_per_stage(n_stages, 32, 512),
                kernel_sizes=((3, 3),) * n_stages, strides=((1, 1), *((2, 2),) * (n_stages - 1)),
                n_blocks_encoder=(2,) * n_stages, n_blocks_decoder=(2,) * (n_stages - 1), transpose=(0, 1))


def count_multiply_adds(network: nn.Module, image: Tensor) -> int:
    """Multiply-adds of one pass over `image`, by the module's convention."""
    n_scan = 0

    def scan(u: Tensor, delta: Tensor, A: Tensor, *rest: Tensor | None, **_: Any) -> Tensor:
        nonlocal n_scan
        n_batch, n_channels, length = u.shape
        has_gate = len(rest) > 3 and rest[3] is not None
        n_scan += n_batch * _scan_multiply_adds(n_channels, A.shape[1], length, has_gate)
        return u

    def cross_scan(module: SS2D, features: Tensor) -> Tensor:
        nonlocal n_scan
        n_batch, _, *sides = features.shape
        length, n_channels = math.prod(sides), module.Ds.numel()
        projections = n_channels * (2 * module.rank + 2 * module.d_state) * length  # of delta, twice, and of B and C
        n_scan += n_batch * (projections + _scan_multiply_adds(n_channels, module.d_state, length, has_gate=False))
        return features

    counter = FlopCounterMode(display=False)
    with (torch.no_grad(), sdpa_kernel(SDPBackend.MATH), mock.patch.object(layers, "selective_scan", scan),
          mock.patch.object(SS2D, "_scan", cross_scan), counter):
        network(image)
    return counter.get_total_flops() // 2 + n_scan


def _scan_multiply_adds(n_channels: int, n_states: int, length: int, has_gate: bool) -> int:
    return length * n_channels * (4 * n_states + 2 + has_gate)


def _published(network: str) -> dict[str, float | str]:
    """Sizes that the authors give."""
    figures: dict[str, float | str] = {}
    if network in _AUTHORS:
        figures["authors_parameters_millions"] = _AUTHORS[network] / 1e6
    if network in _PAPER_MILLIONS:
        figures["paper_parameters_millions"] = _PAPER_MILLIONS[network]
    return figures


def _measure(name: str, side: int, n_rounds: int) -> dict[str, float | str]:
    """All figures of one network, in a fresh process."""
    for library in _LIBRARIES:  # its memory belongs to no network
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    one, line = torch.ones(2), torch.ones(1, 2, 4)  # loads the scan, whose memory belongs to no network
    selective_scan(line, line, -torch.ones(2, 16), torch.ones(1, 16, 4), torch.ones(1, 16, 4), one)
    torch.manual_seed(0)
    image = torch.randn(1, _N_CHANNELS, side, side)
    before_bytes = psutil.Process().memory_info().rss
    try:
        network = build(name, **config_from_plan(plan_for(side), _N_CHANNELS, _N_CLASSES, network=name)).eval()
    except MissingPackageError as error:
        return {"missing": str(error)}
    seconds = []
    with torch.inference_mode():
        for _ in range(1 + n_rounds):
            start = time.perf_counter()
            network(image)
            seconds.append(time.perf_counter() - start)
    peak_bytes = peak_memory_bytes()  # before the attention is computed in another way to be counted
    return {"parameters_millions": sum(value.numel() for value in network.parameters()) / 1e6,
            "multiply_adds_giga": count_multiply_adds(network, image) / 1e9,
            "peak_memory_mb": max(0, peak_bytes - before_bytes) / 1e6,
            "image_s": statistics.median(seconds[1:])}

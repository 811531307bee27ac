"""The figures of `bench networks`: counts against hand counts, names, and what a missing library leaves."""

import json
import math
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from mambaseg.bench import networks
from mambaseg.nets import build
from mambaseg.nets.layers import Mamba
from mambaseg.nets.registry import NETWORKS, config_from_plan
from mambaseg.nets.vssm import SS2D


@pytest.mark.parametrize(("network", "image", "expected"), [
    (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 10, 12), 8 * 3 * 9 * 120),
    (nn.Conv3d(4, 8, 3, stride=2, padding=1, groups=4), (2, 4, 4, 4, 4), 2 * 8 * 27 * 8),
    (nn.ConvTranspose2d(6, 5, 2, 2), (1, 6, 7, 7), 6 * 5 * 4 * 49),
    (nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.LayerNorm(9)), (11, 6), 11 * 54),
])
def test_layers_count_as_by_hand(network: nn.Module, image: tuple[int, ...], expected: int) -> None:
    assert networks.count_multiply_adds(network, torch.randn(image)) == expected


def test_scans_count_by_their_formula() -> None:
    width, length, inner, rank, states = 8, 20, 16, 1, 16
    projections = length * (width * 2 * inner + 4 * inner + inner * (rank + 2 * states) + rank * inner + inner * width)
    conv_beyond_the_end = 3 * 4 * inner  # the causal convolution computes three steps that are cut off
    scan = length * inner * (4 * states + 3)  # with a gate
    assert networks.count_multiply_adds(Mamba(width), torch.randn(1, length, width)) == (
        projections + conv_beyond_the_end + scan)
    height, states = 5, 4
    plane = 4 * height
    outside = plane * (width * 2 * inner + 9 * inner + inner * width)
    inside = plane * 4 * (inner * (rank + 2 * states) + rank * inner + inner * (4 * states + 2))
    assert networks.count_multiply_adds(SS2D(width, states), torch.randn(1, 4, height, width)) == outside + inside


def test_attention_is_counted() -> None:
    class Attention(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.scaled_dot_product_attention(x, x, x)

    assert networks.count_multiply_adds(Attention(), torch.randn(1, 2, 6, 4)) == 2 * 2 * 6 * 6 * 4


def test_a_published_network_has_the_authors_size() -> None:
    plan = networks.plan_for(512)
    for name in ("umamba-bot", "umamba-enc"):
        with torch.device("meta"):
            network = build(name, **config_from_plan(plan, 3, 3, network=name))
        assert sum(value.numel() for value in network.parameters()) == networks._AUTHORS[name]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure in this process."""

    class Now:
        def __init__(self, *_: object, **__: object) -> None: ...
        def __enter__(self) -> "Now":
            return self

        def __exit__(self, *_: object) -> None: ...

        def submit(self, call, *arguments):
            return type("Future", (), {"result": staticmethod(lambda: call(*arguments))})

    monkeypatch.setattr(networks, "ProcessPoolExecutor", Now)


@pytest.mark.usefixtures("here")
def test_a_row_for_each_network_and_a_reason_where_a_library_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "NETWORKS", {name: NETWORKS[name] for name in ("vmunet", "nnunet", "segresnet")})
    monkeypatch.setitem(sys.modules, "dynamic_network_architectures.architectures.unet", None)
    figures = networks.run(quick=True)
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in figures)
    assert figures["vmunet_parameters_millions"] == pytest.approx(27.427_611)  # two more classes than the authors'
    assert figures["vmunet_authors_parameters_millions"] == pytest.approx(27.427_561)
    assert 'pip install "mambaseg[compare]"' in str(figures["nnunet_missing"])
    assert "nnunet_image_s" not in figures
    for name in ("multiply_adds_giga", "image_s"):
        assert math.isfinite(float(figures[f"segresnet_{name}"]))
        assert float(figures[f"segresnet_{name}"]) > 0


@pytest.mark.slow
def test_the_command_prints_one_object_and_nothing_else() -> None:
    run = subprocess.run([sys.executable, "-m", "mambaseg", "bench", "networks", "--quick", "--json", "-"],
                         capture_output=True, text=True, check=True)
    figures = json.loads(run.stdout)
    for name in NETWORKS:
        assert figures[f"{networks.label(name)}_peak_memory_mb"] > 3.9 * figures[
            f"{networks.label(name)}_parameters_millions"]  # at least the weights, four bytes each

"""Shared layers beyond the fixtures: what training does with them."""

import pytest
import torch
from torch import nn

from mambaseg.nets.layers import DropPath, as_channels, drop_rates, init_transformer


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer = DropPath(0.25).train()
    branch = layer(torch.ones(4000, 2, 3))
    per_sample = branch.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    assert per_sample.unique().tolist() == [0, pytest.approx(4 / 3)]
    assert branch.mean().item() == pytest.approx(1, abs=0.05)


def test_drop_path_does_nothing_in_evaluation() -> None:
    branch = torch.randn(3, 2)
    assert torch.equal(DropPath(0.9).eval()(branch), branch)


def test_drop_rates_grow_over_all_blocks() -> None:
    assert drop_rates(0.2, (2, 1, 2)) == [pytest.approx([0, 0.05]), pytest.approx([0.1]), pytest.approx([0.15, 0.2])]
    assert drop_rates(0.2, (1,)) == [[0]]


def test_linear_layers_start_as_transformers_do() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(200, 200)
    init_transformer(layer)
    assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not layer.bias.any()


def test_one_channel_becomes_several_and_others_stay() -> None:
    grey = torch.randn(2, 1, 4, 5)
    assert torch.equal(as_channels(grey, 3), grey.repeat(1, 3, 1, 1))
    assert as_channels(colour := torch.randn(2, 2, 4, 5), 3) is colour

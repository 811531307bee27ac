"""Visual state space layers beyond the fixtures."""

import math

import pytest
import torch
from torch.nn import functional

from mambaseg.nets.vssm import SS2D, PatchExpand, PatchMerging, VSSEncoder


def test_merging_joins_neighbours_with_rows_moving_first() -> None:
    layer = PatchMerging(1)
    joined = []
    layer.norm.register_forward_pre_hook(lambda _, inputs: joined.append(inputs[0]))
    layer(torch.arange(6.0).view(1, 2, 3, 1))  # the third column is odd and dropped
    assert joined[0].flatten().tolist() == [0, 3, 1, 4]


def test_expansion_lays_channels_out_as_a_block() -> None:
    layer = PatchExpand(4, 2)
    spread = []
    layer.norm.register_forward_pre_hook(lambda _, inputs: spread.append(inputs[0]))
    with torch.no_grad():
        layer.expand.weight.copy_(torch.eye(4).repeat(2, 1))
    layer(torch.tensor([1.0, 2, 3, 4]).view(1, 1, 1, 4))  # 8 channels: row 0 has 1 2 | 3 4, row 1 the same again
    assert spread[0][0].tolist() == [[[1, 2], [3, 4]], [[1, 2], [3, 4]]]


def test_ss2d_turns_with_the_image_if_its_directions_agree() -> None:
    torch.manual_seed(0)
    layer = SS2D(8, 4).double()
    with torch.no_grad():
        for weights in (layer.x_proj_weight, layer.dt_projs_weight, layer.dt_projs_bias):
            weights[2:] = weights[:2]  # backward directions as their forward ones
        kernel = layer.conv2d.weight
        kernel.copy_(kernel + kernel.flip(2, 3))
        x = torch.randn(1, 5, 7, 8).double()
        turned = layer(x.flip(1, 2))
        torch.testing.assert_close(turned, layer(x).flip(1, 2))
        assert (turned - layer(x)).abs().max() > 1e-3


def test_ss2d_sees_the_whole_image_from_every_pixel() -> None:
    torch.manual_seed(0)
    layer = SS2D(8, 4).double()
    x = torch.randn(1, 6, 6, 8).double().requires_grad_()
    layer(x)[0, 2, 3].square().sum().backward()
    assert (x.grad.abs().sum(-1) > 0).all()


def test_ss2d_starts_as_mamba_does() -> None:
    torch.manual_seed(0)
    layer = SS2D(32)
    steps = functional.softplus(layer.dt_projs_bias)
    assert (steps > 0.99e-4).all()
    assert (steps < 0.101).all()
    assert torch.equal(layer.A_logs.exp().round(), torch.arange(1.0, 17).expand(4 * 64, 16))
    assert layer.x_proj_weight.std().item() == pytest.approx(1 / math.sqrt(64 * 3), rel=0.05)
    assert layer.dt_projs_weight.abs().max() <= 2**-0.5


def test_half_precision_keeps_the_scan_in_single() -> None:
    encoder = VSSEncoder(3, (1, 1), 8, 4, 0.0).eval()
    image = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        exact = encoder(image)[1]
        with torch.autocast("cpu", torch.bfloat16):
            rounded = encoder(image)[1]
    assert torch.isfinite(rounded).all()
    assert (rounded.float() - exact).norm() < 0.05 * exact.norm()

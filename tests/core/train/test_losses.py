"""Losses against values worked out by hand; nnU-Net's fixtures run in tests/test_golden.py."""

from __future__ import annotations

import math

import pytest
import torch

from mambaseg.train.losses import (
    deep_supervision_loss,
    deep_supervision_weights,
    depth_loss,
    dice_cross_entropy,
    downsample_target,
    region_dice_cross_entropy,
)


def test_perfect_prediction_scores_minus_one() -> None:
    target = torch.tensor([[[[0, 1], [1, 0]]]])
    logits = torch.stack((1.0 - target[:, 0], target[:, 0].float()), 1) * 100
    assert dice_cross_entropy(logits, target).item() == pytest.approx(-1, abs=1e-4)


def test_undecided_prediction_by_hand() -> None:
    # p = 1/2 everywhere, 1 of 4 voxels is foreground: cross entropy ln 2, Dice 2 * 0.5 / (2 + 1)
    target = torch.tensor([[[[0, 1], [0, 0]]]])
    assert dice_cross_entropy(torch.zeros(1, 2, 2, 2), target).item() == pytest.approx(math.log(2) - 1 / 3, abs=1e-5)


def test_ignored_voxels_have_no_gradient() -> None:
    target = torch.tensor([[[[0, 1], [2, 2]]]])
    logits = torch.randn(1, 2, 2, 2, requires_grad=True)
    dice_cross_entropy(logits, target, ignore_label=2).backward()
    assert logits.grad is not None
    assert torch.all(logits.grad[..., 1, :] == 0)
    assert torch.all(logits.grad[..., 0, :] != 0)


def test_a_batch_of_ignored_voxels_gives_zero_gradients_not_nan() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = dice_cross_entropy(logits, torch.full((2, 1, 4, 4), 3), ignore_label=3)
    loss.backward()
    assert loss.item() == pytest.approx(-1)
    assert logits.grad is not None
    assert torch.all(logits.grad == 0)


def test_batch_dice_lets_an_empty_sample_count_little() -> None:
    target = torch.zeros(2, 1, 4, 4, dtype=torch.long)
    target[0, 0, :2] = 1
    logits = torch.stack((1.0 - target[:, 0], target[:, 0].float()), 1) * 20
    logits[1, 1, 0, 0] = 40  # one false voxel where there is no foreground: per-sample Dice of that sample is 0
    per_sample = dice_cross_entropy(logits, target, batch_dice=False)
    over_batch = dice_cross_entropy(logits, target, batch_dice=True)
    assert over_batch < per_sample - 0.4


def test_regions_may_overlap() -> None:
    target = torch.ones(1, 2, 2, 2)
    assert region_dice_cross_entropy(torch.full((1, 2, 2, 2), 50.0), target).item() == pytest.approx(-1, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_do_not_overflow(dtype: torch.dtype) -> None:
    logits = torch.full((1, 2, 300, 300), 3e4, dtype=dtype)
    loss = dice_cross_entropy(logits, torch.ones(1, 1, 300, 300, dtype=torch.long))
    assert torch.isfinite(loss)


def test_the_coarsest_output_has_no_weight() -> None:
    assert deep_supervision_weights(4) == pytest.approx((4 / 7, 2 / 7, 1 / 7, 0))
    assert deep_supervision_weights(2) == (1, 0)
    assert deep_supervision_weights(1) == (1,)


def test_targets_shrink_with_the_strides() -> None:
    target = torch.arange(4 * 8 * 8).reshape(1, 1, 4, 8, 8)
    targets = downsample_target(target, ((1, 1, 1), (1, 2, 2), (2, 2, 2)), 3)
    assert [tuple(t.shape[2:]) for t in targets] == [(4, 8, 8), (4, 4, 4), (2, 2, 2)]
    assert targets[0] is target
    assert targets[1][0, 0, 0, 0, 0] == 9  # the voxel nearest to the centre of the 2 x 2 block, ties go up


def test_deep_supervision_is_the_weighted_sum() -> None:
    outputs = [torch.randn(2, 3, 8, 8), torch.randn(2, 3, 4, 4), torch.full((2, 3, 2, 2), math.nan)]
    targets = downsample_target(torch.randint(0, 3, (2, 1, 8, 8)), ((1, 1), (2, 2), (2, 2)), 3)
    expected = 2 / 3 * dice_cross_entropy(outputs[0], targets[0]) + 1 / 3 * dice_cross_entropy(outputs[1], targets[1])
    torch.testing.assert_close(deep_supervision_loss(outputs, targets), expected)  # weight 0 is skipped, NaN or not


def test_depth_loss_is_least_where_the_probabilities_are_shared_out_as_the_depth_says() -> None:
    depth = torch.tensor([[[[0.0, 1.0], [0.25, -2.0]]]])
    truth = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.25, 0.75]])

    def loss(probabilities: torch.Tensor) -> float:
        logits = torch.zeros(1, 3, 2, 2)
        for (row, column), values in zip(((0, 0), (0, 1), (1, 0)), probabilities, strict=True):
            logits[0, :, row, column] = (values + 1e-9).log()
        return depth_loss(logits, depth, ignore_label=-2).item()

    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / 3  # of the third of three known voxels; Dice is 1
    assert loss(truth) == pytest.approx(entropy - 1, abs=1e-5)
    for wrong in ([0.0, 0.5, 0.5], [0.0, 0.1, 0.9], [0.2, 0.2, 0.6]):
        assert loss(torch.stack([truth[0], truth[1], torch.tensor(wrong)])) > entropy - 1 + 0.01


def test_depths_are_supervised_at_every_level_and_unlabelled_voxels_have_no_gradient() -> None:
    depth = torch.rand(1, 1, 8, 8).masked_fill(torch.rand(1, 1, 8, 8) < 0.4, 0)
    depth[..., 4:, :] = -2
    outputs = [torch.randn(1, 3, 8 >> level, 8 >> level, requires_grad=True) for level in range(3)]
    targets = downsample_target(depth, ((1, 1), (2, 2), (2, 2)), 3)
    deep_supervision_loss(outputs, targets, ignore_label=-2).backward()
    assert outputs[1].grad is not None
    assert outputs[1].grad[..., :2, :].abs().min() > 0
    assert outputs[0].grad is not None
    assert outputs[0].grad[..., 4:, :].abs().max() == 0
    assert outputs[2].grad is None  # the coarsest level weighs nothing

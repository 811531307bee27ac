"""Learning rates against nnU-Net's formula and the ends of the cosine."""

from __future__ import annotations

import pytest
import torch

from mambaseg.train.schedule import learning_rate, optimizer


def test_polynomial_decay_is_nnunets() -> None:
    assert learning_rate("polynomial", 0.01, 0) == 0.01
    assert learning_rate("polynomial", 0.01, 250 / 1000) == pytest.approx(0.01 * 0.75**0.9, rel=1e-12)
    assert learning_rate("polynomial", 0.01, 1) == 0


def test_cosine_rises_then_falls_to_zero() -> None:
    rates = [learning_rate("cosine", 1.0, share) for share in (0, 0.01, 0.02, 0.25, 0.5, 0.75, 1)]
    assert rates[0] == pytest.approx(0.05)
    assert rates[2] == pytest.approx(1)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_a_share_beyond_the_end_stays_at_the_end() -> None:
    assert learning_rate("cosine", 1.0, 1.7) == pytest.approx(0, abs=1e-12)
    assert learning_rate("polynomial", 1.0, -0.1) == 1.0


def test_waves_turn_every_fifty_of_three_hundred_epochs() -> None:
    rates = [learning_rate("waves", 1e-3, epoch / 300) for epoch in range(300)]
    assert rates[0] == pytest.approx(1e-3)
    assert rates[25] == pytest.approx((1e-3 + 1e-5) / 2)
    assert rates[50] == pytest.approx(1e-5)
    assert rates[100] == pytest.approx(1e-3)
    assert learning_rate("waves", 1e-3, 7.5 / 300) == rates[7]  # a step an epoch
    assert {learning_rate("constant", 1e-4, share) for share in (0, 0.5, 1)} == {1e-4}


def test_settings_of_the_optimisers() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1))]
    sgd = optimizer("sgd", weights, 0.01).param_groups[0]
    assert (sgd["momentum"], sgd["nesterov"], sgd["weight_decay"]) == (0.99, True, 3e-5)
    assert optimizer("adamw", weights, 0.01).param_groups[0]["weight_decay"] == 1e-2
    assert optimizer("adamw", weights, 0.01, 1e-4).param_groups[0]["weight_decay"] == 1e-4
    with pytest.raises(ValueError, match="lion"):
        optimizer("lion", weights, 0.01)

"""Which voxel size a plan takes an image to have."""

from __future__ import annotations

import dataclasses

import pytest

from mambaseg.plan import Plan
from tiny_models import tiny_plan


@pytest.fixture
def plan() -> Plan:
    return tiny_plan(n_channels=1, spacing=(2.0, 2.0), unit="um")


def test_a_plan_without_spacing_never_resamples() -> None:
    assert tiny_plan(n_channels=1).spacing_of((0.5, 0.5), "um") is None
    assert tiny_plan(n_channels=1, usual_spacing=(0.5, 0.5)).spacing_of((1.0, 1.0), "px") is None


def test_a_known_voxel_size_comes_in_the_unit_of_the_plan(plan: Plan) -> None:
    assert plan.spacing_of((0.5, 0.25), "um") == (0.5, 0.25)
    assert plan.spacing_of((0.003, 0.0005, 0.0005), "mm") == pytest.approx((3.0, 0.5, 0.5))


def test_an_unknown_voxel_size_is_that_of_the_training_pictures(plan: Plan) -> None:
    assert plan.spacing_of((1.0, 1.0), "px") is None
    usual = dataclasses.replace(plan, usual_spacing=(0.5, 0.4))
    assert usual.spacing_of((1.0, 1.0), "px") == (0.5, 0.4)
    assert usual.spacing_of((1.0, 1.0, 1.0), "px") == (1.0, 0.5, 0.4)  # slices of a volume, one by one
    assert usual.spacing_of((0.5, 0.25), "um") == (0.5, 0.25)
    assert Plan.from_json(usual.to_json()) == usual

"""Batches are made beside the network without taking its cores, and without taking those of threads that come later."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch

from mambaseg.train.augment import augmentation
from mambaseg.train.loader import BatchLoader
from mambaseg.train.sample import Case, PatchSampler
from tests.tiny_models import tiny_plan

PLAN = tiny_plan(2, 1)


@pytest.fixture
def sixteen_cores() -> Any:
    own = torch.get_num_threads()
    torch.set_num_threads(16)
    yield
    torch.set_num_threads(own)


def sampler() -> PatchSampler:
    random = np.random.default_rng(0)
    case = Case("a", random.random((1, 64, 64), np.float32), random.integers(0, 3, (64, 64)).astype(np.int16))
    case.find_foreground(False)
    return PatchSampler([case], PLAN, seed=0)


def cores_of_a_new_thread() -> int:
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize(("is_shared", "expected"), [(True, 2), (False, 16)])
def test_only_the_thread_that_makes_batches_has_fewer_cores(sixteen_cores: None, is_shared: bool,
                                                            expected: int) -> None:
    seen = []

    def look(**sample: Any) -> Any:
        seen.append(torch.get_num_threads())
        return sample

    with BatchLoader(sampler(), look, None, is_shared=is_shared) as batches:
        next(iter(batches))
        assert torch.get_num_threads() == 16
        assert cores_of_a_new_thread() == 16
    assert set(seen) == {expected}


def test_the_number_of_cores_changes_no_batch(sixteen_cores: None) -> None:
    found = []
    for is_shared in (True, False):
        transform = augmentation(PLAN, instances=False, pictures=True)
        with BatchLoader(sampler(), transform, None, seed=3, is_shared=is_shared) as batches:
            found.append([batch for batch, _ in zip(batches, range(3), strict=False)])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.target, other.target)

"""The verdict: honest about noise, about false finds, and about what was forgotten."""

from __future__ import annotations

import numpy as np
import pytest

from mambaseg.learn.examples import Example, sparse_labels
from mambaseg.learn.holdout import Unit, split, units
from mambaseg.learn.judge import Forgetting, _mean_dice, _object_quality, judge
from mambaseg.train.sample import UNLABELLED


def test_a_clear_gain_is_better_and_noise_is_not() -> None:
    random = np.random.default_rng(0)
    before = random.uniform(0.2, 0.4, 12)
    clear = judge(before, before + 0.3 + random.normal(0, 0.05, 12))
    assert clear.better
    assert clear.gain_low > 0
    assert clear.sentence.startswith("Better: ")
    noise = judge(before, before + random.normal(0, 0.2, 12) * np.tile([1, -1], 6))
    assert not noise.better
    assert "keep the old model" in noise.sentence
    worse = judge(before, before - 0.2)
    assert not worse.better
    assert worse.sentence.startswith("Worse: ")


def test_two_objects_prove_nothing() -> None:
    verdict = judge(np.array([0.1, 0.2]), np.array([0.9, 0.9]))
    assert not verdict.better
    assert "too few" in verdict.sentence
    assert not judge(np.zeros(0), np.zeros(0)).better


def test_forgetting_more_than_a_point_is_not_better() -> None:
    before, after = np.full(8, 0.3), np.linspace(0.7, 0.8, 8)
    assert judge(before, after, Forgetting("5 of its old pictures", 0.9, 0.895)).better
    forgot = judge(before, after, Forgetting("5 of its old pictures", 0.9, 0.8))
    assert not forgot.better
    assert "forgot" in forgot.sentence
    assert forgot.forgetting is not None
    assert forgot.forgetting.points == pytest.approx(10)


def test_quality_of_an_object_by_hand() -> None:
    truth = np.zeros((10, 10), np.int32)
    truth[2:6, 2:6] = 7  # 16 pixels
    found = np.zeros((10, 10), np.int32)
    found[2:6, 2:4] = 1  # 8 of them
    unit = Unit(0, np.ones((10, 10), bool), 7)
    assert _object_quality(truth, found, unit) == pytest.approx(0.5)
    found[8:10, 8:10] = 2  # a false find in the labelled surroundings
    assert _object_quality(truth, found, unit) == pytest.approx(0.5 / 1.5)
    assert _object_quality(truth, np.zeros_like(truth), unit) == 0
    assert _object_quality(truth, np.ones_like(truth), unit) < 0.2


def test_dice_of_a_slice_by_hand() -> None:
    truth, found = np.zeros((1, 4, 4), np.int32), np.zeros((1, 4, 4), np.int32)
    truth[0, 0], found[0, :2] = 1, 1
    assert _mean_dice(truth, found, Unit(0, np.ones((1, 4, 4), bool))) == pytest.approx(2 * 4 / (4 + 8))


def test_kept_aside_objects_are_never_trained_on_and_the_choice_is_fixed() -> None:
    labels = np.full((60, 60), UNLABELLED, np.int32)
    labels[5:55, 5:55] = 0
    for number in range(16):
        y, x = 8 + 12 * (number // 4), 8 + 12 * (number % 4)
        labels[y:y + 6, x:x + 6] = number + 1
    first, again = split([labels], True), split([labels], True)
    assert [unit.label for unit in first.judged] == [unit.label for unit in again.judged]
    assert len(first.judged) == 3
    assert len(first.stopping) == 2
    left = set(np.unique(first.labels[0]))
    for unit in (*first.judged, *first.stopping):
        assert unit.label not in left
        assert (first.labels[0][unit.mask] == UNLABELLED).all()
    assert not {unit.label for unit in first.judged} & {unit.label for unit in first.stopping}
    assert not split([labels], True, share=0).judged


def test_slices_are_kept_aside_whole() -> None:
    labels = np.full((12, 8, 8), UNLABELLED, np.int32)
    labels[[1, 5, 9]] = 0
    labels[[1, 5, 9], 2:5] = 1
    found = units(labels, instances=False)
    assert [int(np.flatnonzero(unit.mask.any((1, 2)))[0]) for unit in found] == [1, 5, 9]
    kept = split([labels], False)
    assert len(kept.judged) == 1
    assert np.count_nonzero((kept.labels[0] != UNLABELLED).any((1, 2))) == 2


def test_a_densely_labelled_picture_is_judged_in_blocks() -> None:
    labels = np.zeros((20, 50), np.int32)
    labels[5:10] = 1
    found = units(labels, instances=False)
    assert len(found) == 5
    assert sum(int(unit.mask.sum()) for unit in found) == labels.size


def test_a_touched_object_counts_whole_with_a_collar_of_background() -> None:
    """Who mends a part of an outline vouches for the object, and for the free voxels just outside of it."""
    import mambaseg

    labels = np.zeros((30, 30), np.int32)
    labels[10:20, 10:20], labels[10:20, 21:26] = 1, 2
    corrections = np.zeros((30, 30), np.int32)
    corrections[18:20, 10:20] = 2  # the lower rim of object 1
    sparse = sparse_labels(Example(mambaseg.Image.from_array(np.zeros((30, 30), np.float32)), corrections, labels),
                           "instances")
    assert (sparse[10:20, 10:20] == 1).all()
    assert sparse[8, 15] == 0
    assert sparse[15, 22] == UNLABELLED  # its neighbour was not looked at
    assert sparse[2, 2] == UNLABELLED

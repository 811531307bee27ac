"""Doubt is put where the probabilities are undecided, and what was looked at is not shown again."""

from __future__ import annotations

import numpy as np
import pytest

from mambaseg.learn.uncertainty import doubt_map, least_sure


def objects() -> tuple[np.ndarray, np.ndarray]:
    """Three objects of falling sureness, and a doubtful patch that belongs to none."""
    labels = np.zeros((60, 60), np.int32)
    foreground = np.zeros((60, 60), np.float32)
    for number, (y, sure) in enumerate([(5, 0.98), (20, 0.6), (35, 0.8)], 1):
        labels[y:y + 8, 10:20] = number
        foreground[y:y + 8, 10:20] = sure
    foreground[45:55, 40:50] = 0.45
    return np.stack([1 - foreground, foreground * 0.7, foreground * 0.3]), labels


def test_objects_and_missed_ones_by_rank() -> None:
    probabilities, labels = objects()
    found = least_sure(probabilities, labels, "instances")
    assert [doubt.label for doubt in found] == [0, 2, 3, 1]
    assert found[0].centre == pytest.approx((49.5, 44.5))
    assert found[1].box == ((20, 28), (10, 20))
    assert found[1].score == pytest.approx(0.8, abs=1e-5)
    assert [doubt.label for doubt in least_sure(probabilities, labels, "instances", n_most=1)] == [0]


def test_what_was_looked_at_is_left_out() -> None:
    probabilities, labels = objects()
    looked_at = np.zeros(labels.shape, bool)
    looked_at[15:60, :] = True
    assert [doubt.label for doubt in least_sure(probabilities, labels, "instances", looked_at=looked_at)] == [1]


def test_slices_of_a_volume() -> None:
    probabilities = np.zeros((3, 6, 20, 20), np.float32)
    probabilities[0] = 1
    probabilities[:, 4, 5:15, 5:15] = np.array([0.4, 0.35, 0.25])[:, None, None]
    found = least_sure(probabilities, probabilities.argmax(0), "classes")
    assert len(found) == 1
    assert found[0].box == ((4, 5), (0, 20), (0, 20))
    assert found[0].centre == pytest.approx((4, 9.5, 9.5))


def test_doubt_by_hand() -> None:
    assert doubt_map(np.array([[0.5], [0.3], [0.2]]), "classes") == pytest.approx(0.8)
    assert doubt_map(np.array([[0.5], [0.3], [0.2]]), "instances") == pytest.approx(1.0)
    assert doubt_map(np.array([[0.9], [0.4]]), "regions") == pytest.approx(0.8)

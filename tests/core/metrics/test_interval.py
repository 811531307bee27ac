import numpy as np
import pytest

from mambaseg.metrics.interval import bootstrap


def test_the_interval_is_that_of_a_mean():
    values = np.random.default_rng(0).normal(0.8, 0.1, (400, 1))
    low, high = bootstrap(values)
    # the mean of 400 numbers is known to 1.96 standard errors
    assert [low, high] == pytest.approx([values.mean() - 0.0098, values.mean() + 0.0098], abs=0.0015)
    assert bootstrap(values) == [low, high]


def test_pictures_without_a_score_do_not_count():
    values = np.array([[0.2], [np.nan], [0.4], [0.9]])
    assert bootstrap(values) == bootstrap(values[[0, 2, 3]])
    assert bootstrap(values[:2]) is None


def test_classes_of_a_picture_are_drawn_together():
    # one class is what the other lacks: their mean is the same for every choice of pictures
    first = np.random.default_rng(1).random(30)
    assert bootstrap(np.column_stack([first, 1 - first])) == pytest.approx([0.5, 0.5])
    low, high = bootstrap(np.column_stack([first, first]))
    assert high - low > 0.1


def test_many_pictures_are_drawn_in_parts(monkeypatch):
    values = np.random.default_rng(2).random((50, 2))
    whole = bootstrap(values)
    monkeypatch.setattr("mambaseg.metrics.interval._MOST_NUMBERS", 500)
    assert bootstrap(values) == pytest.approx(whole, abs=0.01)

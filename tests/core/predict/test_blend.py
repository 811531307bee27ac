import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mambaseg.predict.blend import Blend, gaussian_weights, logits_to_probabilities, probabilities_to_labels
from mambaseg.predict.windows import window_grid


@pytest.mark.parametrize("tile", [(1,), (7, 12), (8, 80, 72)])
def test_weights_are_positive_and_greatest_in_the_middle(tile):
    weights = gaussian_weights(tile)
    assert weights.shape == tile
    assert weights.min() > 0
    assert weights[tuple(side // 2 for side in tile)] == weights.max() == 10


@given(st.lists(st.integers(1, 40), min_size=2, max_size=3), st.sampled_from([0.25, 0.5, 1.0]))
def test_constant_windows_blend_to_the_constant(shape, step):
    tile = (12, 9, 8)[: len(shape)]
    blend = Blend(2, shape, torch.tensor(gaussian_weights(tile)))
    for start in window_grid(shape, tile, step):
        blend.add(torch.tensor([0.7, -3.0]).reshape(2, *[1] * len(tile)).expand(2, *tile), start)
    mean = blend.mean()
    assert mean.shape == (2, *shape)
    np.testing.assert_allclose(mean[0], 0.7, atol=1e-6)
    np.testing.assert_allclose(mean[1], -3.0, atol=3e-6)


def test_where_no_window_lies_the_mean_is_zero():
    blend = Blend(1, (4, 9), torch.ones(4, 4))
    blend.add(torch.ones(1, 4, 4), (0, 0))
    assert blend.mean()[0, 0].tolist() == [1] * 4 + [0] * 5


def test_overlapping_windows_are_averaged_by_their_weights():
    blend = Blend(1, (3,), torch.tensor([1.0, 3.0]))
    blend.add(torch.tensor([[4.0, 4.0]]), (0,))
    blend.add(torch.tensor([[8.0, 8.0]]), (1,))
    assert blend.mean().tolist() == [[4.0, 5.0, 8.0]]  # in the middle (3 * 4 + 1 * 8) / 4


def test_softmax_and_sigmoid_by_hand_also_for_large_logits():
    logits = np.array([[0.0, 1000.0], [np.log(3.0), 0.0]], np.float32)
    np.testing.assert_allclose(logits_to_probabilities(logits.copy(), "classes"), [[0.25, 1], [0.75, 0]], atol=1e-6)
    np.testing.assert_allclose(logits_to_probabilities(logits.copy(), "regions"), [[0.5, 1], [0.75, 0.5]], atol=1e-6)


def test_the_first_of_equally_probable_classes_wins():
    probabilities = np.array([[0.2, 0.4, 0.3], [0.4, 0.4, 0.3], [0.4, 0.2, 0.4]])
    labels = probabilities_to_labels(probabilities, "classes")
    assert labels.dtype == np.uint8
    assert labels.tolist() == [1, 0, 2]


def test_later_regions_are_painted_over_earlier_ones():
    probabilities = np.array([[0.9, 0.9, 0.5, 0.2], [0.1, 0.6, 0.5, 0.8]])
    assert probabilities_to_labels(probabilities, "regions").tolist() == [1, 2, 0, 2]
    assert probabilities_to_labels(probabilities, "regions", (300, 7)).tolist() == [300, 7, 0, 7]


def test_many_classes_fit_their_dtype():
    probabilities = np.zeros((300, 2), np.float32)
    probabilities[[299, 255], [0, 1]] = 1
    assert probabilities_to_labels(probabilities).tolist() == [299, 255]

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mambaseg.resample import resample, resample_labels, resampled_shape, separate_axis


@pytest.mark.parametrize(
    ("spacing", "new_spacing", "axis"),
    [
        ((1, 1, 1), (1, 1, 2), None),
        ((5, 1, 1), (1, 1, 1), 0),
        ((1, 1, 5), (1, 1, 1), 2),
        ((2, 1, 1), (4, 1, 1), 0),  # the source is not anisotropic enough, so the target decides
        ((0.3, 1.2, 1.2), (1, 1, 1), None),  # two equally coarse axes
        ((9, 1), (1, 1), None),  # a picture has no slices
    ],
)
def test_the_axis_across_thick_slices_is_singled_out(spacing, new_spacing, axis):
    assert separate_axis(spacing, new_spacing) == axis


def test_halves_round_to_even_and_no_axis_vanishes():
    assert resampled_shape((5, 7, 1), (0.5, 0.5, 1), (1, 1, 9)) == (2, 4, 1)


def test_a_ramp_doubled_by_hand():
    ramp = np.array([[[0.0, 4.0]]], np.float32)
    np.testing.assert_allclose(resample(ramp, (1, 4), (1, 2), (1, 1), order=1), [[[0, 1, 3, 4]]], atol=1e-6)


def test_thick_slices_are_repeated_not_mixed():
    volume = np.zeros((1, 3, 4, 4), np.float32)
    volume[0, 1] = 1
    result = resample(volume, (6, 8, 8), (5, 1, 1), (2.5, 0.5, 0.5))
    np.testing.assert_allclose(result[0].mean(axis=(1, 2)), [0, 0, 1, 1, 0, 0], atol=1e-6)


@given(st.integers(0, 2**31), st.sampled_from([(1, 1, 1), (6, 1, 1), (1, 5, 1)]), st.sampled_from([1, 3]))
def test_images_stay_in_their_range_and_return_to_their_shape(seed, spacing, order):
    random = np.random.default_rng(seed)
    shape = tuple(random.integers(2, 9, 3))
    image = random.normal(size=(2, *shape)).astype(np.float32)
    other = resample(image, tuple(random.integers(1, 12, 3)), spacing, (1, 1, 1), order)
    assert image.min() <= other.min()
    assert other.max() <= image.max()
    assert resample(other, shape, (1, 1, 1), spacing, order).shape == image.shape


@given(st.integers(0, 2**31))
def test_labels_are_never_invented(seed):
    random = np.random.default_rng(seed)
    labels = random.choice(np.array([-1, 0, 3, 7], np.int16), size=tuple(random.integers(1, 7, 3)))
    result = resample_labels(labels, tuple(random.integers(1, 10, 3)), (1, 1, 1), (1, 1, 1))
    assert result.dtype == labels.dtype
    assert set(np.unique(result)) <= set(np.unique(labels))


def test_the_same_grid_is_returned_untouched():
    image = np.ones((1, 2, 3), np.float32)
    assert resample(image, (2, 3), (1, 1), (1, 1)) is image
    assert resample_labels(image[0], (2, 3), (1, 1), (1, 1)).base is image

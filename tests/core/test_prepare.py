import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mambaseg._errors import DatasetError, ImageError, ModelError
from mambaseg.plan import Plan
from mambaseg.prepare import normalise, prepare, restore

CT = {"mean": 60.0, "std": 45.0, "percentile_00_5": -30.0, "percentile_99_5": 165.0}
SCHEMES = ("ct", "zscore", "percentile", "rescale_to_0_1", "rgb_to_0_1", "nonorm")


def plan(ndim: int = 3, **changes) -> Plan:
    values = {"ndim": ndim, "patch_size": (8,) * ndim, "batch_size": 2, "features_per_stage": (4,),
              "kernel_sizes": ((3,) * ndim,), "strides": ((1,) * ndim,), "n_blocks_encoder": (1,),
              "n_blocks_decoder": (), "transpose": tuple(range(ndim)), "normalisation": ("nonorm",)}
    return Plan(**(values | changes))


# --- there and back ---------------------------------------------------------------------------------------------------

@given(st.data())
def test_undoing_gives_back_the_frame(data):
    ndim = data.draw(st.sampled_from([2, 3]))
    shape = data.draw(st.tuples(*[st.integers(1, 7)] * ndim))
    transpose = tuple(data.draw(st.permutations(range(ndim))))
    frame = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(2, *shape)).astype(np.float32)
    for axis, size in enumerate(shape):  # an empty rim of any width
        low, high = sorted(data.draw(st.tuples(st.integers(0, size), st.integers(0, size))))
        kept = np.zeros(size, bool)
        kept[low:high] = True
        frame *= kept.reshape((-1, *(1,) * (ndim - axis - 1)))
    recipe = plan(ndim, transpose=transpose, normalisation=("nonorm",) * 2, crop_to_nonzero=data.draw(st.booleans()))
    prepared = prepare(frame, None, recipe)
    np.testing.assert_array_equal(restore(prepared.array, prepared), frame)
    assert prepared.array.shape[1:] == prepared.shape_after_crop


def test_the_crop_is_tight_and_the_rim_gets_what_lies_outside():
    frame = np.zeros((1, 6, 7, 8), np.uint16)
    frame[0, 2:4, 1:6, 3:5] = 9
    prepared = prepare(frame, (1, 1, 1), plan(transpose=(2, 0, 1)))
    assert prepared.crop == ((3, 5), (2, 4), (1, 6))
    back = restore(np.zeros((2, 2, 2, 5), np.float32), prepared, outside=(1.0, 0.0))
    assert back.shape == (2, 6, 7, 8)
    np.testing.assert_array_equal(back[0] == 0, frame[0] > 0)
    assert not back[1].any()


def test_an_anisotropic_volume_returns_to_its_own_grid():
    frame = np.random.default_rng(0).normal(size=(1, 30, 28, 7)).astype(np.float32)
    prepared = prepare(frame, (0.7, 0.7, 4.0), plan(transpose=(2, 0, 1), spacing=(3.0, 1.0, 1.0)))
    assert prepared.array.shape == (1, 9, 21, 20)
    assert restore(prepared.array, prepared).shape == frame.shape


def test_resampling_there_and_back_keeps_a_smooth_image():
    z, y, x = np.meshgrid(*[np.linspace(0, 3, n) for n in (24, 30, 26)], indexing="ij")
    frame = (np.sin(z) + np.cos(y) * x)[None].astype(np.float32) + 5
    prepared = prepare(frame, (1, 1, 1), plan(spacing=(0.7, 0.8, 0.9)))
    assert np.abs(restore(prepared.array, prepared, order=3) - frame).max() < 0.01 * np.ptp(frame)


def test_without_a_known_spacing_nothing_is_resampled():
    frame = np.ones((1, 5, 5, 5), np.float32)
    assert prepare(frame, None, plan(spacing=(2.0, 2.0, 2.0))).array.shape == frame.shape


def test_a_picture_plan_takes_a_volume_slice_by_slice():
    frame = np.random.default_rng(0).integers(1, 99, (1, 4, 10, 12)).astype(np.uint8)
    prepared = prepare(frame, (3.0, 1.0, 1.0), plan(2, spacing=(2.0, 2.0)))
    assert prepared.array.shape == (1, 4, 5, 6)
    assert prepared.plan_spacing == (3.0, 2.0, 2.0)


def test_a_volume_plan_of_pictures_takes_a_picture():
    frame = np.arange(12, dtype=np.uint8).reshape(1, 3, 4)
    prepared = prepare(frame, None, plan(2, transpose=(1, 0, 2), crop_to_nonzero=False))
    np.testing.assert_array_equal(prepared.array, frame)


def test_a_picture_is_prepared_as_the_volume_of_one_slice_that_nnunet_makes_of_it():
    frame = np.random.default_rng(0).integers(0, 3, (2, 17, 23)).astype(np.uint8)
    recipe = plan(2, spacing=(1.0, 1.5), normalisation=("zscore", "rescale_to_0_1"), use_mask_for_norm=(True, False))
    flat, volume = (prepare(array, spacing, recipe, np.zeros(array.shape[1:], int))
                    for array, spacing in ((frame, (2.0, 0.5)), (frame[:, None], (999.0, 2.0, 0.5))))
    np.testing.assert_array_equal(flat.array, volume.array[:, 0])
    np.testing.assert_array_equal(flat.labels, volume.labels[0])


def test_labels_follow_their_image_and_mark_the_outside():
    frame = np.zeros((1, 5, 6, 7), np.float32)
    frame[0, 1:4, 1:5, 1:6] = 3
    frame[0, 1, 1, 1] = 0  # a corner of the box that is outside
    labels = np.zeros((5, 6, 7), np.uint8)
    labels[2, 2, 2:4] = 200
    prepared = prepare(frame, None, plan(transpose=(1, 2, 0)), labels)
    assert prepared.labels.shape == prepared.array.shape[1:] == (4, 5, 3)
    assert prepared.labels[0, 0, 0] == -1
    np.testing.assert_array_equal(np.argwhere(prepared.labels == 200), [[1, 1, 1], [1, 2, 1]])


# --- normalising ------------------------------------------------------------------------------------------------------

def test_normalisation_by_hand():
    values = np.array([-100.0, 60.0, 105.0, 900.0], np.float32)
    expected = {
        "ct": [-2, 0, 1, 105 / 45],
        "rescale_to_0_1": [0, 0.16, 0.205, 1],
        "nonorm": values.tolist(),
        "zscore": ((values - values.mean()) / values.std()).tolist(),
    }
    for scheme, wanted in expected.items():
        channel = values.copy()
        normalise(channel, scheme, CT)
        np.testing.assert_allclose(channel, wanted, rtol=1e-6)
    channel = np.array([0.0, 51.0, 255.0], np.float32)
    normalise(channel, "rgb_to_0_1", {})
    np.testing.assert_allclose(channel, [0, 0.2, 1])
    channel = np.arange(1001, dtype=np.float32)
    normalise(channel, "percentile", {})
    np.testing.assert_allclose(channel[[10, 998]], [0, 1], atol=1e-6)


def test_zscore_under_a_mask_leaves_the_rest_alone():
    frame = np.zeros((1, 4, 4, 4), np.float32)
    frame[0, :, :2] = np.arange(1, 33).reshape(4, 2, 4)
    recipe = plan(normalisation=("zscore",), use_mask_for_norm=(True,), crop_to_nonzero=False)
    array = prepare(frame, None, recipe).array[0]
    assert not array[:, 2:].any()
    assert abs(array[:, :2].mean()) < 1e-6
    assert abs(array[:, :2].std() - 1) < 1e-6


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("value", [0.0, 0.1, 200.1])
def test_a_constant_image_stays_finite_and_small(scheme, value):
    recipe = plan(2, normalisation=(scheme,), intensities=(CT,))
    array = prepare(np.full((1, 33, 31), value, np.float32), None, recipe).array
    assert np.isfinite(array).all()
    assert np.abs(array).max() <= max(value, 3.2)


def test_few_bright_spots_on_an_empty_ground_are_kept_by_percentiles():
    channel = np.zeros(10_000, np.float32)
    channel[:3] = 7
    normalise(channel, "percentile", {})
    assert channel[:4].tolist() == [1, 1, 1, 0]


# --- bad input --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", [np.float16, np.float32, ">f8"])
def test_nan_and_infinities_become_the_smallest_finite_value_and_are_counted(dtype):
    frame = np.array([[[5, np.nan, 3], [np.inf, 4, -np.inf]]], dtype)
    prepared = prepare(frame, None, plan(2))
    assert prepared.n_replaced == 3
    np.testing.assert_array_equal(prepared.array[0], [[5, 3, 3], [3, 4, 3]])


@pytest.mark.parametrize("scheme", ["zscore", "percentile", "rescale_to_0_1"])
@pytest.mark.parametrize("frame", [
    np.array([[[0, 1e300], [5e299, -1e300]]]),
    np.array([[[0, 2**64 - 1], [2**63, 7]]], np.uint64),
    np.array([[[0, 3e38], [-3e38, 7]]], np.float32),
], ids=["float64", "uint64", "float32"])
def test_huge_values_neither_overflow_nor_collapse(frame, scheme):
    array = prepare(frame, None, plan(2, normalisation=(scheme,))).array
    assert np.isfinite(array).all()
    assert np.ptp(array) > 0.5


def test_the_frame_given_is_not_changed():
    frame = np.random.default_rng(0).normal(size=(1, 6, 6)).astype(np.float32)
    before = frame.copy()
    prepare(frame, None, plan(2, normalisation=("zscore",)))
    np.testing.assert_array_equal(frame, before)


VOLUME = np.ones((1, 4, 4, 4), np.float32)


@pytest.mark.parametrize(("frame", "spacing", "changes", "labels", "error", "says"), [
    (VOLUME * np.nan, None, {}, None, ImageError, "no finite value"),
    (VOLUME[:, :0], None, {}, None, ImageError, "empty"),
    (VOLUME.astype(complex), None, {}, None, ImageError, "complex"),
    (VOLUME[:, 0], None, {}, None, ModelError, "2 spatial axes, but the model takes 3"),
    (VOLUME, None, {"normalisation": ("zscore", "zscore")}, None, ModelError, "1 channels, but the model takes 2"),
    (VOLUME, (1, 0, 1), {}, None, ImageError, "positive"),
    (VOLUME, (1, 1), {}, None, ImageError, "one per axis"),
    (VOLUME, (1e4, 1e4, 1e4), {"spacing": (1.0, 1.0, 1.0)}, None, ImageError, "spacing and its unit"),
    (VOLUME, None, {}, np.zeros((4, 4), int), DatasetError, "one grid"),
    (VOLUME * 300, None, {"normalisation": ("rgb_to_0_1",)}, None, ImageError, "8-bit"),
    (VOLUME, None, {"normalisation": ("ct",)}, None, ModelError, "percentile|mean"),
    (VOLUME, None, {"normalisation": ("magic",)}, None, ModelError, "zscore"),
])
def test_what_cannot_be_prepared_is_said(frame, spacing, changes, labels, error, says):
    with pytest.raises(error, match=says):
        prepare(frame, spacing, dataclasses.replace(plan(), **changes), labels)

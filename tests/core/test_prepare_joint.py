"""Normalisation of all channels together: the recipes of VM-UNet and U-Net v2."""

import numpy as np
import pytest

import tiny_models
from mambaseg._errors import ImageError, ModelError
from mambaseg.prepare import prepare


def prepared(frame: np.ndarray, *schemes: str) -> np.ndarray:
    return prepare(frame, None, tiny_models.tiny_plan(2, len(schemes), normalisation=schemes)).array


def test_minmax_255_scales_all_channels_alike() -> None:
    frame = np.array([[[10, 20]], [[30, 40]], [[50, 110]]], np.uint8)
    found = prepared(frame, *["minmax_255"] * 3)
    np.testing.assert_allclose(found, 255 * (frame - 10.0) / 100, rtol=1e-6)


def test_minmax_255_undoes_any_standardisation_before_it() -> None:
    frame = np.random.default_rng(0).normal(size=(3, 8, 9)).astype(np.float32)
    changed = prepared(frame * 7 - 3, *["minmax_255"] * 3)
    np.testing.assert_allclose(changed, prepared(frame, *["minmax_255"] * 3), atol=2e-4)
    assert changed.min() == 0
    assert changed.max() == pytest.approx(255)


def test_minmax_255_of_a_constant_picture_is_zero() -> None:
    assert not prepared(np.full((3, 4, 4), 7, np.uint8), *["minmax_255"] * 3).any()


def test_imagenet_standardises_each_colour_by_its_own_numbers() -> None:
    frame = np.array([[[0, 255]], [[0, 255]], [[0, 51]]], np.uint8)
    found = prepared(frame, *["imagenet"] * 3)
    expected = [[(0 - 0.485) / 0.229, (1 - 0.485) / 0.229], [(0 - 0.456) / 0.224, (1 - 0.456) / 0.224],
                [(0 - 0.406) / 0.225, (0.2 - 0.406) / 0.225]]
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-5)


def test_imagenet_takes_8_bit_colours() -> None:
    with pytest.raises(ImageError, match="8-bit"):
        prepared(np.full((3, 2, 2), 4000, np.uint16) * np.arange(3, dtype=np.uint16)[:, None, None], *["imagenet"] * 3)
    with pytest.raises(ModelError, match="red, green and blue"):
        prepared(np.zeros((1, 2, 2), np.uint8), "imagenet")


def test_a_joint_scheme_of_some_channels_is_refused() -> None:
    with pytest.raises(ModelError, match="all channels together"):
        prepared(np.zeros((2, 2, 2), np.uint8), "minmax_255", "zscore")

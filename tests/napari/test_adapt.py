"""Layers to images: what is guessed, what is lazy, and labels that lie exactly where their image lies."""

from typing import Any

import numpy as np
import pytest
from napari.layers import Image as ImageLayer
from napari.layers import Labels

from mambaseg import UserError
from napari_mambaseg._adapt import guess, labels_shape, source_of, to_image, with_axes


def layer(*shape: int, **options: Any) -> ImageLayer:
    return ImageLayer(np.arange(np.prod(shape), dtype=np.uint16).reshape(shape), **options)


@pytest.mark.parametrize(("given", "axes"), [
    (layer(40, 50), "YX"),
    (layer(20, 40, 50), "ZYX"),
    (layer(3, 40, 50), "CYX"),
    (layer(20, 40, 50, units=("s", "um", "um")), "TYX"),
    (layer(20, 40, 50, axis_labels=("time", "y", "x")), "TYX"),
    (layer(6, 20, 40, 50), "TZYX"),
    (layer(2, 20, 40, 50), "CZYX"),
    (layer(9, 2, 40, 50), "TCYX"),
    (layer(9, 2, 20, 40, 50), "TCZYX"),
    (layer(9, 20, 2, 40, 50), "TZCYX"),
    (layer(4, 5, 6, 40, 50, axis_labels=("T", "Z", "C", "Y", "X")), "TZCYX"),
    (ImageLayer(np.zeros((40, 50, 3), np.uint8), rgb=True), "YXS"),
    (ImageLayer(np.zeros((9, 40, 50, 4), np.uint8), rgb=True), "ZYXS"),
])
def test_axes_are_guessed_from_names_units_and_shape(given: ImageLayer, axes: str) -> None:
    assert guess(given).axes == axes


@pytest.mark.parametrize(("units", "scale", "spacing", "unit"), [
    (("um", "um"), (0.5, 0.25), (0.5, 0.25), "um"),
    (("nm", "nm"), (500, 250), (0.5, 0.25), "um"),
    (("mm", "um"), (0.5, 250), (0.5, 0.25), "mm"),
    (("cm", "mm"), (0.1, 2), (1.0, 2.0), "mm"),
    (("pixel", "pixel"), (0.5, 0.25), (0.5, 0.25), "px"),
    (("um", "pixel"), (2, 3), (2.0, 3.0), "px"),
])
def test_spacing_comes_from_scale_and_units(units: Any, scale: Any, spacing: Any, unit: str) -> None:
    reading = guess(layer(4, 5, scale=scale, units=units))
    assert reading.spacing == pytest.approx(spacing)
    assert reading.unit == unit


def test_channels_come_first_and_labels_lose_them() -> None:
    given = layer(6, 7, 3)
    source = source_of(given, with_axes(given, "YXC"))
    image = to_image(source)
    assert (image.axes, image.data.shape) == ("CYX", (3, 6, 7))
    np.testing.assert_array_equal(image.data[1], given.data[..., 1])
    assert labels_shape(source) == (6, 7)


def test_alpha_is_no_channel() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (8, 9, 4), dtype=np.uint8)
    image = to_image(source_of(ImageLayer(picture, rgb=True)))
    assert image.is_rgb
    np.testing.assert_array_equal(image.data, picture[..., :3].transpose(2, 0, 1))


def test_one_time_point_is_a_volume() -> None:
    given = layer(5, 6, 7, 8)
    image = to_image(source_of(given), (slice(2, 3), slice(None), slice(1, 4), slice(None)))
    assert (image.axes, image.data.shape) == ("ZYX", (6, 3, 8))
    np.testing.assert_array_equal(image.data, given.data[2, :, 1:4])


def test_multiscale_gives_its_finest_level() -> None:
    fine = np.random.default_rng(0).random((64, 80))
    source = source_of(ImageLayer([fine, fine[::2, ::2], fine[::4, ::4]], multiscale=True))
    np.testing.assert_array_equal(to_image(source).data, fine)


def test_lazy_array_is_not_loaded_and_a_part_loads_only_its_chunks() -> None:
    da = pytest.importorskip("dask.array")
    loaded = []

    def chunk(block_info: Any = None) -> Any:
        loaded.append(block_info[None]["chunk-location"])
        return np.zeros((1, 64, 64), np.uint8)

    chunks = ((1,) * 50, (64,) * 8, (64,) * 8)
    lazy = da.map_blocks(chunk, chunks=chunks, dtype=np.uint8, meta=np.zeros((0, 0, 0), np.uint8))
    given = ImageLayer(lazy, contrast_limits=(0, 1))
    loaded.clear()  # napari draws its first slice
    source = source_of(given)
    image = to_image(source, (slice(3, 5), slice(64, 128), slice(0, 64)))
    assert loaded == []
    np.asarray(image.data)
    assert sorted(loaded) == [(3, 1, 0), (4, 1, 0)]


@pytest.mark.parametrize("axes", ["ZYX", "CYX"])
def test_labels_lie_where_the_image_lies(axes: str) -> None:
    turn = [[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]]
    affine = np.eye(4)
    affine[1:, :] = [[0, 1, 0.1, 5], [0, -0.2, 1.1, -3], [0, 0, 0, 1]]
    given = layer(3, 6, 7, scale=(2, 0.5, 0.25), translate=(1, 2, 3), rotate=turn, shear=(0, 0, 0.3), affine=affine,
                  units=("um", "um", "um"), axis_labels=("c", "y", "x"))
    source = source_of(given, with_axes(given, axes))
    labels = Labels(np.zeros(labels_shape(source), int), **source.geometry)
    point = np.array([0.0, 4, 5])
    expected = np.asarray(given.data_to_world(point))
    kept = slice(0 if axes == "ZYX" else 1, None)
    np.testing.assert_allclose(labels.data_to_world(point[kept]), expected[kept])
    assert labels.units == given.units[kept]
    assert labels.axis_labels == given.axis_labels[kept]


def test_layer_with_too_many_axes_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match="6 axes; 2 to 5 can be segmented"):
        guess(layer(1, 1, 1, 1, 4, 5))

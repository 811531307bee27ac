"""Layers that are channels of one image: chosen by a click, in the model's order, not copied before they are read."""

from typing import Any

import numpy as np
import pytest
from napari.layers import Image as ImageLayer

import mambaseg
from napari_mambaseg._adapt import can_be_channels, guess, labels_shape, source_of_channels, to_image
from napari_mambaseg._together import Together

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("index", [
    (slice(None),), (1,), (slice(1, 3), 0), (slice(None), slice(0, 1), slice(2, 5)), (2, slice(None), 3),
    (slice(None), 1, slice(1, 4), slice(2, 3)), (slice(1, 2), slice(1, 2))])
@pytest.mark.parametrize("axis", [0, 1])
def test_arrays_together_are_sliced_like_one(axis: int, index: tuple[Any, ...]) -> None:
    arrays = [RANDOM.integers(0, 99, (3, 6, 7), dtype=np.uint8) for _ in range(3)]
    together, expected = Together(arrays, axis), np.stack(arrays, axis)
    assert (together.shape, together.ndim, together.dtype) == (expected.shape, expected.ndim, expected.dtype)
    assert together.nbytes == expected.nbytes
    np.testing.assert_array_equal(np.asarray(together[index]), expected[index])
    np.testing.assert_array_equal(np.stack([np.asarray(part) for part in together]), expected)


def test_channels_come_in_the_models_order_if_their_names_tell() -> None:
    layers = [ImageLayer(RANDOM.random((5, 20, 30)), name=name, axis_labels=("t", "y", "x"))
              for name in ("w1 DAPI", "w2 actin")]
    reading = guess(layers[0])
    named = source_of_channels(layers, reading, ("Actin", "dapi"))
    assert (named.name, named.channels) == ("w2 actin + w1 DAPI", ("w2 actin", "w1 DAPI"))
    image = to_image(named)
    assert (image.axes, image.data.shape, image.channel_names) == ("TCYX", (5, 2, 20, 30), named.channels)
    np.testing.assert_array_equal(np.asarray(image.data[:, 0]), layers[1].data)
    assert labels_shape(named) == (5, 20, 30)
    frame = to_image(named, (slice(2, 3), slice(None), slice(4, 9)))
    assert (frame.axes, frame.data.shape) == ("CYX", (2, 20, 5))
    assert source_of_channels(layers, reading, ("nucleus", "membrane")).channels == ("w1 DAPI", "w2 actin")


def test_only_grey_pictures_of_one_shape_can_be_channels() -> None:
    grey, larger = ImageLayer(np.zeros((20, 30))), ImageLayer(np.zeros((20, 31)))
    colour = ImageLayer(np.zeros((20, 30, 3)), rgb=True)
    assert can_be_channels([grey, ImageLayer(np.zeros((20, 30), np.uint8))])
    assert not can_be_channels([grey])
    assert not can_be_channels([grey, larger])
    assert not can_be_channels([colour, ImageLayer(np.zeros((20, 30, 3)), rgb=True)])


def test_two_layers_are_segmented_as_one_image(window: Any, models: Any) -> None:
    shown = window(show=True)
    layers = [shown.viewer.add_image(RANDOM.random((40, 44)), name=name, scale=(0.5, 0.5), units=("um", "um"))
              for name in ("DAPI", "Actin")]
    shown.choose_model(models(channels=("actin", "dapi"), kind="classes"))
    shown.viewer.layers.selection = set(layers)
    box = shown["image"]
    assert [box.itemText(number) for number in range(box.count())] == [
        "Actin", "DAPI", "All 2 selected images, in turn", "DAPI + Actin as one image"]
    box.setCurrentIndex(3)
    assert shown["read_as"].text() == "Read as 2-D, 2 channels, 0.50 um/px\nChannels in this order: Actin, DAPI"
    layer = shown.segment()
    image = mambaseg.Image.from_array(np.stack([layers[1].data, layers[0].data]), "CYX", (0.5, 0.5), "um")
    expected = mambaseg.segment(image, shown.panel.segment.model.name)
    np.testing.assert_array_equal(layer.data, expected.labels)
    assert layer.name == "Actin + DAPI front, back"
    np.testing.assert_allclose(layer.data_to_world((3, 4)), layers[0].data_to_world((3, 4)))
    assert box.currentText() == "DAPI + Actin as one image"  # though the result is selected now
    assert not shown["again"].isHidden()
    shown.panel.teaching.corrector.take(layer, shown.panel.segmenter.latest.order, layer.data)
    shown.viewer.layers.remove("Actin")
    assert box.currentText() == "DAPI"

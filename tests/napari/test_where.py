"""Which part is segmented: what is in view, a drawn rectangle, the slice; and what the user looks at."""

from typing import Any

import numpy as np
import pytest

from mambaseg import UserError
from napari_mambaseg._adapt import guess, source_of
from napari_mambaseg._where import Part, focus_point, part_of


@pytest.fixture
def shown(make_napari_viewer: Any, qtbot: Any) -> Any:
    """Adds an image to a viewer that is really drawn, as the view is only known then."""
    viewer = make_napari_viewer(show=True)

    def show(*shape: int, **options: Any) -> Any:
        layer = viewer.add_image(np.zeros(shape, np.uint8), **options)
        qtbot.waitUntil(lambda: layer.corner_pixels.any(), timeout=20_000)
        return viewer, layer, guess(layer)

    return show


def test_view_is_what_the_canvas_shows(shown: Any, qtbot: Any) -> None:
    viewer, layer, reading = shown(400, 600, scale=(2, 2))
    camera = viewer.scene.camera if hasattr(viewer, "scene") else viewer.camera
    camera.zoom /= 2
    qtbot.waitUntil(lambda: tuple(layer.corner_pixels[1]) == (399, 599), timeout=20_000)
    assert part_of(viewer, layer, reading, "view").box is None  # all of it fits
    camera.zoom *= 8
    camera.center = (0, 300, 700)
    qtbot.waitUntil(lambda: layer.corner_pixels[0].all(), timeout=20_000)
    (top, bottom), (left, right) = part_of(viewer, layer, reading, "view").box or ()
    assert 0 < top < 150 < bottom < 400
    assert 0 < left < 350 < right < 600
    assert (top + bottom) / 2 == pytest.approx(150, abs=3)
    assert focus_point(viewer, layer, reading) == pytest.approx((150, 350), abs=1)


def test_slice_and_time_point_are_those_of_the_sliders(shown: Any) -> None:
    viewer, layer, reading = shown(6, 9, 40, 50, scale=(1, 3, 1, 1))
    viewer.dims.set_point(0, 4)
    viewer.dims.set_point(1, 15)
    assert reading.axes == "TZYX"
    assert part_of(viewer, layer, reading, "slice", all_frames=False) == Part((4, 5), ((5, 6), (0, 40), (0, 50)))
    assert part_of(viewer, layer, reading, "whole") == Part()
    assert focus_point(viewer, layer, reading)[0] == 5


def test_rectangle_counts_for_every_slice(shown: Any) -> None:
    viewer, layer, reading = shown(9, 40, 50, scale=(1, 0.5, 0.5), translate=(0, 10, 0))
    viewer.add_shapes([[[12, 5], [12, 10], [15, 10], [15, 5]]], shape_type="rectangle")
    part = part_of(viewer, layer, reading, "region")
    assert part.box == ((0, 9), (4, 11), (10, 21))


def test_without_a_rectangle_it_says_what_to_do(shown: Any) -> None:
    viewer, layer, reading = shown(40, 50)
    with pytest.raises(UserError, match="draw a rectangle on the image"):
        part_of(viewer, layer, reading, "region")
    viewer.add_shapes([[[100, 100], [100, 120], [120, 120], [120, 100]]], shape_type="rectangle")
    with pytest.raises(UserError, match="Nothing of Image lies in the rectangle"):
        part_of(viewer, layer, reading, "region")


def test_part_and_its_margin_stay_within_the_layer(shown: Any) -> None:
    _, layer, _ = shown(6, 9, 40, 50)
    source = source_of(layer)
    part = Part((2, 3), ((0, 2), (10, 20), (45, 50)))
    assert part.slices(source) == (slice(2, 3), slice(0, 9), slice(0, 40), slice(0, 50))
    assert part.slices(source, (1, 8, 8)) == (slice(2, 3), slice(0, 3), slice(2, 28), slice(37, 50))

"""Image and Grid: axes are named, sizes are checked, nothing is copied without need."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mambaseg._errors import ImageError
from mambaseg.image import Grid, Image


@pytest.mark.parametrize(("shape", "dtype", "axes", "is_rgb"), [
    ((5, 7), np.uint16, "YX", False),
    ((5, 7, 3), np.uint8, "CYX", True),
    ((5, 7, 4), np.uint8, "CYX", True),
    ((5, 7, 3), np.uint16, "ZYX", False),
    ((4, 5, 7), np.uint8, "ZYX", False),
    ((2, 4, 5, 7), np.float32, "CZYX", False),
])  # fmt: skip
def test_guess(shape: tuple[int, ...], dtype: type, axes: str, is_rgb: bool) -> None:
    image = Image.from_array(np.zeros(shape, dtype))
    assert (image.axes, image.is_rgb) == (axes, is_rgb)
    assert image.n_channels == (3 if is_rgb else shape[0] if axes[0] == "C" else 1)


def test_alpha_is_dropped_and_colours_keep_their_order() -> None:
    array = np.stack([np.full((2, 3), value, np.uint8) for value in (10, 20, 30, 255)], axis=-1)
    assert Image.from_array(array).data[:, 0, 0].tolist() == [10, 20, 30]


@given(st.permutations("TCZYX"))
def test_any_order_of_axes_comes_to_one(letters: list[str]) -> None:
    truth = np.arange(2 * 3 * 4 * 5 * 6).reshape(2, 3, 4, 5, 6)
    given_axes = "".join(letters)
    array = truth.transpose(["TCZYX".index(letter) for letter in letters])
    sizes = {"Z": 3.0, "Y": 0.5, "X": 0.25}
    spacing = tuple(sizes[letter] for letter in letters if letter in sizes)
    image = Image.from_array(array, given_axes, spacing, "um")
    assert image.axes == "TCZYX"
    assert np.array_equal(image.data, truth)
    assert image.grid.spacing == (3.0, 0.5, 0.25)
    assert np.shares_memory(image.data, truth)


def test_frames_are_views_with_channels_first() -> None:
    image = Image.from_array(np.arange(2 * 4 * 5).reshape(2, 4, 5), "TYX")
    frames = list(image.frames())
    assert [frame.shape for frame in frames] == [(1, 4, 5)] * 2
    assert image.has_time
    assert image.n_frames == 2
    assert np.shares_memory(frames[1], image.data)
    assert [frame.shape for frame in Image.from_array(np.zeros((3, 4, 5)), "CYX").frames()] == [(3, 4, 5)]


@pytest.mark.parametrize(("array", "axes", "words"), [
    (np.zeros((3, 0)), None, "no voxels"),
    (np.zeros((3, 4), complex), None, "complex128"),
    (np.array([["a"]]), None, "astype"),
    (np.zeros((3, 4), object), None, "object"),
    (np.zeros(5), None, "1 axes"),
    (np.zeros((1, 1, 1, 1, 1)), None, "TCZYX"),
    (np.zeros((3, 4)), "ZYX", "names 3"),
    (np.zeros((3, 4)), "YY", "at most once"),
    (np.zeros((3, 4, 5)), "QYX", "not understood"),
    (np.zeros((3, 4, 5)), "YXS", "3 or 4 samples"),
])  # fmt: skip
def test_refused(array: np.ndarray, axes: str | None, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        Image.from_array(array, axes)


@pytest.mark.parametrize("spacing", [(0.0, 1.0), (1.0, -2.0), (1.0, float("nan")), (1.0,), (1.0, 1.0, 1.0)])
def test_impossible_spacing_is_refused(spacing: tuple[float, ...]) -> None:
    with pytest.raises(ImageError, match="spacing"):
        Image.from_array(np.zeros((3, 4)), spacing=spacing)


def test_grid_fills_in_what_is_left_out() -> None:
    grid = Grid((2, 3, 4), (np.float32(2), 1, 1), "mm")
    assert grid.origin_xyz == (0.0, 0.0, 0.0)
    assert np.array_equal(np.reshape(grid.direction, (3, 3)), np.eye(3))
    assert all(type(value) is float for value in grid.spacing)


@pytest.mark.parametrize("changes", [{"unit": "furlong"}, {"direction": (1, 0, 1, 0)}, {"origin_xyz": (1, 2, 3)}])
def test_bad_grid_is_refused(changes: dict) -> None:
    with pytest.raises(ImageError):
        Grid((3, 4), (1, 1), **changes)


def test_affine_takes_the_index_to_the_world_and_back() -> None:
    turn = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    grid = Grid((2, 3, 4), (3.0, 2.0, 0.5), "mm", (10.0, 20.0, 30.0), turn)
    # one step along x goes 0.5 mm along world y
    assert (grid.affine_xyz @ [1, 0, 0, 1]).tolist() == [10.0, 20.5, 30.0, 1.0]
    assert (grid.affine_xyz @ [0, 0, 1, 1]).tolist() == [10.0, 20.0, 33.0, 1.0]
    assert Grid.from_affine(grid.shape, grid.affine_xyz, "mm").is_close(grid, 1e-9)
    assert not grid.is_sheared


def test_other_place_is_not_close() -> None:
    grid = Grid((9, 9), (1.0, 1.0), "mm")
    assert not grid.is_close(Grid((9, 9), (1.0, 1.0), "mm", (0.1, 0.0)))
    assert not grid.is_close(Grid((9, 9), (1.01, 1.0), "mm"))
    assert not grid.is_close(Grid((9, 8), (1.0, 1.0), "mm"))


def test_with_data_keeps_the_grid_and_drops_the_channels() -> None:
    image = Image.from_array(np.zeros((3, 4, 5, 6)), "CZYX", (2, 1, 1), "mm")
    labels = image.with_data(np.ones((4, 5, 6), np.uint8))
    assert labels.axes == "ZYX"
    assert labels.grid is image.grid
    with pytest.raises(ValueError, match="does not lie on a grid"):
        image.with_data(np.ones((4, 5, 7)))


def test_time_stands_for_channels_only_where_there_are_none() -> None:
    image = Image.from_array(np.arange(24).reshape(2, 3, 4), "TYX").time_as_channels()
    assert (image.axes, image.n_channels, image.has_time) == ("CYX", 2, False)
    with pytest.raises(ImageError, match="CYX"):
        image.time_as_channels()


@pytest.mark.parametrize("axes", ["XY", "YXC", "CYY", "ZY"])
def test_axes_in_another_order_are_a_bug(axes: str) -> None:
    with pytest.raises(ValueError, match="axes"):
        Image(np.zeros((2,) * len(axes)), axes, Grid((2, 2), (1, 1)))

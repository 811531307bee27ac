import numpy as np
import pytest

from mambaseg import Grid, Image
from mambaseg.overlay import CLASS_COLOURS, class_colours, instance_colours, overlay


def test_objects_that_nearly_touch_never_share_a_colour() -> None:
    rng = np.random.default_rng(0)
    centres = rng.uniform(0, 120, (200, 2))
    rows, columns = np.mgrid[:120, :120]
    distance = (rows[..., None] - centres[:, 0]) ** 2 + (columns[..., None] - centres[:, 1]) ** 2
    labels = distance.argmin(axis=-1) + 1  # 200 cells without a gap
    colours = instance_colours(labels[None]).astype(int)
    for one, other in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1]), (labels[1:, 1:], labels[:-1, :-1])):
        border = one != other
        assert (colours[one[border]] != colours[other[border]]).any(axis=-1).all()
    assert (colours[0] == 0).all()


def test_more_neighbours_than_colours_still_differ() -> None:
    pairs = [(a, b) for a in range(1, 13) for b in range(a + 1, 13)]  # each meets each in some slice
    labels = np.zeros((len(pairs), 8, 8), int)
    for index, (a, b) in enumerate(pairs):
        labels[index, :, :4], labels[index, :, 4:] = a, b
    colours = instance_colours(labels)
    assert len({tuple(colour) for colour in colours[1:]}) == 12


def test_classes_have_okabe_and_itos_colours() -> None:
    assert [tuple(colour) for colour in class_colours(8)[1:]] == [*CLASS_COLOURS, CLASS_COLOURS[0]]


def test_outlines_lie_at_the_inner_edge_of_a_class() -> None:
    picture = Image(np.full((1300, 1300), 100, np.uint8), "YX", Grid((1300, 1300), (1, 1)))
    labels = np.zeros((1300, 1300), np.uint8)
    labels[100:200, 100:200] = 1
    drawn = overlay(picture, labels, "classes")
    assert drawn.shape == (1300, 1300, 3)
    assert drawn.dtype == np.uint8
    for inside in (100, 101, 198, 199):
        assert tuple(drawn[inside, 150]) == CLASS_COLOURS[0]
    outside = drawn[99, 150]
    assert outside[0] == outside[1] == outside[2]  # grey
    assert tuple(drawn[150, 150]) not in (CLASS_COLOURS[0], tuple(outside))  # faintly filled


@pytest.mark.parametrize(("shape", "expected"), [((60, 80), (480, 640)), ((5000, 100), (4096, 82))])
def test_small_pictures_are_enlarged_and_large_ones_thinned_out(
        shape: tuple[int, int], expected: tuple[int, int]) -> None:
    picture = Image(np.random.default_rng(0).integers(0, 255, shape), "YX", Grid(shape, (1, 1)))
    drawn = overlay(picture, np.zeros(shape, int))
    assert drawn.shape[:2] == expected


def test_a_volume_shows_slices_that_hold_labels_with_square_pixels() -> None:
    shape = (20, 30, 40)
    volume = Image(np.random.default_rng(0).normal(size=shape), "ZYX", Grid(shape, (3, 2, 1), "mm"))
    labels = np.zeros(shape, int)
    labels[5:11, 10:20, 10:30] = 1
    drawn = overlay(volume, labels, "classes")
    height, width = 60 * 8, 40 * 8  # rows are twice as far apart as columns; enlarged eight times
    assert drawn.shape == (2 * height + 6, 3 * width + 12, 3)
    for row in range(2):
        for column in range(3):
            panel = drawn[row * (height + 6):, column * (width + 6):][:height, :width]
            assert (panel == CLASS_COLOURS[0]).all(axis=-1).any()


def test_a_series_shows_its_first_time_point_and_nan_is_dark() -> None:
    values = np.random.default_rng(0).normal(size=(2, 50, 50)).astype(np.float32)
    values[:, :5] = np.nan
    drawn = overlay(Image(values, "TYX", Grid((50, 50), (1, 1))), np.zeros((2, 50, 50), int))
    assert drawn[:40].max() == 0
    assert drawn.max() > 200

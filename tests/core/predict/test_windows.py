import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mambaseg.predict.blend import overlap
from mambaseg.predict.windows import window_grid, window_starts

SIZES = st.integers(1, 16)
STEPS = st.sampled_from([0.25, 0.5, 0.9, 1.0])


@given(st.integers(1, 500), st.integers(1, 64), STEPS)
def test_windows_cover_the_image_and_stay_inside(size, tile, step):
    starts = window_starts(size, tile, step)
    if size <= tile:
        assert starts == (-((tile - size) // 2),)
        return
    assert starts[0] == 0
    assert starts[-1] == size - tile
    assert all(0 <= b - a <= max(1, tile * step + 1) for a, b in itertools.pairwise(starts))
    assert all(b - a <= tile for a, b in itertools.pairwise(starts))


def test_starts_by_hand():
    assert window_starts(110, 64) == (0, 23, 46)
    assert window_starts(513, 512) == (0, 1)
    assert window_starts(5, 8) == (-1,)  # one row above, two below


@pytest.mark.parametrize("step", [0, -0.5, 1.5, float("nan")])
def test_a_step_that_leaves_gaps_is_refused(step):
    with pytest.raises(ValueError, match="step"):
        window_starts(10, 5, step)


@given(st.lists(SIZES, min_size=2, max_size=3), st.data())
def test_every_voxel_lies_in_a_window(shape, data):
    tile = data.draw(st.lists(st.integers(2, 12), min_size=2, max_size=len(shape)))
    seen = np.zeros(shape, int)
    for start in window_grid(shape, tile, data.draw(STEPS)):
        target, source = overlap(start, tile, shape)
        assert seen[target].shape == np.empty(tile)[source].shape
        seen[target] += 1
    assert seen.min() >= 1


@given(st.data())
def test_a_box_keeps_the_grid_and_is_covered(data):
    shape, tile = (40, 33), (8, 16)
    low = [data.draw(st.integers(0, n - 1)) for n in shape]
    box = [(a, data.draw(st.integers(a + 1, n))) for a, n in zip(low, shape, strict=True)]
    everywhere, some = window_grid(shape, tile), window_grid(shape, tile, box=box)
    assert [start for start in everywhere if start in some] == some
    seen = np.zeros(shape, bool)
    for start in some:
        seen[overlap(start, tile, shape)[0]] = True
    assert seen[tuple(slice(*part) for part in box)].all()


def test_windows_near_the_focus_come_first():
    starts = window_grid((64, 64), (16, 16), focus=(60, 3))
    assert starts[0] == (48, 0)
    assert starts[-1] == (0, 48)
    assert sorted(starts) == window_grid((64, 64), (16, 16))


def test_slices_are_walked_one_by_one():
    assert window_grid((3, 8, 8), (8, 8)) == [(0, 0, 0), (1, 0, 0), (2, 0, 0)]

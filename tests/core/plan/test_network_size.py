import pytest
from hypothesis import given
from hypothesis import strategies as st

from mambaseg.plan.network_size import (
    Blocks,
    features_per_stage,
    initial_patch,
    n_activations,
    shrink_patch,
    topology,
)


def test_topology_of_a_square_by_hand():
    # 100 -> 50 -> 25 -> 13 -> 7 and 64 -> 32 -> 16 -> 8 -> 4: four halvings each, then both edges are below 8.
    size = topology((1.0, 1.0), (100, 64))
    assert size.strides == ((1, 1), (2, 2), (2, 2), (2, 2), (2, 2))
    assert size.kernels == ((3, 3),) * 5
    assert size.divisor == (16, 16)
    assert size.patch == (112, 64)


def test_one_long_axis_goes_on_alone_while_it_has_three_edges_left():
    # After three halvings 100 x 40 is 13 x 5: the first axis alone, still 12 or more, is halved once more.
    assert topology((1.0, 1.0), (100, 40)).divisor == (16, 8)
    # 88 x 40 is then 11 x 5, and 11 is below 12.
    assert topology((1.0, 1.0), (88, 40)).divisor == (8, 8)


def test_topology_of_thick_slices_by_hand():
    # 5 mm slices of 1 mm pixels: in-plane only until the pixels are 4 mm, and flat kernels as long.
    size = topology((5.0, 1.0, 1.0), (16, 64, 64))
    assert size.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2))
    assert size.kernels == ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3))
    assert size.divisor == (4, 16, 16)


def test_max_stages_stops_early():
    size = topology((1.0, 1.0), (256, 256), max_stages=3)
    assert size.divisor == (4, 4)
    assert len(size.strides) == len(size.kernels) == 3


def test_initial_patch_is_a_cube_in_the_world_cut_to_the_image():
    # 5 x 1 x 1 mm: a cube of 64^3 voxels has an edge of (64^3 * 5)^(1/3) = 109.4 mm, so 22 slices of 109 pixels.
    assert initial_patch((5.0, 1.0, 1.0), (500, 500, 500), 64**3) == (22, 109, 109)
    assert initial_patch((5.0, 1.0, 1.0), (18.5, 500, 90), 64**3) == (18.5, 109, 90)


def test_activations_by_hand():
    size = topology((1.0, 1.0), (8, 8))
    features = features_per_stage(2, 32, 512)
    assert (size.strides, features) == (((1, 1), (2, 2)), (32, 64))
    # encoder 2*32*64 + 2*64*16, decoder 32*64*(2+1), head 2*64
    assert n_activations(size, features, 2, Blocks()) == 4096 + 2048 + 6144 + 128
    # stem 32*64, blocks 2*32*64 and (2*3+1)*64*16 with a projection, decoder 32*64*(1+1), head
    residual = Blocks(encoder=(1, 3, 4, 6), decoder=1, is_residual=True)
    assert n_activations(size, features, 2, residual) == 2048 + 4096 + 7168 + 4096 + 128


def test_shrinking_crosses_a_power_of_two_by_half_a_step():
    # 256 needs a multiple of 64; 192 would have 32, so the step is 32.
    size = shrink_patch((1.0, 1.0), (256, 256), (300, 300), lambda size: size.patch[1] > 224)
    assert size.patch == (256, 224)


def test_shrinking_beyond_the_smallest_patch_is_an_error():
    with pytest.raises(ValueError, match="cannot lose"):
        shrink_patch((1.0, 1.0), (16, 16), (16, 16), lambda _: True)


@given(
    st.lists(st.tuples(st.floats(0.1, 10), st.integers(1, 600)), min_size=2, max_size=3),
)
def test_every_patch_fits_its_strides(axes):
    spacing, patch = zip(*axes, strict=True)
    size = topology(spacing, patch)
    assert all(edge % divisor == 0 for edge, divisor in zip(size.patch, size.divisor, strict=True))
    assert all(wanted <= edge < wanted + div for wanted, edge, div in zip(patch, size.patch, size.divisor, strict=True))
    assert all(edge // divisor >= 4 or divisor == 1 for edge, divisor in zip(size.patch, size.divisor, strict=True))
    assert len(size.kernels) == len(size.strides)
    assert size.strides[0] == (1,) * len(axes)

"""Patches: where they lie, how often they show foreground, and that a seed repeats them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mambaseg.plan import Plan
from mambaseg.train.sample import Case, PatchSampler, loader_patch_size, slices

PLAN = Plan(ndim=2, patch_size=(32, 32), batch_size=6, features_per_stage=(4, 8), kernel_sizes=((3, 3),) * 2,
            strides=((1, 1), (2, 2)), n_blocks_encoder=(1, 1), n_blocks_decoder=(1,), transpose=(0, 1))


def case(shape: tuple[int, ...] = (200, 180), name: str = "a", weight: float = 1.0, instances: bool = False) -> Case:
    """Two rare classes in an image whose values are the voxel's index."""
    labels = np.zeros(shape, np.int16)
    labels[5:9, 5:9] = 1
    labels[150:152, 100:110] = 2
    made = Case(name, np.arange(labels.size, dtype=np.float32).reshape(1, *shape), labels, weight)
    made.find_foreground(instances)
    return made


def test_a_third_of_the_batch_shows_foreground_of_each_class() -> None:
    sampler = PatchSampler([case()], PLAN, seed=0, margin=False)
    shown = {1: 0, 2: 0}
    for _ in range(40):
        for _, labels in sampler.batch()[4:]:
            for c in shown:
                shown[c] += int((labels == c).any())
    assert shown[1] + shown[2] == 80  # every forced patch; the two never fit in one
    assert min(shown.values()) > 20


def test_patches_are_cut_from_where_they_say() -> None:
    sampler = PatchSampler([case()], PLAN, seed=1, margin=False)
    for image, labels in sampler.batch():
        inside = labels >= 0
        assert image.shape == (1, 32, 32)
        index = image[0][inside].astype(int)
        np.testing.assert_array_equal(case().labels.ravel()[index], labels[inside])
        assert np.all(image[0][~inside] == 0)


def test_small_images_are_padded_with_outside_or_reflected() -> None:
    small = Case("s", np.ones((1, 10, 10), np.float32), np.ones((10, 10), np.int16))
    small.find_foreground(False)
    image, labels = PatchSampler([small], PLAN, seed=0, margin=False).batch()[0]
    assert (labels == 1).sum() == 100
    assert (labels == -1).sum() == 32 * 32 - 100
    assert image.sum() == 100
    image, labels = PatchSampler([small], PLAN, seed=0, margin=False, reflect=True).batch()[0]
    assert (labels == 1).all()
    assert (image == 1).all()


def test_weights_decide_how_often_a_case_is_drawn() -> None:
    sampler = PatchSampler([case(name="a", weight=3), case((64, 64), "b", 1)], PLAN, seed=0, margin=False)
    drawn = [image[0].max() >= 64 * 64 for _ in range(50) for image, _ in sampler.batch()]
    assert 0.65 < np.mean(drawn) < 0.85


def test_the_same_seed_draws_the_same_patches() -> None:
    def draw(seed: int) -> list[np.ndarray]:
        return [image for image, _ in PatchSampler([case()], PLAN, seed).batch()]

    assert all(np.array_equal(a, b) for a, b in zip(draw(3), draw(3), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(draw(3), draw(4), strict=True))


def test_slices_keep_their_foreground() -> None:
    labels = np.zeros((3, 6, 6), np.int8)
    labels[1, 2:4, 2:4], labels[2, 5, 5] = 1, 2
    volume = Case("v", np.arange(108, dtype=np.float32).reshape(1, 3, 6, 6), labels)
    volume.find_foreground(instances=False)
    planes = slices(volume)
    assert [set(plane.locations) for plane in planes] == [set(), {1}, {2}]
    for plane, image, truth in zip(planes, volume.image[0], labels, strict=True):
        np.testing.assert_array_equal(plane.image[0], image)
        assert all((truth[tuple(voxels.T)] == number).all() for number, voxels in plane.locations.items())


def test_instances_count_as_one_class() -> None:
    assert list(case(instances=True).locations) == [0]
    assert set(case().locations) == {1, 2}


def test_background_only_images_are_fine() -> None:
    empty = Case("e", np.zeros((1, 50, 50), np.float32), np.zeros((50, 50), np.int16))
    empty.find_foreground(False)
    assert len(PatchSampler([empty], PLAN, seed=0).batch()) == 6


@pytest.mark.parametrize(("patch", "expected"), [((128, 128, 128), (205, 205, 205)), ((40, 224, 192), (40, 263, 263)),
                                                 ((512, 512), (602, 602))])
def test_loader_patch_is_nnunets(patch: tuple[int, ...], expected: tuple[int, ...]) -> None:
    assert loader_patch_size(patch) == expected


def test_margin_is_the_room_for_rotation() -> None:
    image, _ = PatchSampler([case()], replace(PLAN, patch_size=(64, 64)), seed=0).batch()[0]
    assert image.shape[1:] == loader_patch_size((64, 64))

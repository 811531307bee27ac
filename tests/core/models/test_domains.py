"""Kinds of pictures: real ones from scikit-image and drawn ones, told apart and told alike."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from mambaseg.bench.pictures import bright, phase
from mambaseg.models import load_model
from mambaseg.models.domains import LENGTH, Signatures, is_like, is_new, representatives, signature


def drawn(kind: str, *seeds: int) -> Signatures:
    draw = bright if kind == "bright" else phase
    return tuple(signature(draw(seed)[0][None]) for seed in seeds)


def colour(picture: NDArray[np.generic]) -> NDArray[np.generic]:
    """(channel, y, x); grey is repeated as the nuclei model gets it."""
    return np.broadcast_to(picture, (3, *picture.shape)) if picture.ndim == 2 else np.moveaxis(picture[..., :3], -1, 0)


def test_signature_does_not_change_with_brightness_and_contrast() -> None:
    frame = bright(0)[0][None]
    np.testing.assert_allclose(signature(3000 * frame - 70), signature(frame), atol=0.02)


@pytest.mark.parametrize("shape", [(1, 40, 50), (3, 300, 129), (1, 5, 40, 50), (2, 1, 1, 1)])
def test_signature_is_finite_for_every_shape(shape: tuple[int, ...]) -> None:
    frame = np.random.default_rng(0).normal(size=shape)
    frame.flat[0] = np.nan
    found = signature(frame)
    assert len(found) == LENGTH
    assert np.isfinite(found).all()
    assert np.isfinite(signature(np.full(shape, 7))).all()


def test_drawn_kinds_are_told_apart() -> None:
    known = drawn("bright", *range(12))
    assert [is_new(each, known) for each in drawn("phase", *range(6))] == [True] * 6
    assert sum(is_new(each, known) for each in drawn("bright", *range(50, 62))) <= 2
    taught = drawn("phase", 0)
    assert all(is_like(each, taught, known) for each in drawn("phase", *range(20, 30)))
    assert not any(is_like(each, taught, known) for each in drawn("bright", *range(50, 62)))


def test_real_pictures_go_to_their_kind() -> None:
    known = load_model("nuclei-2d").trained_on
    tissue = colour(data.immunohistochemistry())
    parts = [signature(tissue[:, y:y + 256, x:x + 256]) for y in (0, 256) for x in (0, 256)]
    eye = signature(colour(data.retina())[:, ::4, ::4])
    assert is_new(eye, known)
    assert is_like(eye, (eye,), known)
    assert not any(is_like(part, (eye,), known) for part in parts)
    assert all(is_like(part, (signature(tissue),), known) for part in parts)


def test_a_picture_far_from_all_that_is_known_goes_to_what_was_taught_although_that_is_a_little_farther() -> None:
    rng = np.random.default_rng(0)
    known = tuple(tuple(row) for row in rng.normal(0, 1, (40, LENGTH)))

    def at(distance: float) -> tuple[float, ...]:
        return tuple(np.full(LENGTH, distance))

    assert is_like(at(14), (at(31),), known)  # 14 deviations from the known ones, 17 from the taught one
    assert not is_like(at(14), (at(40),), known)
    assert not is_like(at(1), (at(2.2),), known)  # no stranger: the nearer ones decide
    assert not is_like(at(14), (at(31),), known, rivals=(at(0), at(-2)))  # 14 from what another network was taught


def test_few_known_pictures_tell_nothing() -> None:
    known = drawn("bright", 0, 1)
    new, = drawn("phase", 0)
    assert not is_new(new, known)
    assert not is_new(new, ())
    assert is_like(known[0], (new,), ())


def test_representatives_stand_for_all() -> None:
    rows = (*drawn("bright", *range(30)), *drawn("phase", 0))
    chosen = representatives(rows, 8)
    assert len(chosen) == 8
    assert set(chosen) <= set(rows)
    assert drawn("phase", 0)[0] in chosen  # the odd one is not lost
    assert representatives(rows[:3], 8) == tuple(sorted(rows[:3]))
    assert representatives([], 8) == ()

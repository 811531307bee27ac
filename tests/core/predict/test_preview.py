"""Pieces that a window paints while a segmentation runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

import tiny_models
from mambaseg import Grid, Image, Progress, segment
from mambaseg.predict.blend import Blend
from mambaseg.progress import Preview


def paint(image: Image, model: Any, **options: Any) -> tuple[np.ndarray, np.ndarray, list[Progress]]:
    """The picture that all pieces together make, what was never painted as 99, and the labels."""
    updates: list[Progress] = []
    result = segment(image, model, progress=updates.append, preview=True, **options)
    canvas = np.full(result.labels.shape, 99, np.uint8)
    for update in updates:
        if update.preview is not None:
            piece = update.preview
            frame = canvas if piece.frame is None else canvas[piece.frame]
            where = tuple(slice(first, first + n) for first, n in zip(piece.start, piece.labels.shape, strict=True))
            assert frame[where].shape == piece.labels.shape
            frame[where] = piece.labels
    return canvas, result.labels, updates


def volume(shape: tuple[int, ...], spacing: tuple[float, ...] = (1.0, 1.0, 1.0), axes: str = "ZYX") -> Image:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return Image(values, axes, Grid(shape[-len(spacing):], spacing, "mm"))


@pytest.mark.parametrize("kind", ["classes", "regions"])
def test_pieces_together_are_the_result(tmp_path: Path, kind: str) -> None:
    model = tiny_models.save_tiny(tmp_path / "m", channels=("MRI",), ndim=3, kind=kind, transpose=(2, 0, 1))
    canvas, labels, updates = paint(volume((20, 30, 40)), model, focus=(10, 5, 35))
    assert len(np.unique(labels)) > 1
    np.testing.assert_array_equal(canvas, labels)
    assert [update.preview is None for update in updates] == [True] + [False] * (len(updates) - 1)


def test_pieces_of_a_series_say_their_frame_and_slices_lie_where_they_belong(tmp_path: Path) -> None:
    model = tiny_models.save_tiny(tmp_path / "m", channels=("MRI",), ndim=2, kind="classes")
    canvas, labels, _ = paint(volume((2, 3, 40, 50), axes="TZYX"), model)
    assert len(np.unique(labels)) > 1
    np.testing.assert_array_equal(canvas, labels)


def test_pieces_follow_the_crop_and_stay_in_the_box(tmp_path: Path) -> None:
    model = tiny_models.save_tiny(tmp_path / "m", channels=("MRI",), ndim=3, kind="classes", crop_to_nonzero=True)
    image = volume((30, 30, 30))
    image.data[:4], image.data[..., 27:] = 0, 0
    canvas, labels, _ = paint(image, model, roi=((2, 20), (10, 25), (0, 30)))
    inside = np.zeros(labels.shape, bool)
    inside[4:20, 10:25, :27] = True
    np.testing.assert_array_equal(canvas[inside], labels[inside])
    assert set(np.unique(canvas[~inside])) == {99}


def test_pieces_of_a_resampled_volume_cover_it_and_lie_where_they_belong(tmp_path: Path) -> None:
    model = tiny_models.save_tiny(tmp_path / "m", channels=("MRI",), ndim=3, kind="classes", spacing=(2.0, 1.0, 1.5))
    image = volume((40, 20, 24), spacing=(1.0, 1.6, 1.0))
    smooth = image.with_data(ndimage.gaussian_filter(image.data, 3))
    canvas, labels, _ = paint(smooth, model)
    assert 99 not in canvas
    moved = [np.mean(np.roll(canvas, step, axis) == labels) for axis in range(3) for step in (-1, 1)]
    assert np.mean(canvas == labels) > max(moved)  # nearest neighbour against linear interpolation: not all alike


def test_objects_are_shown_whole() -> None:
    blend = Blend(3, (1, 3), torch.ones(1, 3))
    blend.add(torch.tensor([[[5.0, 0, 0]], [[0, 5.0, 0]], [[0, 0, 5.0]]]), (0, 0))
    labels, first = blend.labels_so_far((0, 0), "instances")
    assert labels.tolist() == [[0, 1, 1]]
    assert labels.dtype == np.uint8
    assert first == (0, 0)


def test_no_preview_unless_asked_for(tmp_path: Path) -> None:
    model = tiny_models.save_tiny(tmp_path / "m", channels=("MRI",), kind="classes")
    updates: list[Progress] = []
    segment(np.random.default_rng(0).normal(size=(40, 40)), model, progress=updates.append)
    assert len(updates) > 1
    assert {update.preview for update in updates} == {None}
    assert Preview(np.zeros((1, 1), np.uint8), (0, 0)).frame is None

"""Volumes whose axes lead elsewhere are found the same in: the same labels at the same places of the patient."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel import orientations
from numpy.typing import NDArray

import cascades
import mambaseg
from mambaseg import Grid, Image
from mambaseg.learn.examples import Example, as_examples, prepare_image
from mambaseg.learn.head import InstantSession
from mambaseg.models import Model, load_model
from mambaseg.models.package import save_package
from mambaseg.orientation import is_orientation, orientation_of, turn_to, turned_image
from mambaseg.progress import Progress
from mambaseg.train.dataset import open_dataset
from mambaseg.train.prepared import prepare_cases

EVERY = ["".join(letters) for order in itertools.permutations(("LR", "PA", "SI"))
         for letters in itertools.product(*order)]
SOME = ["LPS", "RAS", "PIR", "ILA", "SRP"]


def volume(shape: tuple[int, ...] = (9, 12, 15)) -> nibabel.Nifti1Image:
    """Noise with a bright corner, in an oblique RAS grid of unequal voxels."""
    values = np.random.default_rng(3).normal(100, 20, shape[::-1]).astype(np.float32)
    values[:6, :5, :4] += 200
    tilt = np.array([[0.99, -0.1, 0.05], [0.1, 0.99, -0.02], [-0.05, 0.02, 0.99]])
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(tilt)[0] * np.sign(np.diag(np.linalg.qr(tilt)[0])) * (1.0, 1.5, 2.0)
    affine[:3, 3] = (-20, 30, 5)
    image = nibabel.Nifti1Image(values, affine)
    image.header.set_xyzt_units("mm")
    return image


def reoriented(image: nibabel.Nifti1Image, letters: str) -> nibabel.Nifti1Image:
    """The same volume as nibabel turns it."""
    own = orientations.io_orientation(image.affine)
    return image.as_reoriented(orientations.ornt_transform(own, orientations.axcodes2ornt(letters)))


def saved(image: nibabel.Nifti1Image, path: Path) -> Image:
    nibabel.save(image, path)
    return mambaseg.read(path)


def as_array(image: nibabel.Nifti1Image) -> NDArray[Any]:
    """Values in our order of axes."""
    return np.asarray(image.dataobj).T


@pytest.mark.parametrize("letters", EVERY)
def test_every_orientation_is_told_and_turned_as_nibabel_does(tmp_path: Path, letters: str) -> None:
    given = saved(reoriented(volume(), letters), tmp_path / "given.nii.gz")
    assert orientation_of(given.grid) == letters
    turn = turn_to("RAS", given.grid)
    wanted = saved(volume(), tmp_path / "wanted.nii.gz")
    turned = turned_image(given, turn)
    np.testing.assert_array_equal(turned.data, wanted.data)
    assert turned.grid.is_close(wanted.grid)
    np.testing.assert_array_equal(turn.back(turned.data), given.data)


def test_what_does_not_tell_is_left_as_it_is(tmp_path: Path) -> None:
    silent = nibabel.Nifti1Image(as_array(volume()).T, None)
    silent.header.set_sform(np.eye(4), 0)
    silent.header.set_qform(np.eye(4), 0)
    for grid in (saved(silent, tmp_path / "silent.nii.gz").grid, Grid((4, 5, 6), (1, 1, 1), "mm"),
                 Grid((5, 6), (1, 1), "mm", is_of_patient=True)):
        assert orientation_of(grid) == ""
        assert not turn_to("RAS", grid).order
    assert [is_orientation(text) for text in ("RAS", "PIR", "", "RAL", "RAX", "RASS", None)] == [True] * 2 + [False] * 5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A model that learned from RAS volumes; a network that nobody trained tells left from right all the same."""
    folder = tmp_path_factory.mktemp("oriented") / "model"
    cascades.save_stage(folder, 4, orientation="RAS", spacing=(2.0, 1.5, 1.0))
    return load_model(folder)


@pytest.mark.parametrize("letters", SOME)
def test_the_labels_are_those_of_the_volume_as_the_model_knows_it(tmp_path: Path, model: Model, letters: str) -> None:
    known = saved(volume(), tmp_path / "known.nii.gz")
    given = saved(reoriented(volume(), letters), tmp_path / "given.nii.gz")
    turn = turn_to("RAS", given.grid)
    wanted = mambaseg.segment(known, model, keep_probabilities=True)
    assert len(np.unique(wanted.labels)) > 1
    found = mambaseg.segment(given, model, keep_probabilities=True)
    np.testing.assert_array_equal(turn(found.labels), wanted.labels)
    np.testing.assert_array_equal(turn(found.probabilities), wanted.probabilities)
    as_stored = dataclasses.replace(model, plan=dataclasses.replace(model.plan, orientation=""))
    if letters != "RAS":
        assert (turn(mambaseg.segment(given, as_stored).labels) != wanted.labels).any()  # so the turn is needed


def test_regions_focus_and_previews_are_of_the_given_volume(tmp_path: Path, model: Model) -> None:
    given = saved(reoriented(volume((30, 40, 50)), "PIR"), tmp_path / "given.nii.gz")
    whole = mambaseg.segment(given, model).labels
    shape = whole.shape
    canvas = np.zeros(shape, np.uint8)
    starts = []

    def draw(update: Progress) -> None:
        if update.preview is not None:
            piece = update.preview
            canvas[tuple(slice(first, first + size) for first, size in zip(
                piece.start, piece.labels.shape, strict=True))] = piece.labels
            starts.append(np.array(piece.start) + np.array(piece.labels.shape) / 2)

    mambaseg.segment(given, model, preview=True, focus=(0, 0, shape[2] - 1), progress=draw)
    assert (canvas == whole).mean() > 0.99  # the last pieces are drawn before all windows are blended
    distances = [float(np.linalg.norm(middle - (0, 0, shape[2] - 1))) for middle in starts]
    assert distances[0] == min(distances)
    box = ((3, 20), (2, 17), (10, 40))
    part = mambaseg.segment(given, model, roi=box).labels
    inside = tuple(slice(*side) for side in box)
    np.testing.assert_array_equal(part[inside], whole[inside])
    part[inside] = 0
    assert not part.any()


def test_who_does_not_tell_is_told(tmp_path: Path, model: Model) -> None:
    array = Image(as_array(volume()), "ZYX", Grid((9, 12, 15), (2.0, 1.5, 1.0), "mm"))
    notes = mambaseg.segment(array, model).record["notes"]
    assert any("how the patient lies" in note and "RAS" in note for note in notes)
    oriented = saved(volume(), tmp_path / "known.nii.gz")
    assert not any("how the patient lies" in note for note in mambaseg.segment(oriented, model).record["notes"])
    assert mambaseg.estimate(saved(reoriented(volume(), "PIR"), tmp_path / "turned.nii.gz"), model).n_windows > 0


def test_corrections_lie_where_they_were_made(tmp_path: Path, model: Model) -> None:
    corrections = np.zeros((9, 12, 15), np.int32)
    corrections[:3, :5, :4] = 2
    turned_file = nibabel.Nifti1Image(corrections.T, volume().affine)
    given = saved(reoriented(volume(), "ILA"), tmp_path / "given.nii.gz")
    own = as_array(reoriented(turned_file, "ILA"))
    example, = as_examples([Example(given, own)], model)
    np.testing.assert_array_equal(example.corrections, corrections)
    known = saved(volume(), tmp_path / "known.nii.gz")
    np.testing.assert_array_equal(prepare_image(given, model)[0].array, prepare_image(known, model)[0].array)

    session, other = InstantSession(model, given), InstantSession(model, known)
    turn = turn_to("RAS", given.grid)
    np.testing.assert_array_equal(turn(session.learn(own)), other.learn(corrections))
    part = session.look(given, [(0, 7), (2, 12), (0, 6)])
    np.testing.assert_array_equal(part, session.look(given)[:7, 2:12, :6])


def test_training_turns_what_lies_otherwise(tmp_path: Path) -> None:
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    for index, letters in enumerate(("RAS", "RAS", "PIR")):
        image = volume((18, 24, 30))
        labels = nibabel.Nifti1Image((np.asarray(image.dataobj) > 220).astype(np.uint8), image.affine)
        for part, what in (("images", image), ("labels", labels)):
            what.header.set_xyzt_units("mm")
            nibabel.save(reoriented(what, letters), tmp_path / part / f"v{index}.nii.gz")
    data = open_dataset(tmp_path)
    assert data.orientation == "RAS"
    assert len({look.turned_measure("RAS").shape for look in data.looks.values()}) == 1
    model = mambaseg.train(tmp_path, output=tmp_path / "model", iterations=1)
    assert model.plan.orientation == "RAS"
    first, _, last = prepare_cases(data, [*data.train, *data.validation], model.plan)
    np.testing.assert_array_equal(first.image, last.image)
    np.testing.assert_array_equal(first.labels, last.labels)
    assert save_package(tmp_path / "copy", model, model.build().state_dict()).plan.orientation == "RAS"

"""Instant learning: the view follows the strokes, and what is not in view is the network's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import mambaseg
from mambaseg._errors import UserError
from mambaseg.bench.pictures import bright, phase
from mambaseg.learn.head import InstantSession
from mambaseg.learn.simulate import correct_objects
from mambaseg.metrics import f1
from mambaseg.models import Model, load_model
from mambaseg.models.adapters import remove_adapter, save_adapter, switch_adapter
from tiny_models import save_tiny


@pytest.fixture
def own_model(discs_model: Model, tmp_path: Path) -> Model:
    """A copy that a test may write to."""
    return load_model(shutil.copytree(discs_model.folder or Path(), tmp_path / "own"))


@pytest.fixture(scope="module")
def picture() -> tuple[mambaseg.Image, np.ndarray]:
    image, truth = phase(0)
    return mambaseg.Image.from_array(image), truth


def test_before_a_stroke_the_view_shows_what_segment_gives(discs_model: Model,
                                                           picture: tuple[mambaseg.Image, np.ndarray]) -> None:
    image, _ = picture
    result = mambaseg.segment(image, discs_model, keep_probabilities=True)
    session = InstantSession(discs_model, image)
    np.testing.assert_array_equal(session.labels(), result.labels)
    np.testing.assert_allclose(session.probabilities(), result.probabilities, atol=1e-5)
    part = InstantSession(discs_model, image, [(20, 90), (64, 128)])
    assert result.probabilities is not None
    np.testing.assert_allclose(part.probabilities(), result.probabilities[:, 20:90, 64:128], atol=1e-5)


def test_every_stroke_brings_the_view_nearer_to_the_truth(discs_model: Model,
                                                          picture: tuple[mambaseg.Image, np.ndarray]) -> None:
    image, truth = picture
    session = InstantSession(discs_model, image)
    found = session.labels()
    assert f1(truth, found) < 0.2
    corrections, labels = correct_objects(truth, found, 5)
    learned = session.learn(corrections, labels)
    agree = [np.mean((each > 0) == (truth > 0)) for each in (found, learned)]
    assert agree[1] > agree[0] + 0.05
    np.testing.assert_array_equal(session.forget(), found)


def test_few_strokes_move_little_many_move_more(discs_model: Model,
                                                picture: tuple[mambaseg.Image, np.ndarray]) -> None:
    image, truth = picture
    session = InstantSession(discs_model, image)
    before = session.probabilities()
    corrections = np.zeros(truth.shape, np.int32)
    moved = []
    for size in (2, 30):
        corrections[40:40 + size, 40:40 + size] = 1 + (truth[40:40 + size, 40:40 + size])
        session.learn(corrections)
        moved.append(float(np.abs(session.probabilities() - before).mean()))
    assert 0 < moved[0] < moved[1]


def test_what_was_learned_goes_along_to_the_next_view(discs_model: Model,
                                                      picture: tuple[mambaseg.Image, np.ndarray]) -> None:
    image, truth = picture
    session = InstantSession(discs_model, image)
    session.learn(*correct_objects(truth, session.labels(), 5))
    other = mambaseg.Image.from_array(phase(1)[0])
    learned = session.look(other)
    assert not np.array_equal(learned, mambaseg.segment(other, discs_model).labels)


def test_an_adapter_is_stored_shipped_switched_off_and_removed(own_model: Model, tmp_path: Path,
                                                               picture: tuple[mambaseg.Image, np.ndarray]) -> None:
    image, truth = picture
    plain = mambaseg.segment(image, own_model).labels
    session = InstantSession(own_model, image)
    learned = session.learn(*correct_objects(truth, session.labels(), 5))
    session.save("halo")
    stored = load_model(own_model.folder or "")
    assert [adapter.name for adapter in stored.adapters] == ["halo"]
    assert stored.adapters[0].training["n_voxels"] > 0
    kept = mambaseg.segment(image, stored).labels
    assert np.mean((kept > 0) == (learned > 0)) > 0.98  # the blur sees less at the edges of windows than in a view

    shutil.copytree(own_model.folder or "", tmp_path / "shipped")
    np.testing.assert_array_equal(mambaseg.segment(image, load_model(tmp_path / "shipped")).labels, kept)
    np.testing.assert_array_equal(mambaseg.segment(image, switch_adapter(stored, "halo", False)).labels, plain)

    remove_adapter(load_model(own_model.folder or ""), "halo")
    bare = load_model(own_model.folder or "")
    assert bare.adapters == ()
    assert not list((own_model.folder or Path()).glob("adapter-*"))
    np.testing.assert_array_equal(mambaseg.segment(image, bare).labels, plain)


def test_learning_goes_on_from_a_stored_adapter(own_model: Model, picture: tuple[mambaseg.Image, np.ndarray]) -> None:
    image, truth = picture
    first = InstantSession(own_model, image)
    learned = first.learn(*correct_objects(truth, first.labels(), 3))
    first.save("halo")
    second = InstantSession(load_model(own_model.folder or ""), image)
    np.testing.assert_array_equal(second.labels(), mambaseg.segment(image, second.model).labels)
    further = second.learn(*correct_objects(truth, learned, 3))
    second.save("halo")
    kept = mambaseg.segment(image, load_model(own_model.folder or "")).labels
    assert np.mean((kept > 0) == (further > 0)) > 0.98


def test_an_adapter_is_for_the_kind_of_picture_it_was_learned_from(own_model: Model,
                                                                   picture: tuple[mambaseg.Image, np.ndarray]) -> None:
    image, truth = picture
    old = mambaseg.Image.from_array(bright(50)[0])
    before = mambaseg.segment(old, own_model).labels
    session = InstantSession(own_model, image)
    session.learn(*correct_objects(truth, session.labels(), 5))
    stored = session.save("mine")
    result = mambaseg.segment(old, stored)
    np.testing.assert_array_equal(result.labels, before)
    assert any("another kind" in note for note in result.record["notes"])
    assert not any("another kind" in note for note in mambaseg.segment(image, stored).record["notes"])

    again = InstantSession(stored, old)
    np.testing.assert_array_equal(again.labels(), before)
    again.learn(*correct_objects(bright(50)[1], before, 1))
    assert [adapter.name for adapter in again.save("mine").adapters] == ["mine", "mine-2"]


def test_another_kind_of_picture_begins_anew(own_model: Model, picture: tuple[mambaseg.Image, np.ndarray]) -> None:
    image, truth = picture
    session = InstantSession(own_model, image)
    session.learn(*correct_objects(truth, session.labels(), 5))
    stored = session.save("mine")
    other = mambaseg.Image.from_array(bright(50)[0])
    session = InstantSession(stored, image)
    session.learn(*correct_objects(truth, session.labels(), 1))
    np.testing.assert_array_equal(session.look(other), mambaseg.segment(other, stored).labels)


def test_a_changed_adapter_is_refused(own_model: Model, picture: tuple[mambaseg.Image, np.ndarray]) -> None:
    session = InstantSession(own_model, picture[0])
    session.learn(*correct_objects(picture[1], session.labels(), 1))
    session.save("halo")
    file, = (own_model.folder or Path()).glob("adapter-*")
    file.write_bytes(file.read_bytes()[:-4] + b"abcd")
    with pytest.raises(UserError, match='adapter "halo"'):
        load_model(own_model.folder or "").build()


def test_an_adapter_of_other_features_is_refused(own_model: Model) -> None:
    n_outputs = own_model.n_outputs
    weights = torch.eye(n_outputs, n_outputs + 1)
    stored = save_adapter(own_model, "older", [{"weights": weights, "sigma": torch.zeros(1)}], {})
    with pytest.raises(UserError, match=r'"older" was made for another model.* --set removed'):
        stored.build()
    remove_adapter(stored, "older").build()


@pytest.mark.parametrize(("ndim", "shape"), [(3, (20, 24, 18)), (2, (5, 40, 36))])
def test_volumes_and_their_slices(tmp_path: Path, ndim: int, shape: tuple[int, ...]) -> None:
    model = save_tiny(tmp_path / "model", kind="classes", channels=("MR",), ndim=ndim, name="model")
    image = mambaseg.Image.from_array(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    before = mambaseg.segment(image, model).labels
    session = InstantSession(model, image)
    np.testing.assert_array_equal(session.labels(), before)
    corrections = np.zeros(shape, np.int32)
    corrections[2, 4:30, 4:30] = 3
    after = session.learn(corrections)
    wanted = corrections == 3
    assert (after[wanted] == 2).mean() > (before[wanted] == 2).mean()


def test_a_resampled_image_is_shown_on_its_own_grid(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model", kind="classes", channels=("MR",), ndim=3, name="model",
                      spacing=(1.0, 1.0, 1.0), crop_to_nonzero=True)
    values = np.random.default_rng(0).normal(5, 1, size=(10, 24, 30)).astype(np.float32)
    values[:, :4] = 0
    image = mambaseg.Image.from_array(values, spacing=(2.0, 0.8, 0.8), unit="mm")
    result = mambaseg.segment(image, model, keep_probabilities=True)
    session = InstantSession(model, image, [(2, 9), (0, 20), (5, 25)])
    assert result.probabilities is not None
    np.testing.assert_allclose(session.probabilities(), result.probabilities[:, 2:9, 0:20, 5:25], atol=1e-4)


def test_corrections_out_of_view_change_nothing(discs_model: Model,
                                                picture: tuple[mambaseg.Image, np.ndarray]) -> None:
    image, truth = picture
    session = InstantSession(discs_model, image, [(0, 64), (0, 64)])
    before = session.labels()
    corrections = np.zeros(truth.shape, np.int32)
    corrections[100:110, 100:110] = 1
    np.testing.assert_array_equal(session.learn(corrections), before)

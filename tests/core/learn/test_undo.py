"""What a host takes back was no correction, even after a prediction has learned from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mambaseg.image import Image
from mambaseg.learn import Project, ProjectImage, identify
from mambaseg.learn.corrections import CONFIRMED, CORRECTED
from mambaseg.learn.undo import Steps

BLOB, OTHER = (slice(4, 10), slice(4, 10)), (slice(4, 10), slice(20, 26))


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProjectImage]:
    monkeypatch.setenv("MAMBASEG_DATA", str(tmp_path / "data"))
    with_two = np.zeros((30, 40), np.int32)
    with_two[BLOB], with_two[OTHER] = 1, 2
    project = Project.create(tmp_path / "project")
    shown = project.image(identify(Image.from_array(np.arange(1200.0).reshape(30, 40))), "instances")
    shown.show_prediction(with_two)
    yield shown
    project.close()



def test_undo_after_a_prediction_that_learned_from_the_stroke(image: ProjectImage) -> None:
    steps, labels = Steps(image), image.labels()
    former = labels.copy()
    labels[4:10, 10:13] = 1  # one object grows
    steps.record(labels, "brush")
    assert image.counts().n_corrected == 1
    labels[:] = image.show_prediction(labels)
    labels[4:10, 10:13] = 0
    stroke = steps.follow(labels)
    assert stroke is not None
    assert stroke.tool == "undo"
    assert image.corrections().is_empty
    labels[4:10, 10:13] = 1
    redone = steps.follow(labels)
    assert redone is not None
    assert redone.tool == "redo"
    assert image.counts().n_corrected == 1
    labels[:] = image.show_prediction(labels)
    labels[:] = former
    steps.follow(labels)
    assert image.corrections().is_empty
    np.testing.assert_array_equal(image.labels(), former)


def test_undo_leaves_what_was_known_before(image: ProjectImage) -> None:
    steps, labels = Steps(image), image.labels()
    image.confirm(labels, OTHER)
    labels[4:10, 10:13] = 1
    steps.record(labels, "brush")
    labels[:] = image.show_prediction(labels)
    labels[4:10, 13:15] = 1  # the same object once more
    labels[6:8, 20:26] = 0  # and into what was confirmed
    steps.record(labels, "brush")
    labels[:] = image.show_prediction(labels)
    labels[4:10, 13:15], labels[6:8, 20:26] = 0, 2
    steps.follow(labels)
    state = image.corrections().state
    assert (state[OTHER] == CONFIRMED).all()
    assert (state[4:10, 4:13] == CORRECTED).all()
    assert not state[4:10, 13:15].any()


def test_strokes_over_one_another_are_taken_back_one_by_one_or_at_once(image: ProjectImage) -> None:
    steps, labels = Steps(image), image.labels()
    before = [labels.copy()]
    for number in (3, 4, 5):
        labels[15 + number:20 + number, 5:12] = number
        steps.record(labels, "brush")
        before.append(labels.copy())
    labels[:] = before[2]
    steps.follow(labels)
    assert set(np.unique(image.labels())) == {0, 1, 2, 3, 4}
    labels[:] = before[1]
    steps.follow(labels)
    labels[:] = before[2]
    assert steps.follow(labels) is not None
    assert image.counts().n_corrected == 2
    labels[0, 0] = 9  # a new stroke: nothing can be done again
    steps.record(labels, "brush")
    labels[20:25, 5:12] = 5  # as a redo would
    assert steps.follow(labels) is None


def test_a_new_stroke_with_former_labels_is_a_stroke(image: ProjectImage) -> None:
    steps, labels = Steps(image), image.labels()
    assert steps.follow(labels) is None
    labels[20:22, 5:9] = 7
    steps.record(labels, "brush")
    labels[20, 5] = 8
    assert steps.follow(labels) is None
    assert steps.record(labels, "brush") is not None
    assert steps.record(labels, "brush") is None

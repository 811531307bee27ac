"""Corrections: facts that hold against any later prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mambaseg import UserError
from mambaseg.image import Image
from mambaseg.learn import Corrections, Project, apply_locks, identify
from mambaseg.learn.corrections import CONFIRMED, CORRECTED, NOT_LOOKED_AT, encode_marks

SHAPE = (6, 7)
labels_of = arrays(np.int32, SHAPE, elements=st.integers(0, 4))


def row(*values: int) -> np.ndarray:
    return np.array([values], np.int32)


def test_three_states() -> None:
    corrections = Corrections.from_planes(row(1, 2, 0, 0, 3), row(1, 1, 3, 0, 3), row(2, 0, 0, 0, 0))
    assert corrections.state.tolist() == [[CONFIRMED, CORRECTED, CORRECTED, NOT_LOOKED_AT, NOT_LOOKED_AT]]
    assert corrections.to_examples().tolist() == [[2, 3, 1, 0, 0]], "label + 1, erased is background, 0 not looked at"
    assert Corrections.from_planes(row(0, 1), row(0, 1)).is_empty


def test_contradiction_the_later_label_holds_and_it_is_told() -> None:
    corrections = Corrections.from_planes(row(2, 1), row(1, 1), row(2, 2))  # both confirmed as 1, one painted 2
    assert corrections.state.tolist() == [[CORRECTED, CONFIRMED]]
    assert corrections.to_examples().tolist() == [[3, 2]]
    assert corrections.counts().notice.startswith("1 voxel was painted over")
    assert Corrections.from_planes(row(1), row(1)).counts().notice == ""


def test_marks_outlast_the_prediction_that_was_corrected() -> None:
    corrections = Corrections.from_planes(row(2, 1, 0), row(1, 1, 0), row(0, 2, 0))
    shown = apply_locks(row(7, 7, 7), corrections)
    later = Corrections.from_planes(shown, shown, encode_marks(corrections))
    assert shown.tolist() == [[2, 1, 7]]
    assert later.state.tolist() == corrections.state.tolist()


def test_corrected_object_is_a_fact_as_a_whole_also_one_that_shrank() -> None:
    grown = Corrections.from_planes(row(5, 5, 5, 0, 6), row(5, 5, 0, 0, 6), kind="instances")
    shrunk = Corrections.from_planes(row(5, 0, 0, 0, 6), row(5, 5, 0, 0, 6), kind="instances")
    assert grown.to_examples().tolist() == [[6, 6, 6, 0, 0]]
    assert shrunk.to_examples().tolist() == [[6, 1, 0, 0, 0]]


def test_predicted_objects_give_way_to_corrected_ones() -> None:
    before = row(0, 0, 1, 1, 0, 0, 0, 0, 0)
    now = row(0, 4, 4, 4, 0, 0, 0, 0, 0)
    corrections = Corrections.from_planes(now, before, kind="instances")
    again = row(0, 1, 1, 2, 2, 2, 2, 0, 3)  # 1 lies on the fact, 2 reaches into it, 3 is elsewhere
    assert apply_locks(again, corrections).tolist() == [[0, 4, 4, 4, 2, 2, 2, 0, 3]]


def test_removed_object_does_not_come_back_around_what_was_erased() -> None:
    corrections = Corrections.from_planes(row(0, 0, 0, 0, 0), row(0, 1, 1, 1, 0), kind="instances")
    assert apply_locks(row(0, 1, 1, 1, 1), corrections).tolist() == [[0, 0, 0, 0, 0]]


def test_object_at_the_edge_of_a_confirmed_region_stays_whole_but_teaches_only_what_was_seen() -> None:
    now = row(3, 3, 3, 0, 0)
    corrections = Corrections.from_planes(now, now, row(0, 4, 4, 1, 0), kind="instances")
    assert apply_locks(row(1, 1, 1, 1, 0), corrections).tolist() == [[3, 3, 3, 0, 0]]
    assert corrections.to_examples().tolist() == [[0, 4, 4, 1, 0]]
    assert corrections.counts().n_confirmed == 0


def test_huge_object_numbers_are_counted_anew() -> None:
    corrections = Corrections.from_planes(row(1, 0, 0, 0), row(0, 0, 0, 0), kind="instances")
    assert apply_locks(row(0, 2**30, 0, 2**31 - 2), corrections).tolist() == [[1, 3, 0, 2]]
    assert apply_locks(row(9, 2**30, 2**30, 2**31 - 2), corrections).tolist() == [[1, 2, 2, 3]]


def test_counts_of_objects() -> None:
    baseline = np.zeros((20, 20), np.int32)
    for number in range(4):
        baseline[1:5, 5 * number : 5 * number + 3] = number + 1
    labels = baseline.copy()
    labels[1, 0:3] = 0  # one trimmed
    labels[1:5, 5:8] = 0  # one removed
    labels[10:14, 2:6] = 9  # one drawn
    marks = np.where(labels == 4, 5, 0)
    counts = Corrections.from_planes(labels, baseline, marks, "instances").counts()
    assert (counts.n_corrected, counts.n_confirmed) == (3, 1)


def test_counts_of_regions() -> None:
    baseline, labels = np.zeros((9, 9), np.int32), np.zeros((9, 9), np.int32)
    labels[1:3, 1:3] = 1
    labels[6:8, 6:8] = 2
    counts = Corrections.from_planes(labels, baseline, kind="classes").counts()
    assert (counts.n_corrected, counts.n_confirmed) == (2, 0)


def test_examples_that_people_hand_in_are_corrections() -> None:
    examples = row(0, 1, 4)
    corrections = Corrections.from_examples(examples)
    assert corrections.to_examples().tolist() == examples.tolist()
    assert apply_locks(row(8, 8, 8), corrections).tolist() == [[8, 0, 3]]


def test_other_shape_is_one_sentence() -> None:
    with pytest.raises(UserError, match="1 x 2 voxels, but the prediction that they correct is 1 x 3"):
        Corrections.from_planes(row(1, 2), row(1, 2, 3))
    with pytest.raises(UserError, match="1 x 1 voxels, but the corrections are 1 x 2"):
        apply_locks(row(1), Corrections.from_planes(row(1, 2), row(1, 3)))


# --- whatever is predicted, painted, confirmed, undone: facts stay ---

steps = st.lists(st.one_of(
    st.tuples(st.just("predict"), labels_of),
    st.tuples(st.just("paint"), labels_of, arrays(bool, SHAPE)),
    st.tuples(st.just("confirm"), arrays(bool, SHAPE)),
    st.tuples(st.just("unlock"), arrays(bool, SHAPE)),
    st.tuples(st.just("undo")),
    st.tuples(st.just("reopen")),
), max_size=8)  # fmt: skip


@pytest.mark.parametrize("kind", ["classes", "instances"])
@settings(max_examples=25)
@given(steps=steps)
def test_locked_voxels_survive_every_prediction(tmp_path_factory: pytest.TempPathFactory, kind: str,
                                                steps: list[tuple]) -> None:
    folder: Path = tmp_path_factory.mktemp("project")
    identity = identify(Image.from_array(np.zeros(SHAPE, np.uint8)))
    project = Project.open_or_create(folder)
    image, labels, before = project.image(identity, kind), np.zeros(SHAPE, np.int32), None
    for action, *values in steps:
        known = image.corrections()
        if action == "predict":
            labels, before = image.show_prediction(values[0]), None
            np.testing.assert_array_equal(labels[known.locked], known.labels[known.locked])
            after = image.corrections()
            np.testing.assert_array_equal(after.state[known.locked], known.state[known.locked])
        elif action == "paint":
            before, labels = labels, np.where(values[1], values[0], labels)
            image.record(labels)
            changed = labels != before
            states = image.corrections().state
            if kind == "classes":
                np.testing.assert_array_equal(states[~changed], known.state[~changed])
        elif action == "confirm":
            image.confirm(labels, mask=values[0])
            assert image.corrections().locked[values[0]].all()
        elif action == "unlock":
            image.unlock(labels, mask=values[0])
            if kind == "classes":
                assert not image.corrections().locked[values[0]].any()
        elif action == "undo" and before is not None:
            labels, before = before, None
            image.record(labels)
        elif action == "reopen":
            project.close()
            project = Project.open(folder)
            image = project.image(identity, kind)
        np.testing.assert_array_equal(image.labels(), labels)
        np.testing.assert_array_equal(project.journal.replay(identity.checksum), labels)
        whole = image.corrections()
        assert image.counts() == whole.counts()
        np.testing.assert_array_equal(
            whole.state, Corrections.from_planes(labels, image.view.read("baseline"), image.view.read("marks"),
                                                 kind).state)
    project.close()

"""What is drawn in a result is kept, and learned from; nothing that was drawn is ever lost."""

from pathlib import Path

import numpy as np
import pytest

import slicer
from mambaseg import UserError
from mambaseg.learn import identify
from mambaseg.models import read_model
from MambaSegLib._adapt import read_volume
from MambaSegLib._corrections import Correcting, merge
from MambaSegLib._learning import Adapting, Learning
from MambaSegLib._runs import Listener
from MambaSegLib._segments import Painted, number_of, relabel, show_labels
from slicer_stand_in import paint, save


@pytest.fixture
def result(scene, volume, models, oblique):
    """A result of 2 classes, or of objects, that a network could have found; (node, volume, correcting)."""
    def make(kind="classes", labels=None):
        node = volume(matrix=oblique)
        source, model_name = read_volume(node), models(kind=kind)
        if labels is None:
            labels = np.zeros(source.shape, np.uint8)
            labels[5:10, 5:10, 5:10] = 1
            labels[12:16, 12:16, 12:16] = 2
        model = read_model(Path(model_name))
        shown = show_labels(source, Painted.of(labels, model), {}, model, model_name)
        correcting, kept = Correcting.begin(shown, source, labels)
        np.testing.assert_array_equal(kept, labels)
        return shown, node, correcting
    return make


def test_strokes_are_differences_to_the_prediction(result):
    node, volume, correcting = result()
    assert not correcting.record()
    paint(node, "front", np.s_[5, 5, 10:13], volume)
    paint(node, "back", np.s_[12, 12, 12:14], volume, value=False)
    assert correcting.record()
    assert not correcting.record()
    examples = correcting.image.corrections().to_examples()
    assert examples[5, 5, 10:13].tolist() == [2, 2, 2]  # class 1
    assert examples[12, 12, 12:14].tolist() == [1, 1]  # background is right here
    assert np.count_nonzero(examples) == 5
    assert correcting.image.counts().n_corrected == 2


def test_undo_takes_a_stroke_back(result):
    node, volume, correcting = result()
    history = slicer.vtkSegmentationHistory()
    history.SetSegmentation(node.GetSegmentation())
    history.SaveState()
    paint(node, "front", np.s_[5, 5, 10:13], volume)
    assert correcting.record()
    history.RestorePreviousState()
    assert correcting.record()
    assert correcting.image.corrections().is_empty


def test_segment_drawn_over_another_counts_and_keeps_counting(result):
    node, volume, correcting = result()
    paint(node, "back", np.s_[6, 6, 6:9], volume)  # `front` stays below it: two layers
    assert slicer.util.arrayFromSegmentBinaryLabelmap(
        node, node.GetSegmentation().GetSegmentIdBySegmentName("front"), volume)[6, 6, 6]
    for _ in range(2):
        correcting.record()
        assert correcting.labels()[6, 6, 5:9].tolist() == [1, 2, 2, 2]
    assert Correcting.resume(node).labels()[6, 6, 5:9].tolist() == [1, 2, 2, 2]  # the journal knows which one counts
    paint(node, "back", np.s_[6, 6, 6:9], volume, value=False)
    assert correcting.labels()[6, 6, 5:9].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(("before", "was_several", "expected"), [
    (1, False, 2), (2, False, 1), (1, True, 1), (3, True, 2)])
def test_overlap(before, was_several, expected):
    one, two = np.array([[[1, 0, 0]]], np.int32), np.array([[[2, 2, 0]]], np.int32)
    merged, several = merge([one, two], np.array([[[before, 0, 0]]], np.int32), np.array([0] if was_several else []))
    assert merged.tolist() == [[[expected, 2, 0]]]
    assert several.tolist() == [0]


def test_new_segment_of_an_object_model_is_a_new_object(result):
    node, volume, correcting = result("instances")
    node.GetSegmentation().AddEmptySegment("drawn", "drawn")
    paint(node, "drawn", np.s_[1:3, 1:3, 1:3], volume)
    assert correcting.record()
    assert correcting.labels()[1, 1, 1] == 3
    assert number_of(node.GetSegmentation().GetSegment("drawn")) == 3
    assert correcting.image.counts().n_corrected == 1


def test_segment_that_the_model_does_not_know_is_told(result):
    node, volume, correcting = result()
    node.GetSegmentation().AddEmptySegment("tumour", "tumour")
    paint(node, "tumour", np.s_[1:3, 1:3, 1:3], volume)
    assert not correcting.record()
    assert correcting.notice == ("The model knows no “tumour”, so that segment is kept but not learned from; it knows "
                                 "front, back.")


def test_confirmed_slice_is_learned_from_and_locked(result):
    _, _, correcting = result()
    correcting.confirm(((7, 8), (0, 22), (0, 24)))
    corrections = correcting.image.corrections()
    assert corrections.locked[7].all()
    assert not corrections.locked[8].any()
    shown = correcting.image.show_prediction(np.zeros(correcting.source.shape, np.uint8))
    assert shown[7, 5:10, 5:10].all()
    assert not shown[8].any()
    correcting.unlock(((7, 8), (0, 22), (0, 24)))
    assert correcting.image.corrections().is_empty


def test_corrections_stay_when_the_volume_is_segmented_again(result):
    node, volume, correcting = result()
    paint(node, "front", np.s_[0, 0, 0:4], volume)
    correcting.record()
    correcting.close()
    found = np.zeros(correcting.source.shape, np.uint8)
    for keep_locked in (True, False):
        again, shown = Correcting.begin(node, correcting.source, found, keep_locked=keep_locked)
        assert np.count_nonzero(shown) == 4 * keep_locked
        again.close()


def test_saved_scene_opens_with_its_corrections(result, scene, tmp_path):
    node, volume, correcting = result()
    paint(node, "front", np.s_[5, 5, 10:13], volume)
    correcting.record()
    correcting.confirm(((7, 8), (0, 22), (0, 24)))
    before = correcting.image.corrections()
    correcting.close()
    save(scene, tmp_path / "scene.mrml")
    scene.Clear(1)
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Connect()
    resumed = Correcting.resume(scene.GetFirstNodeByClass("vtkMRMLSegmentationNode"))
    assert not resumed.record()
    np.testing.assert_array_equal(resumed.image.corrections().to_examples(), before.to_examples())
    assert resumed.model.classes == ("background", "front", "back")
    paint(resumed.node, "back", np.s_[0, 0, 0:2], resumed.source.node)
    assert resumed.record()
    assert resumed.image.counts().n_corrected == 2


def test_what_cannot_be_gone_on_with_is_a_sentence(result, scene):
    node, volume, correcting = result()
    correcting.close()
    stranger = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "theirs")
    stranger.SetNodeReferenceID("MambaSeg.volume", volume.GetID())
    with pytest.raises(UserError, match="theirs was not made by MambaSeg"):
        Correcting.resume(stranger)
    node.SetAttribute("MambaSeg.project", "/nowhere")
    with pytest.raises(UserError, match="There is no annotation project in /nowhere"):
        Correcting.resume(node)
    node.SetAttribute("MambaSeg.project", str(correcting.project.folder))
    Correcting.resume(node).close()
    slicer.util.arrayFromVolume(volume)[0, 0, 0] += 1
    with pytest.raises(UserError, match=r"^The voxels of CT are not those that .* was made from"):
        Correcting.resume(node)
    scene.RemoveNode(volume)
    with pytest.raises(UserError, match=r"The volume that .* belongs to is not in the scene any more"):
        Correcting.resume(node)


def test_too_many_objects_are_not_corrected_one_by_one(result, monkeypatch):
    monkeypatch.setattr("MambaSegLib._segments.MOST_SEGMENTS", 1)
    with pytest.raises(UserError, match="has too many objects for a segment each"):
        result("instances")


# --- learning: the core's own, in the child process ---


def run_to_end(start, end="finished"):
    """Start a run with a listener, poll it until it has ended in the way that is expected, and give what it came to."""
    ends = []
    run = start(Listener(finished=lambda value: ends.append(("finished", value)),
                         failed=lambda sentence, details: ends.append(("failed", sentence + details)),
                         cancelled=lambda: ends.append(("cancelled", None))))
    while not run.is_over:
        run.poll()
    run.close()
    assert [each for each, _ in ends] == [end], ends
    return ends[0][1]


def test_learning_makes_a_model_that_is_kept_or_thrown_away(result, logic):
    node, _, correcting = result()
    learning = Learning(logic, correcting)
    assert run_to_end(learning.start, "failed").startswith("Nothing is corrected or confirmed yet")
    correcting.confirm(((4, 14), (0, 22), (0, 24)))
    first = correcting.model_name
    for decide in (learning.keep, learning.throw_away):
        lesson = run_to_end(lambda listener: learning.start(listener, iterations=2))
        assert lesson.line.startswith("Before ")
        assert lesson.version.state == "candidate"
        chosen = decide(lesson)
        assert read_model(Path(chosen)).classes == read_model(Path(first)).classes
    assert correcting.model_name == chosen != first
    assert [each.title.split(",")[0] for each in correcting.project.lineage.versions()] == [
        read_model(Path(first)).title, "mine"]
    correcting.project.lineage.check()
    assert node.GetAttribute("MambaSeg.model") == chosen
    assert read_model(Path(learning.go_back(1))).checksum == read_model(Path(first)).checksum


def test_instant_learning_changes_what_was_not_looked_at_and_nothing_else(result, logic):
    node, volume, correcting = result()
    adapting = Adapting(logic, correcting)
    run_to_end(adapting.start, "cancelled")  # nothing to learn from
    paint(node, "front", np.s_[0:3, 0:6, 0:6], volume)
    correcting.record()
    for stroke in (np.s_[17:19, 0:6, 0:6], np.s_[17:19, 10:14, 0:6]):  # the second one in the view of the first
        learned, box = run_to_end(adapting.start)
        assert box == tuple((0, size) for size in correcting.source.shape)
        laid = correcting.laid(learned)
        if laid is not None:
            labels, shown = laid
            relabel(node, correcting.source, Painted.of(shown, correcting.model), correcting.model)
            np.testing.assert_array_equal(correcting.show(labels), shown)
        paint(node, "front", stroke, volume)
        correcting.record()
    labels = correcting.labels()
    assert (labels[0:3, 0:6, 0:6] == 1).all()
    assert (labels[17:19, 0:6, 0:6] == 1).all()
    examples = correcting.image.corrections().to_examples()
    assert set(np.unique(examples[examples > 0])) == {2}  # what was learned is no correction of the user's
    assert np.count_nonzero(examples) <= 3 * 36 + 2 * 36 + 2 * 24


def test_identity_does_not_depend_on_where_a_volume_lies(volume, oblique):
    one, other = read_volume(volume()), read_volume(volume(matrix=oblique))
    assert identify(one.image).checksum == identify(other.image).checksum

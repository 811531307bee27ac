"""The panel, built from its real .ui file, with what a user does in it."""

import re

import numpy as np
import pytest
from PySide6 import QtCore, QtTest, QtWidgets

import slicer
from slicer_stand_in import Window, labels_of, paint, save


def test_same_cards_in_the_same_order_and_every_control_has_its_name(window):
    ui = window.ui
    cards = [ui.segment_card, ui.correct_card, ui.learn_card]
    assert [card.title for card in cards] == ["Segment", "Correct", "Learn"]
    layout = ui.MambaSeg.layout()
    assert sorted(layout.indexOf(card) for card in cards) == [layout.indexOf(card) for card in cards]
    for name in ("image", "model", "run", "cancel", "progress", "learn", "keep", "discard", "confirm", "estimate"):
        assert getattr(ui, name).name == name
    assert ui.correct_waits.text == "Segment something first."
    assert ui.learn_waits.text == "Correct or confirm something first."
    assert not ui.run.enabled
    assert ui.setup_card.isHidden()


def test_segment_from_the_sample_to_the_result(window, models, volume):
    ui = window.ui
    assert not ui.open_sample.isHidden()
    ui.open_sample.click()
    assert ui.open_sample.isHidden()
    assert ui.read_as.text == "3-D, 1 channel, 1.00 x 1.00 x 2.00 mm/voxel"
    window.choose(volume(), models())
    ui.estimate.setText("")
    window.wait(lambda: ui.estimate.text)
    assert ui.estimate.text.startswith("Will take about ")
    ui.run.click()
    assert ui.run.isHidden()
    assert not ui.cancel.isHidden()
    assert ui.progress_line.text == "Preparing"
    lines = []
    window.wait(lambda: lines.append(ui.progress_line.text) or not window.panel.segment.is_busy)
    assert any(line.startswith("Window ") for line in lines)
    assert ui.cancel.isHidden()
    assert ui.message.text.startswith("front ")
    window.settle()
    assert ui.saved.text.startswith("Saved ")
    assert ui.counts.text == "0 corrected, 0 confirmed"
    node = window.panel.correct.correcting.node
    assert ui.editor._told["setSegmentationNode"] == (node,)
    assert slicer.mrmlScene.GetSingletonNode("MambaSeg", "vtkMRMLScriptedModuleNode").GetNodeReference("result") is node


def test_cancel(window, models, volume):
    window.choose(volume(), models())
    window.ui.run.click()
    window.ui.cancel.click()
    assert window.ui.progress_line.text == "Stopping…"
    window.wait(lambda: not window.panel.segment.is_busy)
    assert window.ui.message.text == "Stopped."
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0
    assert window.segment() is not None


def test_several_volumes_in_one_go(window, models, volume):
    from PySide6.QtCore import Qt

    first, second = volume(name="first"), volume(name="second")
    window.choose(first, models())
    window.ui.more_images.setCheckState(second, Qt.CheckState.Checked)
    window.segment()
    found = [slicer.mrmlScene.GetNthNodeByClass(index, "vtkMRMLSegmentationNode") for index in range(2)]
    assert [node.GetNodeReference("MambaSeg.volume").GetName() for node in found] == ["first", "second"]


def test_all_volumes_of_a_project_teach(window, models, volume, scene):
    ui, rng = window.ui, np.random.default_rng(5)
    nodes = [volume(rng.normal(100, 30, (20, 22, 24)).astype(np.int16), name=name) for name in ("one", "two", "three")]
    checksums = []
    for node in nodes:
        window.choose(node, models())
        window.segment()
        checksums.append(window.panel.correct.correcting.image.identity.checksum)
    assert ui.learn_body.isHidden()
    for node in nodes[:2]:  # those that were found before are corrected by choosing them again
        ui.image.setCurrentNode(node)
        window.settle()
        assert window.panel.correct.correcting.source.name == node.GetName()
        region = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
        region.SetSize(100, 100, 8)
        ui.where_region.setChecked(True)
        ui.region.setCurrentNode(region)
        ui.confirm.click()
        window.settle()
    assert not ui.learn_body.isHidden()
    window.panel.learn.options = {"iterations": 2}
    ui.learn.click()
    window.wait(lambda: not window.panel.learn.is_busy)
    lesson = window.panel.learn._lesson
    assert lesson.version.learned_from["images"] == [checksums[1], checksums[0], checksums[2]]
    assert lesson.version.learned_from["n_confirmed"] > 0
    assert "not in the scene" not in ui.learned.text
    scene.RemoveNode(nodes[0])
    ui.learn.click()
    window.wait(lambda: not window.panel.learn.is_busy)
    assert "1 corrected volume of this project is not in the scene, so nothing was learned from it." in ui.learned.text
    window.settle()


@pytest.fixture
def heart(scene, volume):
    """The node that shows a sequence of two volumes, and its browser."""
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Heart")
    for index in range(2):
        frame = volume(np.random.default_rng(index).normal(100, 30, (16, 16, 16)).astype(np.int16))
        sequence.SetDataNodeAtValue(frame, str(index))
        scene.RemoveNode(frame)
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
    browser.AddSynchronizedSequenceNode(sequence)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    browser.SetSelectedItemNumber(0)
    return browser.GetProxyNode(sequence), browser


def test_every_time_point_becomes_a_sequence(window, models, heart, scene):
    window.choose(heart[0], models())
    assert not window.ui.all_frames.isHidden()
    window.segment()
    sequences = [scene.GetNthNodeByClass(index, "vtkMRMLSequenceNode") for index in range(2)]
    assert [each.GetNumberOfDataNodes() for each in sequences] == [2, 2]
    assert sequences[1].GetNthDataNode(1).IsA("vtkMRMLSegmentationNode")


def test_time_points_are_corrected_one_by_one(window, models, heart, scene, tmp_path):
    node, browser = heart
    window.choose(node, models())
    window.segment()
    correct = window.panel.correct
    places = [np.s_[0:2, 0:2, 0:2], np.s_[5:7, 0:2, 0:2]]
    found = []
    for index in (0, 1):
        browser.SetSelectedItemNumber(index)
        window.settle()
        np.testing.assert_array_equal(correct.correcting.source.image.data, slicer.util.arrayFromVolume(node))
        found.append(correct.correcting.labels())
        paint(correct.correcting.node, "back", places[index], node)  # and on to the next before it was kept
    browser.SetSelectedItemNumber(0)
    window.settle()
    for index in (0, 1):
        browser.SetSelectedItemNumber(index)
        window.settle()
        locked = correct.correcting.image.corrections().locked
        np.testing.assert_array_equal(locked[places[index]], found[index][places[index]] != 2)
        assert locked[places[index]].any()
        assert not locked[places[1 - index]].any()
        shown = slicer.util.arrayFromSegmentBinaryLabelmap(
            correct.correcting.node,
            correct.correcting.node.GetSegmentation().GetSegmentIdBySegmentName("back"), node)
        assert shown[places[index]].all()
    window.panel.learn.options = {"iterations": 2}
    window.ui.learn.click()
    window.wait(lambda: not window.panel.learn.is_busy)
    assert len(window.panel.learn._lesson.version.learned_from["images"]) == 2
    window.settle()


def test_one_time_point_is_shown_at_no_other(window, models, heart, scene):
    node, browser = heart
    ui, correct = window.ui, window.panel.correct
    browser.SetSelectedItemNumber(1)
    window.choose(node, models())
    ui.all_frames.setChecked(False)
    result = window.segment().node
    found = labels_of(result, node)
    assert found.any()
    browser.SetSelectedItemNumber(0)
    window.settle()
    assert result.GetSegmentation().GetNumberOfSegments() == 0
    assert correct.correcting is None
    assert ui.correct_waits.text == "Time point 1 of 2 is not segmented; go to one that is, or press Segment."
    assert window.segment().node is result  # the same sequence takes the other one, too
    assert scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1
    other = labels_of(result, node)
    assert (other != found).any()
    for index, expected in ((1, found), (0, other)):
        browser.SetSelectedItemNumber(index)
        window.settle()
        np.testing.assert_array_equal(labels_of(result, node), expected)
        np.testing.assert_array_equal(correct.correcting.source.image.data, slicer.util.arrayFromVolume(node))
    assert window.segment().node is not result  # once more, beside what is there


def test_time_points_that_were_done_before_stop_stay(window, models, heart, scene):
    node, browser = heart
    window.choose(node, models())
    window.ui.run.click()
    window.wait(lambda: window.panel.segment._frames)
    window.ui.cancel.click()
    window.wait(lambda: not window.panel.segment.is_busy)
    window.settle()
    assert window.ui.message.text == "Stopped."
    result = window.panel.correct.correcting.node
    for index in (1, 0):
        browser.SetSelectedItemNumber(index)
        window.settle()
        assert bool(result.GetSegmentation().GetNumberOfSegments()) == (index == 0)


@pytest.mark.parametrize("close_scene", [False, True])
def test_volume_or_scene_gone_in_mid_run(window, models, volume, scene, close_scene):
    node = volume()
    window.choose(node, models())
    window.ui.run.click()
    window.wait(lambda: window.ui.progress_line.text.startswith(("Window", "Segmenting", "Preparing")))
    scene.Clear(0) if close_scene else scene.RemoveNode(node)
    window.wait(lambda: not window.panel.segment.is_busy)
    assert window.ui.message.text.startswith("CT was removed from the scene while it was being worked on")
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0
    window.choose(volume(), models())  # and it works again
    assert window.segment() is not None


def test_mistakes_are_sentences_in_the_panel(window, models, volume):
    ui = window.ui
    window.choose(volume(), models())
    ui.where_region.setChecked(True)
    ui.run.click()
    assert ui.message.text.startswith("No region is chosen; make one with the module Markups")
    ui.where_slice.setChecked(True)
    ui.run.click()
    assert ui.message.text.startswith("There is no red slice view")
    ui.where_whole.setChecked(True)
    window.choose(volume(np.zeros((1, 9, 9, 3), np.uint8), name="photo"), models(channels=("A", "B", "C", "D")))
    ui.run.click()
    window.wait(lambda: not window.panel.segment.is_busy)
    assert ui.message.text.startswith("photo has 3 channels")
    assert not ui.details.isHidden()
    ui.details.click()
    copied = QtWidgets.QApplication.clipboard().text()
    assert "photo has 3 channels" in copied
    assert "Python 3" in copied


def test_huge_volume_is_told_before_it_is_tried(window, models, scene, tmp_path):
    import psutil
    import vtk
    from vtk.util.numpy_support import numpy_to_vtk

    side = 1024
    n_slices = psutil.virtual_memory().total // 4 // side**2  # labels and probabilities take many times that
    voxels = np.memmap(tmp_path / "huge", np.uint8, "w+", shape=(n_slices, side, side))  # takes no room: it is hollow
    data = vtk.vtkImageData()
    data.SetDimensions(side, side, n_slices)
    data.GetPointData().SetScalars(numpy_to_vtk(voxels.reshape(-1)))
    node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "huge")
    node.SetAndObserveImageData(data)
    window.choose(node, models())
    window.ui.estimate.setText("")
    window.wait(lambda: window.ui.estimate.text)
    assert window.ui.estimate.text.startswith("Will take about ")
    assert "cut the image into" in window.ui.estimate.text
    assert "color" in window.ui.estimate.styleSheet
    scene.RemoveNode(node)


def test_drawing_is_kept_and_confirming_counts(window, models, volume, scene):
    node = volume()
    window.choose(node, models())
    correcting = window.segment()
    window.settle()
    assert not window.ui.learn_waits.isHidden()
    paint(correcting.node, "back", np.s_[0:2, 0:2, 0:2], node)
    window.settle()
    corrections = correcting.image.corrections()
    assert np.argwhere(corrections.locked).min() == 0
    assert corrections.locked[0:2, 0:2, 0:2].all()
    assert not window.ui.counts.text.startswith("0 corrected")
    assert window.ui.learn_waits.isHidden()
    red = scene.CreateNodeByClass("vtkMRMLSliceNode")
    red.UnRegister(None)
    red.SetSingletonTag("Red")
    red.SetOrientationToAxial()
    red.SetSliceOffset(9)
    scene.AddNode(red)
    window.ui.confirm.click()
    window.settle()
    assert correcting.image.corrections().locked[9].all()


def test_what_it_is_unsure_of_is_shown_next(window, models, volume, scene):
    node = volume()
    view = scene.AddNewNodeByClass("vtkMRMLSliceNode", "Red")
    view.SetOrientationToAxial()
    window.choose(node, models())
    window.ui.certainty.setChecked(True)
    window.segment()
    assert scene.GetFirstNodeByName("CT uncertainty") is not None
    window.ui.unsure.click()
    assert window.ui.unsure_at.text.startswith("1 of ")
    first = view.GetSliceOffset()
    seen = {first}
    for _ in range(5):
        window.ui.unsure.click()
        seen.add(view.GetSliceOffset())
    assert len(seen) > 1
    correcting = window.panel.correct.correcting
    window.settle()
    assert correcting.image.corrections().is_empty
    window.press("Return")  # it is right
    assert window.ui.unsure_at.text.startswith("7 of ")
    window.settle()
    assert not correcting.image.corrections().is_empty
    window.press("Esc")
    assert window.ui.unsure_at.text.startswith("8 of ")
    window.panel.correct.tour.end()
    window.press("Return")
    window.settle()
    assert window.ui.unsure_at.text == ""


def test_how_unsure_it_is_lies_over_the_slices(window, models, volume, scene):
    view = scene.AddNewNodeByClass("vtkMRMLSliceCompositeNode", "Red")
    window.choose(volume(), models())
    window.ui.certainty.setChecked(True)
    window.segment()
    assert view.GetForegroundVolumeID() == scene.GetFirstNodeByName("CT uncertainty").GetID()
    assert 0 < view.GetForegroundOpacity() < 1


def test_only_what_is_in_view(window, models, volume, scene):
    node = volume()
    window.choose(node, models())
    window.ui.where_view.setChecked(True)
    window.ui.run.click()
    assert window.ui.message.text.startswith("No slice view is open")
    view = scene.CreateNodeByClass("vtkMRMLSliceNode")
    view.UnRegister(None)
    view.SetSingletonTag("Red")
    scene.AddNode(view)
    view.SetOrientationToAxial()
    view.SetDimensions(100, 100, 1)
    view.SetFieldOfView(10, 10, 1)
    view.JumpSliceByCentering(12, 11, 10)
    view.SetMappedInLayout(1)
    order, = window.panel.segment.orders()
    assert order.box == ((0, 20), (6, 16), (7, 17))
    assert window.panel._parameters.where == "view"
    assert order.focus == (10, 11, 12)


def test_outlines_with_one_key(window, models, volume):
    window.choose(volume(), models())
    display = window.segment().node.GetDisplayNode()
    for is_filled in (False, True):
        window.press("O")
        assert bool(display.GetVisibility2DFill()) is is_filled


def test_shortcuts_are_told(window):
    told = {"run": "Ctrl+Return", "learn": "Ctrl+L", "unsure": "U", "confirm": "C", "compare": "B", "found": "O"}
    for name, keys in told.items():
        assert re.search(rf"\({re.escape(keys)}\)|^{keys} ", getattr(window.ui, name).toolTip), name


def test_instant_learning_follows_a_stroke_and_is_no_correction(window, models, volume):
    node = volume()
    window.choose(node, models())
    correcting = window.segment()
    window.ui.adapt.setChecked(True)
    before = correcting.labels()
    stroke = np.s_[0:3, 0:6, 0:6]
    paint(correcting.node, "front", stroke, node)
    window.settle()
    after = correcting.labels()
    assert (after[stroke] == 1).all()
    assert (after != before).sum() > (before[stroke] != 1).sum()  # around the stroke, too
    examples = correcting.image.corrections().to_examples()
    np.testing.assert_array_equal(examples[stroke], np.where(before[stroke] == 1, 0, 2))
    assert np.count_nonzero(examples) == np.count_nonzero(examples[stroke])


def test_learn_compare_keep_and_go_back(window, models, volume, scene):
    ui, node = window.ui, volume()
    window.choose(node, models())
    correcting = window.segment()
    correcting.confirm(((4, 14), (0, 22), (0, 24)))
    window.panel.correct.look_again()
    window.settle()
    window.panel.learn.options = {"iterations": 2}
    assert ui.keep.isHidden()
    ui.learn.click()
    assert ui.learn.isHidden()
    ui.learn_stop.click()
    window.wait(lambda: not window.panel.learn.is_busy)
    assert ui.learned.text == "Stopped before anything was learned."
    before = window.panel.segment.model_name
    ui.learn.click()
    window.wait(lambda: not window.panel.learn.is_busy)
    assert ui.learned.text.startswith("Before ")
    assert len(window.panel.learn._losses) == 2
    assert not ui.curve.pixmap.isNull()
    assert not ui.keep.isHidden()
    assert ui.compare.isHidden()
    window.settle()
    assert not ui.compare.isHidden()
    other = scene.GetFirstNodeByName("CT, after learning")
    displays = [correcting.node.GetDisplayNode(), other.GetDisplayNode()]
    assert [display.GetVisibility() for display in displays] == [1, 0]
    QtTest.QTest.keyPress(window.top, QtCore.Qt.Key.Key_B)
    assert [display.GetVisibility() for display in displays] == [0, 1]
    QtTest.QTest.keyRelease(window.top, QtCore.Qt.Key.Key_B)
    assert [display.GetVisibility() for display in displays] == [1, 0]
    after = labels_of(other, node)
    ui.keep.click()
    assert ui.keep.isHidden()
    window.settle()
    assert scene.GetFirstNodeByName("CT, after learning") is None
    np.testing.assert_array_equal(correcting.labels(), after)  # what was confirmed is the same in both
    assert ">mine" in ui.lineage.text
    assert window.panel.segment.model_name == correcting.model_name != before
    checksum = correcting.model.checksum
    ui.lineage.linkActivated.emit("1")
    window.settle()
    assert correcting.model.checksum != checksum
    assert window.panel.segment.model_name == correcting.model_name
    assert 'href="2"' in ui.lineage.text


def test_lesson_that_goes_wrong_offers_what_a_bug_report_needs(window, models, volume):
    ui = window.ui
    window.choose(volume(), models())
    window.segment().confirm(((4, 14), (0, 22), (0, 24)))
    window.panel.correct.look_again()
    window.settle()
    assert ui.learn_details.isHidden()
    window.panel.learn.options = {"iterations": "many"}  # no user's mistake
    ui.learn.click()
    window.wait(lambda: not window.panel.learn.is_busy)
    assert ui.learned.text.startswith("Something went wrong inside mambaseg")
    ui.learn_details.click()
    assert "TypeError" in QtWidgets.QApplication.clipboard().text()
    window.panel.learn.options = {"iterations": 1}
    ui.learn.click()
    assert ui.learn_details.isHidden()
    window.wait(lambda: not window.panel.learn.is_busy)
    assert ui.learned.text.startswith("Before ")


def test_lesson_that_nobody_decided_about_does_not_end_without_a_word(window, models, volume):
    ui, model = window.ui, models()
    window.choose(volume(), model)
    window.segment().confirm(((4, 14), (0, 22), (0, 24)))
    window.panel.correct.look_again()
    window.settle()
    window.panel.learn.options = {"iterations": 1}
    ui.learn.click()
    window.wait(lambda: not window.panel.learn.is_busy)
    assert not ui.keep.isHidden()
    another = np.random.default_rng(4).normal(100, 10, (20, 22, 24)).astype(np.int16)
    window.choose(volume(another, name="another"), model)
    window.segment()
    assert ui.keep.isHidden()
    lines = [line.text for line in (ui.learn_waits, ui.learned) if not line.isHidden()]
    assert any(line.startswith("The new model was neither kept nor thrown away") for line in lines)


def test_saved_scene_opens_as_it_was(window, models, volume, scene, tmp_path):
    node = volume()
    window.choose(node, models())
    window.ui.mirror.setChecked(True)
    correcting = window.segment()
    paint(correcting.node, "back", np.s_[0:2, 0:2, 0:2], node)
    window.settle()
    before = correcting.image.corrections().to_examples()
    save(scene, tmp_path / "scene.mrml")
    scene.Clear(0)
    assert window.panel.correct.correcting is None
    scene.SetURL(str(tmp_path / "scene.mrml"))
    assert scene.Import()
    window.settle()
    again = window.panel.correct.correcting
    assert window.ui.image.currentNode().GetName() == "CT"
    assert window.ui.mirror.checked
    assert window.panel.segment.model_name == models()
    np.testing.assert_array_equal(again.image.corrections().to_examples(), before)


def test_module_that_goes_away_leaves_nothing_running(scene, root):
    import psutil

    def children():
        return {child.pid for child in psutil.Process().children(recursive=True)}

    before = children()
    window = Window(root)
    window.panel.logic.worker.start("warm", {})
    assert children() - before
    window.widget.cleanup()
    window.wait(lambda: not children() - before)
    window.top.close()

"""The panel, built from its real .ui file, with what a user does in it."""

import time

import numpy as np
import pytest
from PySide6 import QtWidgets

import slicer
import slicer_stand_in
from slicer_stand_in import paint, save

WAIT_S = 120


class Window:
    """The module's panel, shown, and what a user does there."""

    def __init__(self, root):
        self.module = slicer_stand_in.open_module(root / "slicer_extension" / "MambaSeg" / "MambaSeg.py")
        self.widget, self.top = slicer_stand_in.open_widget(self.module)
        self.top.resize(340, 900)
        self.top.show()
        self.ui = self.widget.ui
        self.panel = self.widget.panel

    def wait(self, is_done):
        end = time.monotonic() + WAIT_S
        while not is_done():
            assert time.monotonic() < end, "nothing happened"
            QtWidgets.QApplication.processEvents()
            time.sleep(0.01)

    def settle(self):
        """Until nothing runs and everything drawn is kept."""
        self.wait(lambda: not self.panel.timer.isActive() and not self.panel.segment.is_busy)

    def choose(self, node, model):
        self.ui.image.setCurrentNode(node)
        self.panel.segment.choose_model(model)

    def segment(self):
        self.ui.run.click()
        self.settle()
        return self.panel.correct.correcting


@pytest.fixture
def window(scene, logic, root, monkeypatch):
    monkeypatch.setattr("MambaSegLib.Widget.MambaSegLogic", lambda: logic)
    monkeypatch.setattr(logic, "close", lambda: None)  # the process is shared
    opened = Window(root)
    opened.ui.adapt.setChecked(False)
    yield opened
    opened.widget.cleanup()
    opened.top.close()


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
    assert ui.saved.text == "Saved."
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


def test_every_time_point_becomes_a_sequence(window, models, volume, scene):
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Heart")
    for index in range(2):
        frame = volume(np.random.default_rng(index).normal(100, 30, (16, 16, 16)).astype(np.int16))
        sequence.SetDataNodeAtValue(frame, str(index))
        scene.RemoveNode(frame)
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
    browser.AddSynchronizedSequenceNode(sequence)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    window.choose(browser.GetProxyNode(sequence), models())
    assert not window.ui.all_frames.isHidden()
    window.segment()
    sequences = [scene.GetNthNodeByClass(index, "vtkMRMLSequenceNode") for index in range(2)]
    assert [each.GetNumberOfDataNodes() for each in sequences] == [2, 2]
    assert sequences[1].GetNthDataNode(1).IsA("vtkMRMLSegmentationNode")
    window.ui.all_frames.setChecked(False)
    assert window.segment().node.IsA("vtkMRMLSegmentationNode")


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
    assert correcting.image.corrections().locked[9].all()
    window.settle()


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
    window.settle()


def test_learn_keep_and_go_back(window, models, volume):
    ui, node = window.ui, volume()
    window.choose(node, models())
    correcting = window.segment()
    correcting.confirm(((4, 14), (0, 22), (0, 24)))
    window.settle()
    window.panel.learn.use(correcting)
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
    assert not ui.keep.isHidden()
    ui.keep.click()
    assert ui.keep.isHidden()
    assert "mine" in ui.lineage.text
    assert window.panel.segment.model_name == correcting.model_name != before
    window.settle()


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

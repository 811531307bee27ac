"""What takes long with large volumes is done in a thread or in the child process, never in Slicer's own thread."""

import functools
import threading

import numpy as np
import pytest

import mambaseg.learn.uncertainty
import MambaSegLib._corrections
import slicer
from mambaseg import jobs, overlay
from mambaseg.learn import Project, ProjectImage
from mambaseg.learn.journal_view import View
from MambaSegLib._adapt import Layer
from slicer_stand_in import paint

LONG = [(owner, name) for owner, names in (
    (ProjectImage, ("record", "show_prediction", "confirm", "counts", "corrections", "labels")),
    (View, ("read", "write", "blocks_touched")), (Project, ("image", "learned_from")),
    (MambaSegLib._corrections, ("identify",)), (mambaseg.learn.uncertainty, ("least_sure", "doubt_map")),
    (overlay, ("instance_colours",)), (jobs, ("read_result", "write_image")), (Layer, ("on_grid",)),
) for name in names]


@pytest.fixture
def calls(monkeypatch):
    """Which of the long things were called, and whether in the window's thread."""
    seen = set()

    def watch(owner, name):
        plain = getattr(owner, name)

        @functools.wraps(plain)
        def call(*given, **options):
            seen.add((name, threading.current_thread() is threading.main_thread()))
            return plain(*given, **options)

        monkeypatch.setattr(owner, name, call)

    for owner, name in LONG:
        watch(owner, name)
    return seen


def test_nothing_long_is_done_in_slicers_own_thread(window, models, volume, scene, calls):
    node, ui = volume(), window.ui
    view = scene.AddNewNodeByClass("vtkMRMLSliceNode", "Red")
    view.SetOrientationToAxial()
    view.SetSliceOffset(9)
    window.choose(node, models(kind="instances"))
    ui.certainty.setChecked(True)
    correcting = window.segment()
    segment = correcting.node.GetSegmentation().GetNthSegment(0).GetName()
    ui.adapt.setChecked(True)
    paint(correcting.node, segment, np.s_[0:3, 0:6, 0:6], node)
    window.settle()
    ui.confirm.click()
    ui.unsure.click()
    window.press("Return")
    window.settle()
    window.panel.learn.options = {"iterations": 2}
    ui.learn.click()
    window.settle()
    ui.keep.click()
    window.settle()
    window.panel.close_scene()
    window.panel.open()  # and back to its result
    window.settle()
    assert window.panel.correct.correcting is not None
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1
    assert {name for name, _ in calls} == {name for _, name in LONG}
    assert sorted(name for name, is_own in calls if is_own) == []

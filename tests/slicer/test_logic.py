"""MambaSegLogic on Slicer's real scene, with real child processes."""

import importlib.util
import json
import resource
import subprocess
import sys
from collections import Counter

import numpy as np
import psutil
import pytest
import SimpleITK

import slicer
from mambaseg import Cancelled, UserError
from mambaseg.jobs import Worker
from MambaSegLib import MambaSegLogic
from MambaSegLib._adapt import read_volume, vtk_matrix
from MambaSegLib._runs import Listener
from MambaSegLib._segments import NUMBERS
from MambaSegLib._terminology import entry
from MambaSegLib.Logic import python_command
from slicer_stand_in import labels_of


def counted(scene):
    """How many nodes of each class there are."""
    return Counter(scene.GetNthNode(index).GetClassName() for index in range(scene.GetNumberOfNodes()))


def write(path, volume):
    """The volume as a file, as Slicer writes it."""
    storage = slicer.vtkMRMLNRRDStorageNode() if path.suffix == ".nrrd" else slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    assert storage.WriteData(volume)


@pytest.mark.parametrize("suffix", [".nrrd", pytest.param(".nii.gz", marks=pytest.mark.slow)])
def test_same_labels_as_the_shell_voxel_for_voxel(logic, models, volume, oblique, tmp_path, suffix):
    node = volume(matrix=oblique)
    write(tmp_path / f"ct{suffix}", node)
    model = models()
    subprocess.run([*python_command(), "-m", "mambaseg", "segment", tmp_path / f"ct{suffix}", "-m", model, "-o",
                    tmp_path, "--quiet"], check=True, timeout=600)
    shell = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(tmp_path / f"ct_labels{suffix}"))
    found = labels_of(logic.segment(node, model=model), node)
    assert len(np.unique(shell)) > 1  # else equality says nothing
    np.testing.assert_array_equal(found, shell)


@pytest.mark.slow
def test_same_labels_with_the_bundled_model(logic, scene, root):
    from mambaseg import segment

    path = root / "sample_data" / "brain_block.nii.gz"
    node = slicer.util.loadVolume(path)
    source = read_volume(node)
    chosen = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
    chosen.SetSize(16, 16, 16)
    chosen.SetCenter(*(source.ijk_to_world @ [32, 14, 24, 1])[:3])
    order = logic.order(node, "hippocampus-mri", roiNode=chosen)
    shell = segment(path, "hippocampus-mri", roi=order.box).labels
    assert len(np.unique(shell)) > 1
    np.testing.assert_array_equal(labels_of(logic.segment(node, model="hippocampus-mri", roiNode=chosen), node), shell)


def test_result_lies_on_the_volumes_grid_with_names_colours_and_codes(logic, models, volume, oblique):
    node = volume(matrix=oblique)
    result = logic.segment(node, model=models())
    segmentation = result.GetSegmentation()
    segments = [segmentation.GetNthSegment(index) for index in range(segmentation.GetNumberOfSegments())]
    assert [each.GetName() for each in segments] == ["front", "back"]
    assert len({each.GetColor() for each in segments}) == 2
    assert all(each.GetTerminology().count("~") == 6 and "SCT^" in each.GetTerminology() for each in segments)
    geometry = [float(each) for each in
                segmentation.GetConversionParameter("Reference image geometry").split(";")[:16]]
    np.testing.assert_allclose(np.reshape(geometry, (4, 4)), oblique, atol=1e-6)
    array = slicer.util.arrayFromSegmentBinaryLabelmap(result, segmentation.GetNthSegmentID(0), node)
    np.testing.assert_array_equal(array > 0, labels_of(result, node) == 1)
    assert result.GetName() == "CT front, back"


def test_result_goes_with_the_volumes_transform(scene, logic, models, volume, oblique):
    node = volume(matrix=oblique)
    plain = labels_of(logic.segment(node, model=models()), node)
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "T")
    turned = np.array([[0, -1, 0, 5], [1, 0, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1.0]])
    transform.SetMatrixTransformToParent(vtk_matrix(turned))
    node.SetAndObserveTransformNodeID(transform.GetID())
    result = logic.segment(node, model=models())
    assert result.GetTransformNodeID() == transform.GetID()
    np.testing.assert_array_equal(labels_of(result, node), plain)  # a turn changes no voxel size


def test_codes_of_structures():
    assert "SCT^5366008^Hippocampus" in entry("anterior", "Anterior and posterior hippocampus")
    assert "SCT^5366008" not in entry("anterior", "Anterior and posterior pituitary")
    left = entry("left kidney").split("~")
    assert left[2:4] == ["SCT^64033007^Kidney", "SCT^7771000^Left"]
    assert entry("blob").split("~")[2] == "SCT^85756007^Tissue"


def test_objects_get_a_segment_each_up_to_a_limit(logic, models, volume, monkeypatch):
    node, model = volume(), models(kind="instances")
    result = logic.segment(node, model=model)
    pytest.importorskip("torch")
    from mambaseg import segment

    truth = segment(read_volume(node).image, model).labels
    n_objects = int(truth.max())
    assert n_objects > 1
    np.testing.assert_array_equal(labels_of(result, node), truth)
    assert result.GetSegmentation().GetNthSegment(0).GetName() == "nucleus 1"
    monkeypatch.setattr("MambaSegLib._segments.MOST_SEGMENTS", n_objects - 1)
    many = logic.segment(node, model=model)
    assert many.GetSegmentation().GetNumberOfSegments() == 1
    np.testing.assert_array_equal(labels_of(many, node) > 0, truth > 0)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(many.GetNodeReference(NUMBERS)), truth)


def test_region_slice_and_mask_limit_what_is_segmented(scene, logic, models, volume):
    node, model = volume(), models()
    whole = labels_of(logic.segment(node, model=model), node)
    roi = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
    roi.SetCenter(10, 10, 10)
    roi.SetSize(8.2, 8.2, 8.2)
    inside = np.zeros(whole.shape, bool)
    inside[6:15, 6:15, 6:15] = True
    np.testing.assert_array_equal(labels_of(logic.segment(node, model=model, roiNode=roi), node),
                                  np.where(inside, whole, 0))
    view = scene.AddNewNodeByClass("vtkMRMLSliceNode", "Red")
    view.SetOrientationToAxial()
    view.SetSliceOffset(9)
    one = labels_of(logic.segment(node, model=model, sliceNode=view), node)
    np.testing.assert_array_equal(one[9], whole[9])
    assert not one[:9].any()
    assert not one[10:].any()
    mask = logic.segment(node, model=model, roiNode=roi)
    masked = labels_of(logic.segment(node, model=model, maskNode=mask), node)
    np.testing.assert_array_equal(masked, np.where(labels_of(mask, node) > 0, whole, 0))


def test_sequence_is_segmented_frame_by_frame(scene, logic, models, volume, oblique):
    rng = np.random.default_rng(5)
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Heart")
    frames = [rng.normal(100, 30, (16, 16, 16)).astype(np.int16) for _ in range(3)]
    alone = []
    for index, frame in enumerate(frames):
        single = volume(frame, oblique, f"frame {index}")
        sequence.SetDataNodeAtValue(single, str(index))
        alone.append(labels_of(logic.segment(single, model=models()), single))
        scene.RemoveNode(single)
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
    browser.AddSynchronizedSequenceNode(sequence)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    shown = browser.GetProxyNode(sequence)
    result = logic.segment_sequence(shown, model=models())
    assert result.GetNumberOfDataNodes() == 3
    for index in range(3):
        assert result.GetNthIndexValue(index) == str(index)
        np.testing.assert_array_equal(labels_of(result.GetNthDataNode(index), shown), alone[index])
    assert browser.IsSynchronizedSequenceNode(result)
    with pytest.raises(UserError, match="is not a volume of a sequence"):
        logic.segment_sequence(volume(), model=models())


def test_certainty_is_a_volume_on_the_same_grid(logic, models, volume, oblique):
    outcomes, problems = [], []
    run = logic.start(logic.order(volume(matrix=oblique), models(), certainty=True),
                      Listener(finished=outcomes.append, failed=lambda *told: problems.append(told)))
    while not run.is_over:
        run.poll()
    run.close()
    assert problems == []
    doubt, outcome = slicer.util.arrayFromVolume(outcomes[0].doubt_node), outcomes[0]
    assert doubt.shape == outcome.labels.shape
    assert 0 <= doubt.min() < doubt.max() <= 1
    np.testing.assert_allclose(read_volume(outcome.doubt_node).ijk_to_ras, oblique, atol=1e-9)
    scores = [each.score for each in outcome.doubts]
    assert scores == sorted(scores, reverse=True)
    assert scores


# --- things that go wrong ---


def test_cancel_leaves_the_scene_as_it_was(scene, logic, models, volume):
    node = volume()
    before = counted(scene)

    def stop(update):
        if scene.GetFirstNodeByClass("vtkMRMLSegmentationNode") is not None:  # it has begun to show its windows
            raise Cancelled

    with pytest.raises(Cancelled):
        logic.segment(node, model=models(), progress=stop)
    assert counted(scene) == before


def test_killed_child_is_a_sentence_and_the_next_run_works(scene, models, volume):
    node = volume()
    before = counted(scene)
    with Worker(python_command()) as worker:
        logic = MambaSegLogic(worker)
        ours = {child.pid for child in psutil.Process().children(recursive=True)}

        def kill(update):
            for child in psutil.Process().children(recursive=True):
                if child.pid not in ours:
                    child.kill()

        with pytest.raises(UserError, match="was ended by the system, most likely because the memory ran out"):
            logic.segment(node, model=models(), progress=kill)
        assert counted(scene) == before
        assert logic.segment(node, model=models()).GetSegmentation().GetNumberOfSegments() == 2


@pytest.mark.parametrize("close_scene", [False, True])
def test_volume_that_goes_in_mid_run_is_a_sentence(scene, logic, models, volume, close_scene):
    node, other = volume(), volume(name="other")

    def take_away(update):
        if update.stage == "Segmenting" and node.GetScene() is not None:
            scene.Clear(0) if close_scene else scene.RemoveNode(node)

    with pytest.raises(UserError, match=r"^CT was removed from the scene while it was being worked on, .* press "
                                        r"Segment\.$"):
        logic.segment(node, model=models(), progress=take_away)
    assert (other.GetScene() is None) == close_scene
    assert "vtkMRMLSegmentationNode" not in counted(scene) or not close_scene


def test_result_thrown_away_while_it_grows_is_made_anew(scene, logic, models, volume):
    node = volume()

    def throw_away(update):
        growing = scene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
        if growing is not None:
            scene.RemoveNode(growing)

    result = logic.segment(node, model=models(), progress=throw_away)
    assert result.GetScene() is scene


def test_bad_input_is_one_sentence(logic, models, volume, tmp_path):
    rgb = volume(np.zeros((1, 9, 9, 3), np.uint8), name="photo")
    for node, model, sentence in (
            (None, models(), "No volume is chosen"),
            (volume(), "hippocampos-mri", 'There is no model "hippocampos-mri"; did you mean'),
            (volume(), str(tmp_path / "gone"), "There is no model"),
            (volume(np.full((1, 1, 1), 47, np.int16)), models(), "CT is constant (every value is 47)"),
            (rgb, models(channels=("MRI", "CT", "PET", "other")), "photo has 3 channels")):
        with pytest.raises(UserError) as caught:
            logic.segment(node, model=model)
        assert str(caught.value).startswith(sentence)
        assert "\n" not in str(caught.value)


def test_no_room_for_the_copy_is_one_sentence(logic, models, volume, scene):
    node, model = volume(), models()
    before = counted(scene)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # as a disk that is full
    try:
        with pytest.raises(UserError, match=r"Make room there, or choose a part of the image\.$"):
            logic.segment(node, model=model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert counted(scene) == before


def test_colours_into_a_model_of_one_channel_are_turned_into_grey_and_that_is_said(logic, models, volume):
    photo = volume(np.random.default_rng(4).integers(0, 256, (3, 30, 40, 3), np.uint8), name="photo")
    record = json.loads(logic.segment(photo, model=models()).GetAttribute("MambaSeg.record"))
    assert any("converted to its luminance" in note for note in record["notes"])


@pytest.mark.parametrize("shape", [(1, 40, 30), (2, 3, 100), (1, 1, 2)])
def test_tiny_and_flat_volumes(logic, models, volume, shape):
    array = np.random.default_rng(1).integers(0, 100, shape).astype(np.int16)
    node = volume(array)
    assert labels_of(logic.segment(node, model=models()), node).shape == shape


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="is about a torch that is there")
def test_no_torch_in_slicers_own_process(root):
    code = ("import slicer_stand_in as s, sys, pathlib; s.install(); "
            f"m = s.open_module(pathlib.Path({str(root / 'slicer_extension/MambaSeg/MambaSeg.py')!r})); "
            "w, top = s.open_widget(m); assert w.panel is not None; w.cleanup(); "
            "print(sorted({'torch', 'numba', 'napari'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], cwd=root / "tests", capture_output=True, text=True, timeout=600,
                          check=False)
    assert done.stdout.strip() == "[]", done.stderr


# --- the module's own test, which is meant for a real Slicer ---


def test_self_test_finds_nothing_to_complain_of(scene, logic, models):
    from MambaSegLib._self_test import run_self_test

    assert run_self_test(scene, models(), logic).GetScene() is scene


def test_self_test_notices_what_is_wrong(scene, logic, models, monkeypatch):
    from MambaSegLib._self_test import run_self_test

    monkeypatch.setattr("MambaSegLib._corrections.Correcting.record", lambda self, drawn=None: False)
    with pytest.raises(RuntimeError, match="what was drawn was not noticed"):
        run_self_test(scene, models(), logic)


@pytest.mark.slow
def test_self_test_file_runs_as_it_is(scene, root):
    import unittest

    path = root / "slicer_extension/MambaSeg/Testing/Python/MambaSegSelfTest.py"
    spec = importlib.util.spec_from_file_location("MambaSegSelfTest", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    done = unittest.TextTestRunner().run(unittest.defaultTestLoader.loadTestsFromModule(module))
    assert done.testsRun == 2
    assert done.wasSuccessful()
    assert not done.skipped

"""CT: no model for it comes along, so the panel says so, and an official model's folder is the way."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import official
import slicer
from mambaseg import read
from mambaseg.models import read_model, resolve
from MambaSegLib._adapt import layers, read_volume
from MambaSegLib._modality import is_ct, made_for, mismatch
from slicer_stand_in import labels_of

HU = {"mean": 70.0, "median": 60.0, "std": 120.0, "min": -1000.0, "max": 2000.0, "percentile_00_5": -900.0,
      "percentile_99_5": 400.0}


@pytest.fixture
def abdomen():
    """A made CT: air, a body, bone."""
    array = np.random.default_rng(2).normal(-1000, 5, (18, 40, 44))
    array[2:-2, 8:32, 8:36] += 1050
    array[4:8, 15:18, 20:24] = 900
    return array.astype(np.int16)


@pytest.fixture
def nnunet_folder(tmp_path):
    """A model's folder as U-Mamba leaves it: results of nnU-Net's, here of a network that nobody trained."""
    record, _ = official.fixture("umamba_bot_3d_v2_tiny")
    args = record["args"]
    plans, dataset = official.flat_plans(args), official.dataset_json(args)
    dataset |= {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1, "right kidney": 2},
                "file_ending": ".nii.gz"}
    plans |= {"dataset_name": "Dataset702_AbdomenCT", "foreground_intensity_properties_per_channel": {"0": HU}}
    configuration, = plans["configurations"].values()
    configuration |= {"normalization_schemes": ["CTNormalization"], "spacing": [3.0, 1.5, 1.5]}
    folder = tmp_path / "Dataset702_AbdomenCT" / "nnUNetTrainerUMambaBot__nnUNetPlans__3d_fullres"
    (folder / "fold_0").mkdir(parents=True)
    content = official.nnunet_file(record, official.state(record))
    content["init_args"] |= {"plans": plans, "dataset_json": dataset}
    torch.save(content, folder / "fold_0" / "checkpoint_final.pth")
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


def test_ct_is_known_by_its_units_and_its_values(volume, abdomen):
    assert is_ct(volume(abdomen))
    assert not is_ct(volume(abdomen + 1000))
    assert not is_ct(volume((abdomen / 1000).astype(np.float32)))  # scaled: no Hounsfield units any more
    told = volume(abdomen + 1000)
    units = slicer.vtkCodedEntry()
    units.SetValueSchemeMeaning("[hnsf'U]", "UCUM", "Hounsfield unit")
    told.SetVoxelValueUnits(units)  # as Slicer does for a CT out of DICOM
    assert is_ct(told)
    assert not is_ct(volume(np.zeros((2, 2, 2, 3), np.uint8)))


def test_only_a_ct_with_a_model_for_mri_is_told(volume, abdomen, models):
    hippocampus = read_model(resolve("hippocampus-mri"))
    assert made_for(hippocampus) == "MRI"
    ct = volume(abdomen, name="abdomen")
    assert mismatch(ct, hippocampus) == (
        "abdomen looks like a CT, but Hippocampus (MRI) was made for MRI; “From a folder…” in the list of models opens "
        "an official U-Mamba or nnU-Net model for CT.")
    assert mismatch(volume(abdomen + 1000), hippocampus) == ""
    assert mismatch(None, hippocampus) == ""
    assert mismatch(ct, read_model(Path(models(channels=("CT",))))) == ""


def test_every_real_ct_is_taken_for_one_and_mri_is_not(shared, scene):
    folder = shared / "data" / "ct3d" / "images"
    found = {path.name: is_ct(slicer.util.loadVolume(str(path))) for path in sorted(folder.glob("*.nii.gz"))}
    assert found == {path.name: path.name.startswith("ct_") for path in sorted(folder.glob("*.nii.gz"))}
    mri = next((shared / "data" / "hippocampus3d" / "images").glob("*.nii.gz"))
    assert not is_ct(slicer.util.loadVolume(str(mri)))


def open_folder(window, folder):
    """What “From a folder…” does once the folder is chosen."""
    window.panel.segment.open_model(folder)
    window.wait(lambda: not window.panel.segment.is_busy)


def test_folder_of_an_official_model_is_the_way_out(window, volume, abdomen, nnunet_folder, tmp_path):
    ui = window.ui
    ui.image.setCurrentNode(volume(abdomen, name="abdomen"))
    assert ui.unsuited.text.startswith("abdomen looks like a CT, but Hippocampus (MRI) was made for MRI")
    open_folder(window, nnunet_folder)
    chosen = read_model(Path(window.panel.segment.model_name))
    assert chosen.classes == ("background", "liver", "right kidney")
    assert chosen.channels == ("CT",)
    assert made_for(chosen) == "CT"
    assert tmp_path in chosen.folder.parents  # among the user's data, which is in there
    assert ui.unsuited.text == ""
    assert ui.message.text == "The model was read; it is in the list from now on."
    (tmp_path / "empty").mkdir()
    open_folder(window, tmp_path / "empty")
    assert "empty" in ui.message.text
    assert Path(window.panel.segment.model_name) == chosen.folder


def test_imported_model_segments_a_real_ct_in_place(shared, window, logic, nnunet_folder, scene):
    """The geometry; a network that nobody trained finds no organs."""
    path = shared / "data" / "ct3d" / "images" / "ct_torso_3mm.nii.gz"
    node = slicer.util.loadVolume(str(path))
    open_folder(window, nnunet_folder)
    region = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "R")
    bounds = np.zeros(6)
    node.GetRASBounds(bounds)
    region.SetCenter(*bounds.reshape(3, 2).mean(1))
    region.SetSize(100, 100, 60)
    order = logic.order(node, window.panel.segment.model_name, roiNode=region)
    result = logic.segment(node, model=window.panel.segment.model_name, roiNode=region)
    labels = labels_of(result, node)
    assert labels.shape == read(path).data.shape
    inside = np.zeros(labels.shape, bool)
    inside[tuple(slice(*side) for side in order.box)] = True
    assert labels[inside].any()
    assert not labels[~inside].any()
    layer, = layers(result)
    np.testing.assert_allclose(layer.ijk_to_world, read_volume(node).ijk_to_world, atol=1e-9)
    terminology = [result.GetSegmentation().GetNthSegment(index).GetTerminology() for index in range(2)]
    assert "10200004^Liver" in terminology[0]
    assert "64033007^Kidney" in terminology[1]
    assert "Right" in terminology[1]

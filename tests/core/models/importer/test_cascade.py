"""A cascade of stock nnU-Net's becomes one package, whose second stage finds what stock finds."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from cascades import balls
from golden_predicting import stock_logits
from mambaseg import load_model, segment
from mambaseg._errors import ModelError
from mambaseg.models.importer import import_checkpoint
from mambaseg.plan.rules import to_plan
from mambaseg.predict.blend import probabilities_to_labels
from mambaseg.predict.previous import one_hot
from mambaseg.predict.run import to_frame
from mambaseg.prepare import prepare

STAGES = ("3d_lowres", "3d_cascade_fullres")
STRIDES = [[1, 1, 1], [2, 2, 2], [2, 2, 2]]
DATASET = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "front": 1, "back": 2}, "numTraining": 5,
           "file_ending": ".nii.gz"}


def configuration(spacing: list[float], **changes: Any) -> dict[str, Any]:
    arguments = {
        "n_stages": 3, "features_per_stage": [4, 8, 8], "conv_op": "torch.nn.modules.conv.Conv3d",
        "kernel_sizes": [[3, 3, 3]] * 3, "strides": STRIDES, "n_conv_per_stage": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1], "conv_bias": True,
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None, "dropout_op_kwargs": None, "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True}}
    values: dict[str, Any] = {
        "data_identifier": "x", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2,
        "patch_size": [16, 16, 16], "median_image_size_in_voxels": [20, 22, 24], "spacing": spacing,
        "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [True], "batch_dice": False,
        "architecture": {"network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                         "arch_kwargs": arguments, "_kw_requires_import": ["conv_op", "norm_op", "dropout_op",
                                                                           "nonlin"]}}
    for part, order, is_seg in (("data", 3, False), ("seg", 1, True), ("probabilities", 1, False)):
        values[f"resampling_fn_{part}"] = "resample_data_or_seg_to_shape"
        values[f"resampling_fn_{part}_kwargs"] = {"is_seg": is_seg, "order": order, "order_z": 0,
                                                  "force_separate_z": None}
    return values | changes


PLANS = {
    "dataset_name": "Dataset042_Balls", "plans_name": "nnUNetPlans", "transpose_forward": [1, 0, 2],
    "transpose_backward": [1, 0, 2], "original_median_shape_after_transp": [20, 22, 24],
    "original_median_spacing_after_transp": [1.0, 1.0, 1.0], "image_reader_writer": "SimpleITKIO",
    "label_manager": "LabelManager", "experiment_planner_used": "ExperimentPlanner",
    "foreground_intensity_properties_per_channel": {"0": {"mean": 1.0, "std": 1.0}},
    "configurations": {
        "3d_lowres": configuration([2.0, 1.9, 2.1], next_stage="3d_cascade_fullres"),
        "3d_fullres": configuration([1.0, 1.1, 0.9]),
        "3d_cascade_fullres": {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}}}


def stock_weights(n_channels: int) -> dict[str, torch.Tensor]:
    """Of the library's own network, under all its names; no initialisation gives them."""
    torch.manual_seed(n_channels)
    network = PlainConvUNet(
        n_channels, 3, [4, 8, 8], nn.Conv3d, [[3, 3, 3]] * 3, STRIDES, [1, 1, 1], 3, [1, 1], conv_bias=True,
        norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True})
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return dict(network.state_dict())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of nnU-Net's results with both stages."""
    root = tmp_path_factory.mktemp("results")
    for seed, name in enumerate(STAGES):
        folder = root / f"nnUNetTrainer__nnUNetPlans__{name}"
        (folder / "fold_0").mkdir(parents=True)
        (folder / "plans.json").write_text(json.dumps(PLANS))
        (folder / "dataset.json").write_text(json.dumps(DATASET))
        torch.save({"network_weights": stock_weights(1 + 2 * seed), "trainer_name": "nnUNetTrainer",
                    "init_args": {"configuration": name, "fold": 0, "plans": PLANS, "dataset_json": DATASET},
                    "inference_allowed_mirroring_axes": (0, 1, 2)}, folder / "fold_0" / "checkpoint_final.pth")
    return root


def test_both_stages_become_one_package_that_finds_what_stock_finds(trained: Path, tmp_path: Path) -> None:
    model = import_checkpoint(trained / f"nnUNetTrainer__nnUNetPlans__{STAGES[1]}", tmp_path / "model")
    first, second = load_model(tmp_path / "model").stages
    assert second == model
    assert (first.classes, second.channels, second.n_inputs) == (("background", "front", "back"), ("MRI",), 3)
    assert (first.plan.spacing, second.plan.spacing) == ((2.0, 1.9, 2.1), (1.0, 1.1, 0.9))
    image, _ = balls(0, (1.3, 1.0, 1.0))
    image.data[:, :5] = 0  # a rim to be cropped away
    assert set(np.unique(segment(image, model).labels)) > {0}
    given = segment(image, first).labels
    inference = pytest.importorskip("nnunetv2.inference.predict_from_raw_data", reason="needs nnunetv2")
    predictor = inference.nnUNetPredictor(use_mirroring=False, perform_everything_on_device=False,
                                          device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(trained / f"nnUNetTrainer__nnUNetPlans__{STAGES[1]}"), None)
    found = predictor.predict_single_npy_array(image.data[None].copy(), {"spacing": [1.3, 1.0, 1.0]},
                                               given[None].astype(np.float32), None, False)
    prepared = prepare(image.data[None], (1.3, 1.0, 1.0), second.plan, previous=given)
    logits = stock_logits(second.built_all, prepared, second.plan, n_classes=3, previous=prepared.previous,
                          foreground=second.foreground_labels)
    ours = probabilities_to_labels(to_frame(logits.astype(np.float32), prepared, "classes"))
    assert len(np.unique(found)) > 1
    assert (ours != found).sum() <= 1  # softmax may make a tie of two logits that are not


def test_the_channels_are_those_of_stock_nnunet(trained: Path) -> None:
    preprocessors = pytest.importorskip("nnunetv2.preprocessing.preprocessors.default_preprocessor",
                                        reason="needs nnunetv2")
    from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(PLANS)
    image, labels = balls(1, (1.3, 1.0, 1.0))
    image.data[:, :5] = 0
    data, seg, _ = preprocessors.DefaultPreprocessor(verbose=False).run_case_npy(
        image.data[None].copy(), labels[None].astype(np.float32), {"spacing": [1.3, 1.0, 1.0]}, manager,
        manager.get_configuration(STAGES[1]), DATASET)
    ours = prepare(image.data[None], (1.3, 1.0, 1.0), to_plan(PLANS, STAGES[1]), previous=labels)
    np.testing.assert_array_equal(ours.previous, np.asarray(seg)[0])
    np.testing.assert_allclose(ours.array, data, atol=1e-5)
    np.testing.assert_array_equal(one_hot(ours.previous, (1, 2)),
                                  convert_labelmap_to_one_hot(np.asarray(seg)[0], [1, 2], np.float32))


def test_a_second_stage_without_its_first_is_told_in_a_sentence(trained: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(trained / f"nnUNetTrainer__nnUNetPlans__{STAGES[1]}",
                            tmp_path / f"nnUNetTrainer__nnUNetPlans__{STAGES[1]}")
    for source in (alone, alone / "fold_0", alone / "fold_0" / "checkpoint_final.pth"):
        with pytest.raises(ModelError, match=r"labels of 3d_lowres.*Plans__3d_lowres is not there"):
            import_checkpoint(source, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_the_first_stage_alone_is_a_model(trained: Path, tmp_path: Path) -> None:
    model = import_checkpoint(trained / f"nnUNetTrainer__nnUNetPlans__{STAGES[0]}", tmp_path / "model")
    assert model.stages == (model,)
    assert model.plan.spacing == (2.0, 1.9, 2.1)

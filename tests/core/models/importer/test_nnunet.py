"""Stock nnU-Net model folders, made here with the library's own networks, become packages that compute the same."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import official
from mambaseg import Image, read, segment
from mambaseg._errors import MissingPackageError, ModelError
from mambaseg.image import Grid
from mambaseg.models.importer import import_checkpoint, recognise
from mambaseg.models.package import check_package, load_package

FEATURES, STRIDES, KERNELS = [4, 8, 12], [[1, 1], [2, 2], [2, 1]], [[3, 3], [3, 1], [3, 3]]
KINDS = {"PlainConvUNet": ("n_conv_per_stage", [2, 1, 3]), "ResidualEncoderUNet": ("n_blocks_per_stage", [1, 3, 2])}


def stock(kind: str, seed: int) -> nn.Module:
    """The library's network with weights that no initialisation gives."""
    from dynamic_network_architectures.architectures import unet

    blocks, counts = KINDS[kind]
    torch.manual_seed(seed)
    network = getattr(unet, kind)(
        input_channels=2, n_stages=3, features_per_stage=FEATURES, conv_op=nn.Conv2d, kernel_sizes=KERNELS,
        strides=STRIDES, num_classes=3, n_conv_per_stage_decoder=[2, 1], conv_bias=True, norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True}, nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
        **{blocks: counts})
    with torch.no_grad():
        for value in network.parameters():
            value.add_(0.1 * torch.randn_like(value))
    return network.eval()


def plans(kind: str, **changes: Any) -> dict[str, Any]:
    blocks, counts = KINDS[kind]
    arguments = {
        "n_stages": 3, "features_per_stage": FEATURES, "conv_op": "torch.nn.modules.conv.Conv2d",
        "kernel_sizes": KERNELS, "strides": STRIDES, blocks: counts, "n_conv_per_stage_decoder": [2, 1],
        "conv_bias": True, "norm_op": "torch.nn.modules.instancenorm.InstanceNorm2d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True}, "dropout_op": None, "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True}}
    return {
        "dataset_name": "Dataset042_Tiny", "plans_name": "nnUNetPlans", "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2], "original_median_shape_after_transp": [1, 40, 40],
        "image_reader_writer": "NaturalImage2DIO", "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {}, "configurations": {"2d": {
            "patch_size": [32, 24], "batch_size": 4, "spacing": [1.0, 1.0], "use_mask_for_norm": [False, False],
            "normalization_schemes": ["ZScoreNormalization"] * 2, "batch_dice": True, "architecture": {
                "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
                "arch_kwargs": arguments | changes}}}}


def write_folder(root: Path, kind: str, seeds: dict[str, int], **changes: Any) -> Path:
    """A trainer's folder as nnU-Net leaves it, with the aliases that its state dictionaries have."""
    trainer = root / "Dataset042_Tiny" / "nnUNetTrainer__nnUNetPlans__2d"
    for fold, seed in seeds.items():
        (trainer / fold).mkdir(parents=True)
        torch.save({"network_weights": stock(kind, seed).state_dict(), "trainer_name": "nnUNetTrainer",
                    "optimizer_state": {"param_groups": [{"lr": np.float64(0.01)}]}, "_best_ema": np.float64(0.9),
                    "init_args": {"configuration": "2d", "fold": 0, "device": torch.device("cuda:0")},
                    "inference_allowed_mirroring_axes": (0, 1)}, trainer / fold / "checkpoint_final.pth")
    (trainer / "plans.json").write_text(json.dumps(plans(kind, **changes)))
    (trainer / "dataset.json").write_text(json.dumps({
        "channel_names": {"0": "actin", "1": "dna"}, "labels": {"background": 0, "cell": 1, "nucleus": 2},
        "numTraining": 9, "file_ending": ".png"}))
    return trainer


@pytest.mark.parametrize(("kind", "network"), [("PlainConvUNet", "nnunet"), ("ResidualEncoderUNet", "nnunet-resenc")])
def test_a_stock_folder_gives_the_same_logits(kind: str, network: str, tmp_path: Path) -> None:
    trainer = write_folder(tmp_path, kind, {"fold_0": 0, "fold_1": 1})
    import_checkpoint(trainer, tmp_path / "model")
    model = load_package(tmp_path / "model")
    assert check_package(model) < 1e-5
    assert (model.network, model.kind, model.classes) == (network, "classes", ("background", "cell", "nucleus"))
    assert (model.channels, model.plan.patch_size, model.mirror_axes) == (("actin", "dna"), (32, 24), (0, 1))
    assert model.plan.strides == tuple(tuple(row) for row in STRIDES)
    assert model.training["files"] == [f"fold_{k}/checkpoint_final.pth" for k in (0, 1)]
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 2, 32, 24)).astype(np.float32))
    with torch.inference_mode():
        for seed, built in enumerate(model.build_all()):
            assert torch.equal(built(image), stock(kind, seed)(image))
    picture = np.random.default_rng(1).normal(size=(2, 40, 50)).astype(np.float32)
    assert segment(Image(picture, "CYX", Grid((40, 50), (1.0, 1.0))), model).labels.shape == (40, 50)


def test_a_checkpoint_alone_wants_its_patch_size(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(stock("PlainConvUNet", 0).state_dict(), path)
    with pytest.raises(ModelError, match="give the whole nnU-Net model folder, or the 2 sides with --patch"):
        import_checkpoint(path, tmp_path / "model")
    assert import_checkpoint(path, tmp_path / "model", patch=(16, 16)).plan.patch_size == (16, 16)
    with pytest.raises(ModelError, match="multiples of 4 x 2"):
        import_checkpoint(path, tmp_path / "other", patch=(18, 16))


@pytest.mark.parametrize(("changes", "said"), [
    ({"nonlin": "torch.nn.ReLU"}, r"torch\.nn\.ReLU"), ({"norm_op": "torch.nn.BatchNorm2d"}, "BatchNorm2d"),
    ({"nonlin_kwargs": {"negative_slope": 0.2}}, r"slope 0\.2"), ({"nonlin_first": True}, "would give other labels")])
def test_what_no_weight_shows_is_read_from_the_plan(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    trainer = write_folder(tmp_path, "PlainConvUNet", {"fold_all": 0}, **changes)
    with pytest.raises(ModelError, match=said):
        import_checkpoint(trainer, tmp_path / "model")


def test_keys_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = dict(stock("PlainConvUNet", 0).state_dict())
    lost = [key for key in state if ".1.0.convs.0.norm.bias" in key or ".1.0.convs.0.all_modules.1.bias" in key]
    torch.save({key: value for key, value in state.items() if key not in lost} | {"extra.weight": torch.ones(1)},
               tmp_path / "weights.pth")
    with pytest.raises(ModelError, match=r"1\.0\.convs\.0\.norm\.bias is missing.*extra\.weight is unexpected"):
        import_checkpoint(tmp_path / "weights.pth", tmp_path / "model", patch=(16, 16))


def test_the_library_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = write_folder(tmp_path, "PlainConvUNet", {"fold_0": 0})
    import_checkpoint(trainer, tmp_path / "model")
    monkeypatch.setitem(sys.modules, "dynamic_network_architectures.architectures.unet", None)
    with pytest.raises(MissingPackageError, match=r"mambaseg\[compare\]"):
        import_checkpoint(trainer, tmp_path / "other")
    with pytest.raises(MissingPackageError, match=r"mambaseg\[compare\]"):
        load_package(tmp_path / "model")


def test_sizes_are_read_from_the_keys_of_every_fixture(shared: Path) -> None:
    for kind, record in json.loads((shared / "nnunet" / "models_state_dict_keys.json").read_text()).items():
        sizes = record["config"]
        shapes = {key: tuple(shape) for key, shape, _ in record["keys"]}
        found = recognise(shapes, patch_size=[8, 16, 16])
        assert found.network == {"PlainConvUNet": "nnunet", "ResidualEncoderUNet": "nnunet-resenc"}[kind]
        assert found.config["features_per_stage"] == sizes["features_per_stage"]
        assert found.config["strides"] == sizes["strides"]
        assert found.config["kernel_sizes"] == sizes["kernel_sizes"]
        assert found.config["n_blocks_encoder"] == sizes[KINDS[kind][0]]
        assert found.config["n_blocks_decoder"] == sizes["n_conv_per_stage_decoder"]
        assert (found.in_channels, found.n_classes) == (sizes["input_channels"], sizes["num_classes"])


@pytest.mark.parametrize("name", ["regions2d_png", "transposed3d"])
def test_stock_models_give_stock_labels(name: str, shared: Path, tmp_path: Path) -> None:
    folder = shared / "nnunet" / "models" / name
    model = import_checkpoint(next(folder.glob("Dataset*/nnUNetTrainer__*")), tmp_path / "model")
    image = next((folder / "imagesTs").iterdir())
    expected = next(path for path in (folder / "expected_tta").iterdir() if path.suffix != ".npz")
    labels = segment(image, model, tta=True).labels
    assert (labels != read(expected).data.reshape(labels.shape)).mean() < 1e-3


def test_a_wrapped_state_dictionary_is_unwrapped(tmp_path: Path) -> None:
    path = tmp_path / "wrapped.pth"
    torch.save(official.prefixed("module.")(dict(stock("ResidualEncoderUNet", 3).state_dict())), path)
    model = import_checkpoint(path, tmp_path / "model", patch=(32, 24))
    image = torch.randn(1, 2, 32, 24)
    with torch.inference_mode():
        assert torch.equal(model.build()(image), stock("ResidualEncoderUNet", 3)(image))

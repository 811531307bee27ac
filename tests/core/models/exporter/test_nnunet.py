"""Exported model folders in the real nnU-Net, and back."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from golden_predicting import stock_logits
from mambaseg import Image, UserError, load_model, segment, write
from mambaseg.cli._app import run
from mambaseg.image import Grid
from mambaseg.instances import keep_largest_component
from mambaseg.io import read_labels
from mambaseg.models import Model
from mambaseg.models.ensemble import make_ensemble
from mambaseg.models.exporter import FORMATS, Exported, export_model
from mambaseg.models.importer import import_checkpoint
from mambaseg.orientation import turn_to
from mambaseg.predict.blend import probabilities_to_labels
from mambaseg.predict.run import to_frame
from mambaseg.prepare import prepare
from small_models import save_model

SAMPLES = Path(__file__).parents[4] / "sample_data"
CT = {"mean": 20.0, "std": 60.0, "percentile_00_5": -120.0, "percentile_99_5": 150.0}
MIRRORED = ("picture", "regions")  # cases that are predicted with mirroring
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "picture": ("nnunet", {"n_channels": 3, "n_networks": 2, "crop_to_nonzero": True}),
    "ct": ("nnunet-resenc", {"ndim": 3, "transpose": (1, 0, 2), "spacing": (3.0, 1.0, 1.5), "normalisation": ("ct",),
                             "intensities": (CT,), "crop_to_nonzero": True, "n_blocks_encoder": (1, 3, 4)}),
    "regions": ("umamba-bot", {"ndim": 3, "kind": "regions", "spacing": (1.0, 1.0, 1.0), "n_channels": 2,
                               "crop_to_nonzero": True, "use_mask_for_norm": (True, False),
                               "about": {"regions": ((1, 2), (2,)), "region_order": (2, 1), "mirror_axes": (1, 2)}}),
    "objects": ("umamba-enc", {"n_channels": 3, "kind": "instances"}),
    "slices": ("segresnet", {"transpose": (1, 0, 2), "spacing": (1000.0, 1500.0), "unit": "um",
                             "crop_to_nonzero": True}),
    "stack": ("umamba-bot", {"ndim": 3, "about": {"mirror_axes": ()}}),
    "pixel": ("umamba-bot", {"kind": "regions", "about": {"classes": ("background", "front", "back")}}),
}


@dataclass(frozen=True)
class Case:
    """A model, its export, and an image for it."""

    model: Model
    made: Exported
    image: Image
    mirrors: bool


@pytest.fixture(scope="module", params=list(CASES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    network, how = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    model = save_model(folder / "model", network, **how)
    made = export_model(model, "nnunet", folder / "nnunet")
    return Case(model, made, image_for(model), request.param in MIRRORED)


def image_for(model: Model) -> Image:
    """Blobs with a rim of zeros where the model cuts that away."""
    is_picture = len(model.plan.transpose) == 2
    shape = {True: (36, 40), False: (16, 17, 16)}[is_picture] if model.plan.spacing is None else (8, 15, 18)
    blobs = gaussian_filter(np.random.default_rng(1).normal(size=(model.n_channels, *shape)),
                            [0, *[1.5] * len(shape)])
    values = (100 + 300 * blobs).astype(np.float32)
    if model.plan.crop_to_nonzero:
        values[:, :1] = 0
        values[..., -2:] = 0
    if model.plan.spacing is None:
        return Image(values, f"C{'ZYX'[-len(shape):]}", Grid(shape, (1.0,) * len(shape), "px"))
    return Image(values, "CZYX", Grid(shape, (1.5, 2.0, 1.0), "mm"))


def predictor_for(folder: Path, mirrors: bool) -> Any:
    """nnU-Net's own, with an exported model in it."""
    inference = pytest.importorskip("nnunetv2.inference.predict_from_raw_data", reason="needs nnunetv2")
    predictor = inference.nnUNetPredictor(use_mirroring=mirrors, perform_everything_on_device=False,
                                          device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), None)
    return predictor


def test_stock_nnunet_finds_the_same_labels(case: Case) -> None:
    model, grid = case.model, case.image.grid
    given, spacing = (case.image.data[:, None], [999, 1, 1]) if grid.ndim == 2 else (case.image.data, [*grid.spacing])
    found = predictor_for(case.made.folder, case.mirrors).predict_single_npy_array(
        given.copy(), {"spacing": spacing}, None, None, False).reshape(grid.shape)
    assert len(np.unique(found)) > 1  # a model that finds one thing everywhere would prove nothing
    unit = 1000.0 if model.plan.unit == "um" else 1.0
    prepared = prepare(case.image.data, [unit * size for size in grid.spacing], model.plan)
    # On a CPU nnU-Net adds windows up in half precision, so do we here. In single precision, as `segment` does it,
    # logits that are nearly equal change places, and those of random weights often are.
    logits = stock_logits(model.built_all, prepared, model.plan, n_classes=model.n_outputs,
                          mirror_axes=model.mirror_axes if case.mirrors else ())
    kind = "regions" if model.kind == "regions" else "classes"
    ours = probabilities_to_labels(to_frame(logits.astype(np.float32), prepared, kind), kind,
                                   model.region_order or None)
    assert (ours != found).sum() <= 1  # of 1440 and more: softmax may make a tie of two logits that are not


def test_what_was_exported_comes_back(case: Case, tmp_path: Path) -> None:
    back = import_checkpoint(case.made.folder, tmp_path / "back")
    model = case.model
    assert back.plan == model.plan
    assert (back.network, back.network_config["n_classes"]) == (model.network, model.n_outputs)
    assert (back.classes, back.channels, back.kind) == (model.classes, model.channels, model.kind)
    assert (back.class_labels, back.mirror_axes, back.licence) == (
        model.class_labels, model.mirror_axes, model.licence)
    assert back.region_order == (model.region_order or tuple(range(1, 3)) * (model.kind == "regions"))
    for network, same in zip(model.built_all, back.built_all, strict=True):
        for (key, value), (same_key, same_value) in zip(network.state_dict().items(), same.state_dict().items(),
                                                        strict=True):
            assert key == same_key
            assert torch.equal(value, same_value)


def test_nnunet_removes_the_pieces_that_the_model_removes(tmp_path: Path) -> None:
    from nnunetv2.postprocessing.remove_connected_components import apply_postprocessing

    groups = ((1, 2), (2,))
    model = save_model(tmp_path / "model", "nnunet", about={"keep_largest": groups})
    made = export_model(model, "nnunet", tmp_path / "out")
    assert any("-pp_pkl_file" in note for note in made.notes)
    content = next(tmp_path.glob("out/**/postprocessing.pkl")).read_bytes()
    labels = np.zeros((1, 20, 20), np.uint8)
    labels[0, 2:9, 2:9], labels[0, 9:12, 2:9], labels[0, 3:5, 3:5] = 1, 2, 2
    labels[0, 15:17, 15:17] = 1
    ours = labels
    for group in groups:
        ours = keep_largest_component(ours, group)
    assert np.count_nonzero(ours) == np.count_nonzero(labels) - 8
    np.testing.assert_array_equal(apply_postprocessing(labels, *pickle.loads(content)), ours)


def test_networks_of_nnunet_need_no_mambaseg_there(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", "nnunet", crop_to_nonzero=True, about={"mirror_axes": ()})
    made = export_model(model, "nnunet", tmp_path / "nnunet")
    assert made.notes == ()
    assert "mambaseg" not in (made.folder / "plans.json").read_text() + (made.folder / "dataset.json").read_text()
    checkpoint = torch.load(made.folder / "fold_0" / "checkpoint_final.pth", weights_only=True)
    keys = checkpoint["network_weights"]
    assert "decoder.encoder.stages.0.0.convs.0.all_modules.0.weight" in keys  # the names that stock loading wants


@pytest.mark.parametrize(("network", "how", "said"), [
    ("nnunet", {"normalisation": ("percentile",)}, "normalises by 'percentile'.*train a model with one of these"),
    ("nnunet", {"fit": "bilinear"}, "resizes whole images to its input"),
    ("nnunet", {"transpose": (0, 1, 2)}, "takes slices on each volume's own grid"),
    ("nnunet", {"about": {"classes": ("background", "ignore", "back")}}, 'a class of the name "ignore"')])
def test_what_nnunet_cannot_do_is_said(network: str, how: dict[str, Any], said: str, tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", network, **how)
    with pytest.raises(UserError, match=f'Model "small" cannot be exported to nnU-Net, because it .*{said}'):
        export_model(model, "nnunet", tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_ensemble_of_different_networks_is_refused(tmp_path: Path) -> None:
    models = [save_model(tmp_path / network, network) for network in ("nnunet", "umamba-bot")]
    joined = make_ensemble(models, tmp_path / "both")
    with pytest.raises(UserError, match="nnUNetv2_ensemble"):
        export_model(joined, "nnunet", tmp_path / "made")


@pytest.mark.parametrize("to", FORMATS)
def test_a_full_disk_leaves_nothing(to: str, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="needs a limit on the size of files")
    model = save_model(tmp_path / "model", "nnunet")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # the plans fit, the weights do not
    try:
        with pytest.raises(UserError, match=r"cannot be written: .*\. Make room or choose another place"):
            export_model(model, to, tmp_path / "made")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", "nnunet")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already; choose a new folder"):
        export_model(model, "nnunet", tmp_path / "made")
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["notes.txt"]


def test_hostile_plans_of_ours_are_refused(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", "umamba-bot")
    made = export_model(model, "nnunet", tmp_path / "nnunet")
    plans = json.loads((made.folder / "plans.json").read_text())
    arguments = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]
    for changed, said in (
            ({"network": "os.system"}, "There is no network"),
            ({"network_config": arguments["network_config"] | {"n_blocks_encoder": [10**9] * 3}}, "sane bounds"),
            ({"network_config": [1]}, "sane bounds")):
        plans["configurations"]["2d"]["architecture"]["arch_kwargs"] = arguments | changed
        (made.folder / "plans.json").write_text(json.dumps(plans))
        with pytest.raises(UserError, match=said):
            import_checkpoint(made.folder, tmp_path / "back")
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"] = arguments
    for own in ({"patch_size": [0, "x"]}, {"unknown": 1}):
        (made.folder / "plans.json").write_text(json.dumps(plans | {"mambaseg": own}))
        with pytest.raises(UserError):
            import_checkpoint(made.folder, tmp_path / "back")


def test_the_command_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(tmp_path / "model", "umamba-bot", n_networks=2)
    assert run(["export", str(tmp_path / "model"), "--to", "nnunet", "-o", str(tmp_path / "made")]) == 0
    said = capsys.readouterr().out
    assert "mambaseg has to be installed beside nnU-Net" in said
    assert f"nnUNetv2_predict_from_modelfolder -i IMAGES -o LABELS -m {tmp_path / 'made'} -f 0 1" in said
    assert run(["export", str(tmp_path / "model"), "--to", "onnx", "-o", str(tmp_path / "other")]) == 2
    assert "choose one of nnunet, bioimageio" in capsys.readouterr().err


@pytest.mark.slow  # nnU-Net starts a process for each of its workers
def test_the_command_of_nnunet_runs_it(tmp_path: Path) -> None:
    pytest.importorskip("nnunetv2", reason="needs nnunetv2")
    model = load_model("hippocampus-mri")
    folder = tmp_path / "results" / "Dataset042_Small" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    export_model(model, "nnunet", folder)
    (tmp_path / "images").mkdir()
    image = tmp_path / "images" / "case_0000.nii.gz"
    shutil.copy(SAMPLES / "brain_block.nii.gz", image)
    subprocess.run(
        [Path(sys.executable).with_name("nnUNetv2_predict"), "-i", image.parent, "-o", tmp_path / "labels", "-d", "42",
         "-c", "3d_fullres", "-f", "0", "-npp", "1", "-nps", "1", "-device", "cpu", "--disable_tta"],
        check=True, capture_output=True,
        env=os.environ | {f"nnUNet_{name}": str(tmp_path / name) for name in ("raw", "preprocessed", "results")})
    found = read_labels(tmp_path / "labels" / "case.nii.gz").data
    assert (np.bincount(found.ravel(), minlength=3) > 1000).all()
    # nnU-Net's sums are in half precision on a CPU, ours in single precision
    assert (segment(image, model).labels != found).mean() <= 1e-3


def test_volumes_are_turned_as_nnunet_turns_them(tmp_path: Path) -> None:
    readers = pytest.importorskip("nnunetv2.imageio.reader_writer_registry", reason="needs nnunetv2")
    model = save_model(tmp_path / "model", "umamba-bot", ndim=3, spacing=(1.0, 1.0, 1.0), orientation="RAS")
    made = export_model(model, "nnunet", tmp_path / "nnunet")
    plans = json.loads((made.folder / "plans.json").read_text())
    grid = Grid((6, 8, 7), (1.0, 2.0, 1.5), "mm", direction=(0, 0, 1, -1, 0, 0, 0, 1, 0), is_of_patient=True)
    volume = Image(np.random.default_rng(0).normal(size=grid.shape).astype(np.float32), "ZYX", grid)
    write(volume, tmp_path / "lies_otherwise.nii.gz")
    reader = readers.recursive_find_reader_writer_by_name(plans["image_reader_writer"])()
    theirs, _ = reader.read_images([str(tmp_path / "lies_otherwise.nii.gz")])
    np.testing.assert_array_equal(theirs, turn_to("RAS", grid)(volume.data)[None])
    assert import_checkpoint(made.folder, tmp_path / "back").plan.orientation == "RAS"
    other = save_model(tmp_path / "other", "umamba-bot", ndim=3, spacing=(1.0, 1.0, 1.0), orientation="LPS")
    assert any("LPS" in note for note in export_model(other, "nnunet", tmp_path / "as stored").notes)

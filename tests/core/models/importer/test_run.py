"""From official checkpoint files to packages that compute what the official networks compute."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional

import official
from mambaseg import nets, segment
from mambaseg._errors import ModelError
from mambaseg.models import Model, load_model
from mambaseg.models.importer import import_checkpoint
from mambaseg.models.package import check_package, load_package

detw = official.detw

# Fixture: what a bare state dictionary does not say
TOLD: dict[str, dict[str, Any]] = {
    "umamba_bot_2d_v1_tiny": {"patch": (64, 48)},
    "umamba_bot_2d_v2_tiny": {"patch": (64, 48), "strides": 2},
    "umamba_bot_2d_v2_tiny_5st": {"patch": (64, 64), "strides": 2},
    "umamba_bot_3d_v1_tiny": {"patch": (8, 24, 16)},
    "umamba_bot_3d_v2_tiny": {"patch": (8, 24, 16), "strides": "args"},
    "umamba_enc_2d_v1_tiny": {"patch": (48, 40)},
    "umamba_enc_2d_v2_tiny": {"patch": (64, 64), "strides": 2},
    "umamba_enc_2d_v2_tiny_chan": {"patch": (48, 40), "strides": 2},
    "umamba_enc_3d_v1_tiny": {"patch": (8, 24, 16)},
    "umamba_enc_3d_v2_tiny": {"patch": (8, 24, 16), "strides": "args"},
    "umamba_enc_3d_v2_tiny_chan": {"patch": (4, 16, 16), "strides": "args"},
    "unetv2_b0_tiny": {"patch": (64, 64)},
    "vmunet_tiny": {"patch": (64, 96)},
    "vmunet_tiny_gray_4cls": {"patch": (64, 64)},
    "vmunetv2_tiny_ds": {"patch": (64, 64)},
    "vmunetv2_tiny_nods": {"patch": (96, 96), "deep_supervision": False},
}
CHAN = "umamba_enc_2d_v2_tiny_chan"  # small, and in the checkout


def fixture(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    found = official.fixture(name)
    if found is None:
        pytest.skip(f"needs the fixture {name} of shared/parity")
    return found


def told(name: str, record: dict[str, Any]) -> dict[str, Any]:
    values = dict(TOLD[name])
    if values.get("strides") == "args":
        values["strides"] = record["args"]["strides"]
    return values


def save(content: object, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


def assert_equal_to_official(model: Model, record: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Full-resolution output of the packaged network against the official one; probabilities for a single class."""
    inputs = [torch.from_numpy(value) for value in detw.inputs(record).values()]
    with torch.inference_mode():
        output = model.build()(*inputs)
    values = output.sigmoid() if model.kind == "regions" else output
    spec = record["outputs"][0]
    greatest, median = detw.compare(values.numpy(), arrays["out0"], spec)
    assert greatest <= max(2e-4, 4 * spec["fp32_vs_fp64_max"])
    assert median <= max(2e-5, 4 * spec["fp32_vs_fp64_median"])


@pytest.mark.parametrize("name", TOLD)
def test_a_bare_state_dictionary_becomes_the_official_network(tmp_path: Path, name: str) -> None:
    record, arrays = fixture(name)
    path = save(official.state(record), tmp_path / "best.pth")
    import_checkpoint(path, tmp_path / "model", **told(name, record))
    model = load_package(tmp_path / "model")
    assert check_package(model) < 1e-5
    assert model.plan.patch_size == TOLD[name]["patch"]
    assert_equal_to_official(model, record, arrays)


@pytest.mark.parametrize("name", ["umamba_bot_3d_v2_tiny", CHAN, "umamba_enc_3d_v1_tiny"])
@pytest.mark.parametrize("plans", [official.flat_plans, official.current_plans])
def test_nnunets_file_brings_its_own_plan(tmp_path: Path, name: str, plans: Any) -> None:
    record, arrays = fixture(name)
    content = official.nnunet_file(record, official.state(record))
    content["init_args"]["plans"] = plans(record["args"])
    model = import_checkpoint(save(content, tmp_path / "checkpoint_final.pth"), tmp_path / "model")
    assert_equal_to_official(load_package(tmp_path / "model"), record, arrays)
    assert model.classes == ("background", "organ 1", "organ 2")
    assert model.mirror_axes == (0, 1)
    assert model.plan.batch_size == 2
    assert model.plan.normalisation == ("zscore",) * record["args"]["input_channels"]
    assert model.training["trainer"] == "nnUNetTrainerUMambaBot"
    assert "Dataset703_Tiny" in model.description


@pytest.mark.parametrize("container", official.CONTAINERS)
def test_every_container_gives_the_same_package(tmp_path: Path, container: str) -> None:
    record, arrays = fixture("vmunetv2_tiny_ds")
    path = save(official.CONTAINERS[container](official.state(record)), tmp_path / "latest.pth")
    model = import_checkpoint(path, tmp_path / "model", patch=(64, 64))
    wanted = official.state(record)
    for key, value in model.build().state_dict().items():
        expected = wanted[key].half().float() if container == "half" and value.is_floating_point() else wanted[key]
        assert torch.equal(value, expected), key
    if container != "half":
        assert_equal_to_official(model, record, arrays)


def test_aliases_may_be_missing_but_not_contradict(tmp_path: Path) -> None:
    record, arrays = fixture(CHAN)
    weights = official.state(record)
    own = {key: value for key, value in weights.items() if nets.canonical_key(key) == key}
    model = import_checkpoint(save(own, tmp_path / "own.pth"), tmp_path / "model", **TOLD[CHAN])
    assert_equal_to_official(model, record, arrays)
    alias = next(key for key in weights if key.startswith("decoder.encoder."))
    with pytest.raises(ModelError, match=rf"two\.pth.*{alias} contradicts"):
        import_checkpoint(save(weights | {alias: weights[alias] + 1}, tmp_path / "two.pth"), tmp_path / "two",
                          **TOLD[CHAN])


def test_what_does_not_fit_is_named_key_by_key(tmp_path: Path) -> None:
    weights = official.state(fixture(CHAN)[0])
    lost = [key for key in weights if "norm2" in key and not key.startswith("decoder.encoder.")][:3]
    content = {key: value for key, value in weights.items() if nets.canonical_key(key) not in lost}
    content["decoder.surplus.weight"] = torch.ones(2)
    content["decoder.seg_layers.1.bias"] = torch.ones(7)
    path = save(content, tmp_path / "best.pth")
    with pytest.raises(ModelError, match=r"best\.pth") as caught:
        import_checkpoint(path, tmp_path / "model", **TOLD[CHAN])
    for part in [*(f"{key} is missing" for key in lost), "decoder.surplus.weight is unexpected",
                 "decoder.seg_layers.1.bias is (7,), expected (3,)"]:
        assert part in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["best.pth"]


def test_shapes_that_ask_for_a_giant_network_are_refused_without_building_it(tmp_path: Path) -> None:
    record, _ = fixture("vmunetv2_tiny_ds")
    weights = official.state(record)
    weights["Translayer_1.conv.weight"] = torch.ones(60_000, 1, 1, 1)  # a real tensor, of 240 KB
    with pytest.raises(ModelError, match=r"best\.pth.*expected"):
        import_checkpoint(save(weights, tmp_path / "best.pth"), tmp_path / "model")


# --- recipes ---


@pytest.mark.parametrize(("name", "side", "scheme", "fit"), [
    ("vmunet_tiny", 256, "minmax_255", "bilinear"), ("vmunetv2_tiny_ds", 256, "minmax_255", "bilinear"),
    ("unetv2_b0_tiny", 352, "imagenet", "antialias")])
def test_the_papers_preprocessing_goes_into_the_plan(tmp_path: Path, name: str, side: int, scheme: str,
                                                     fit: str) -> None:
    record, _ = fixture(name)
    import_checkpoint(save(official.state(record), tmp_path / "best.pth"), tmp_path / "model")
    model = load_model(tmp_path / "model")
    assert model.plan.patch_size == (side, side)
    assert model.plan.normalisation == (scheme,) * 3
    assert model.plan.fit == fit  # the whole picture, resized, as the authors do
    assert model.plan.spacing is None
    assert not model.plan.crop_to_nonzero
    assert model.channels == ("red", "green", "blue")


def test_the_polyp_variant_adds_its_half_size_output(tmp_path: Path) -> None:
    torch.manual_seed(0)
    official_network = nets.build("unetv2-polyp", backbone="b0", channel=8).eval()
    file = save(official_network.state_dict(), tmp_path / "epoch_99.pth")
    model = import_checkpoint(file, tmp_path / "model", patch=(64, 64))
    picture = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    values = (torch.from_numpy(picture).permute(2, 0, 1)[None] / 255 - torch.tensor([0.485, 0.456, 0.406]).view(
        3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.inference_mode():
        full, half = official_network(functional.interpolate(values, (64, 64), mode="bilinear", antialias=True))
        fused = full + functional.interpolate(half, scale_factor=2, mode="bilinear")
        wanted = functional.interpolate(fused, (48, 80), mode="bilinear").sigmoid()[0]
    found = segment(picture, model, keep_probabilities=True).probabilities
    assert found is not None
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_nine_classes_of_vmunet_are_the_abdomens_and_go_slice_by_slice(tmp_path: Path) -> None:
    torch.manual_seed(0)
    official_network = nets.build("vmunet", n_classes=9, depths=(1, 1), depths_decoder=(1, 1), width=16).eval()
    model = import_checkpoint(save(official_network.state_dict(), tmp_path / "best.pth"), tmp_path / "model")
    assert model.classes[1::7] == ("aorta", "stomach")
    assert len(model.channels) == 1
    volume = np.random.default_rng(0).normal(60, 150, (2, 48, 60)).astype(np.float32)
    labels = segment(volume, model).labels
    for plane, found in zip(volume, labels, strict=True):
        values = ndimage.zoom((np.clip(plane, -125, 275) + 125) / 400, (224 / 48, 224 / 60), order=3)
        with torch.inference_mode():
            classes = official_network(torch.from_numpy(values)[None, None])[0].argmax(0).numpy()
        wanted = ndimage.zoom(classes, (48 / 224, 60 / 224), order=0)
        assert (found != wanted).mean() < 1e-3  # two classes may tie to the last digit


def test_an_imported_model_segments_a_picture(tmp_path: Path) -> None:
    record, _ = fixture("vmunetv2_tiny_ds")
    model = import_checkpoint(save(official.state(record), tmp_path / "best.pth"), tmp_path / "model",
                              classes=("background", "polyp"), patch=(64, 64))
    picture = np.random.default_rng(0).integers(0, 256, (40, 70, 3), np.uint8)
    result = segment(picture, model, keep_probabilities=True)
    assert result.labels.shape == (40, 70)
    assert list(result.record["voxels"]) == ["background", "polyp"]
    assert result.probabilities is not None
    assert 0 < result.probabilities.min() <= result.probabilities.max() < 1


@pytest.mark.parametrize(("options", "said"), [
    ({"patch": (64, 96)}, "squares"), ({"patch": (65, 65)}, "multiples of 32"), ({"patch": (64,)}, "two sides"),
    ({"classes": ("a", "b", "c")}, r"3 classes are named \(a, b, c\), but the network knows 2")])
def test_options_that_do_not_suit_the_network_are_refused(tmp_path: Path, options: Any, said: str) -> None:
    path = save(official.state(fixture("vmunetv2_tiny_ds")[0]), tmp_path / "best.pth")
    with pytest.raises(ModelError, match=said):
        import_checkpoint(path, tmp_path / "model", **options)
    assert not (tmp_path / "model").exists()


def test_name_and_origin_are_told(tmp_path: Path) -> None:
    path = save(official.state(fixture(CHAN)[0]), tmp_path / "best.pth")
    model = import_checkpoint(path, tmp_path / "model", name="Cells & more", **TOLD[CHAN])
    assert (model.name, model.title) == ("Cells-more", "Cells & more")
    assert model.training["files"] == ["best.pth"]
    assert len(model.training["sha256"][0]) == 64
    assert model.training["notes"] == ["The names of the classes were not in the checkpoint and are numbers."]


# --- nnU-Net folders ---


def test_folds_become_an_ensemble_whose_logits_are_averaged(tmp_path: Path) -> None:
    trainer = official.model_folder(tmp_path, {"fold_0": 1.0, "fold_1": 0.9, "fold_4": 1.1})
    import_checkpoint(trainer, tmp_path / "model")
    model = load_package(tmp_path / "model")
    assert len(model.members) == 2
    assert model.training["files"] == [f"fold_{k}/checkpoint_final.pth" for k in (0, 1, 4)]
    assert check_package(model) < 1e-5
    record, arrays = fixture(CHAN)
    assert_equal_to_official(model, record, arrays)
    single = [import_checkpoint(trainer / f"fold_{k}", tmp_path / f"single{k}") for k in (0, 1, 4)]
    picture = np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8)
    logits = []
    for each in single:
        found = segment(picture, each, keep_probabilities=True).probabilities
        logits.append(np.log(found) - np.log(found).mean(0))
    mean = np.mean(logits, axis=0)
    expected = np.exp(mean) / np.exp(mean).sum(0)
    together = segment(picture, model, keep_probabilities=True).probabilities
    np.testing.assert_allclose(together, expected, atol=2e-5)
    assert np.abs(together - segment(picture, single[0], keep_probabilities=True).probabilities).max() > 1e-2


def test_a_network_trained_on_all_cases_is_left_out_beside_folds(tmp_path: Path) -> None:
    model = import_checkpoint(official.model_folder(tmp_path, {"fold_0": 1.0, "fold_all": 0.5}), tmp_path / "model")
    assert not model.members
    assert "fold_all was left out" in model.training["notes"][0]


def test_fold_all_alone_is_taken(tmp_path: Path) -> None:
    model = import_checkpoint(official.model_folder(tmp_path, {"fold_all": 1.0}), tmp_path / "model")
    assert model.training["files"] == ["fold_all/checkpoint_final.pth"]


def test_interior_and_boundary_become_objects(tmp_path: Path) -> None:
    trainer = official.model_folder(tmp_path, {"fold_all": 1.0}, {"background": 0, "interior": 1, "boundary": 2})
    model = import_checkpoint(trainer, tmp_path / "model", classes=("background", "nucleus"))
    assert (model.kind, model.classes, model.decoder) == ("instances", ("background", "nucleus"), {})
    picture = np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8)
    assert segment(picture, model).features is not None


def test_regions_keep_their_names(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2], "core": [2], "rim": [1], "ignore": 3}
    model = import_checkpoint(official.model_folder(tmp_path, {"fold_0": 1.0}, labels), tmp_path / "model")
    assert (model.kind, model.classes) == ("regions", ("background", "whole", "core", "rim"))


def test_a_data_set_with_other_classes_is_refused(tmp_path: Path) -> None:
    trainer = official.model_folder(tmp_path, {"fold_0": 1.0}, {"background": 0, "liver": 1})
    with pytest.raises(ModelError, match="names 2 classes, but the network has 3 outputs"):
        import_checkpoint(trainer, tmp_path / "model")


def test_folds_of_different_networks_are_refused(tmp_path: Path) -> None:
    trainer = official.model_folder(tmp_path, {"fold_0": 1.0})
    weights = official.state(fixture(CHAN)[0])
    changed = {key: value[:2] if "seg_layers" in key else value for key, value in weights.items()}
    save({"network_weights": changed}, trainer / "fold_1" / "checkpoint_final.pth")
    with pytest.raises(ModelError, match=r"fold_1.*another network than .*fold_0"):
        import_checkpoint(trainer, tmp_path / "model")


def test_a_hostile_fold_is_refused(tmp_path: Path) -> None:
    trainer = official.model_folder(tmp_path, {"fold_0": 1.0})
    (trainer / "fold_0" / "checkpoint_final.pth").write_bytes(b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.")
    with pytest.raises(ModelError, match=r'asks for "posix\.system"'):
        import_checkpoint(trainer, tmp_path / "model")


@pytest.mark.parametrize(("name", "content", "said"), [
    ("plans.json", None, r"plans\.json cannot be read"), ("dataset.json", "{", r"dataset\.json is not valid JSON"),
    ("plans.json", "[]", r"plans\.json is not what nnU-Net writes"), ("plans.json", "{}", "is not what nnU-Net"),
    ("plans.json", '{"configurations": {"3d_fullres": {}}}', "no usable configuration"),
    ("plans.json", '{"configurations": {"2d": {}}}', "plan of .* cannot be understood")])
def test_a_broken_folder_says_what_is_wrong(tmp_path: Path, name: str, content: str | None, said: str) -> None:
    trainer = official.model_folder(tmp_path, {"fold_0": 1.0})
    (trainer / name).unlink() if content is None else (trainer / name).write_text(content)
    with pytest.raises(ModelError, match=said):
        import_checkpoint(trainer, tmp_path / "model")


def test_a_folder_of_trainers_names_them(tmp_path: Path) -> None:
    trainer = official.model_folder(tmp_path, {"fold_0": 1.0})
    with pytest.raises(ModelError, match=f"give one of the folders in it: {trainer.name}"):
        import_checkpoint(tmp_path, tmp_path / "model")
    with pytest.raises(ModelError, match=r"holds no checkpoint_final\.pth"):
        import_checkpoint(tmp_path / "nowhere" if (tmp_path / "nowhere").mkdir() is None else tmp_path, tmp_path / "m")

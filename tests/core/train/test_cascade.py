"""Training in two stages: what the second sees of the first, and a folder in, one package out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

import mambaseg
from cascades import SHAPE, balls, save_stage, write_volumes
from mambaseg import Cancelled, Progress, UserError
from mambaseg.plan import training
from mambaseg.plan.fingerprint import Fingerprint
from mambaseg.plan.rules import plan_dataset, to_plan
from mambaseg.plan.training import plan_for_training
from mambaseg.predict.previous import one_hot
from mambaseg.prepare import prepare
from mambaseg.train.augment import augmentation, seed_augmentation, spoil
from mambaseg.train.cascade import find_labels
from mambaseg.train.dataset import open_dataset
from mambaseg.train.loader import BatchLoader, fixed_batches
from mambaseg.train.prepared import prepare_cases
from mambaseg.train.sample import Case, PatchSampler
from tiny_models import tiny_plan

CASCADE = "3d_cascade_fullres"


@pytest.fixture
def tiny_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans of a patch of 12 x 12 x 12, so that the drawn volumes have a low resolution."""
    monkeypatch.setitem(training.SMALL_VOXELS, 3, 12**3)
    for name, value in (("SMALL_BASE", 4), ("SMALL_CAP", 8), ("SMALL_STEP_VOXELS", 2 * 12**3)):
        monkeypatch.setattr(training, name, value)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_volumes(tmp_path_factory.mktemp("volumes") / "set")


# --- what the network sees --------------------------------------------------------------------------------------------

def a_case() -> Case:
    random = np.random.default_rng(0)
    previous = np.zeros((20, 20, 20), np.int8)
    previous[4:12, 4:12, 4:12], previous[13:18, 3:9, 3:9], previous[:2] = 1, 2, -1
    return Case("a", previous[None] + random.normal(0, 0.1, (1, 20, 20, 20)).astype(np.float32),
                (previous == 1).astype(np.int8), previous=previous)


def test_each_label_found_before_is_a_channel_behind_the_image() -> None:
    batches = fixed_batches(PatchSampler([a_case()], tiny_plan(3, 1), seed=0, margin=False), 3, None, (1, 2))
    for batch in batches:
        assert batch.image.shape == (2, 3, 16, 16, 16)
        found = batch.image[:, 0].round()  # the image was drawn from the labels
        assert torch.equal(batch.image[:, 1], (found == 1).float())
        assert torch.equal(batch.image[:, 2], (found == 2).float())
        assert torch.equal(batch.target[:, 0], (found == 1).long())


def test_labels_found_before_move_with_the_image() -> None:
    plan = tiny_plan(3, 1)
    transform = augmentation(plan, instances=False, pictures=False)
    case = a_case()
    # Where nothing is spoiled, the truth (label 1) and the channel of label 1 are the same voxels
    with BatchLoader(PatchSampler([case], plan, seed=0), transform, None, seed=1, previous=(1, 2)) as batches:
        same = [torch.equal(image[1], target[0].float()) for batch, _ in zip(batches, range(12), strict=False)
                for image, target in zip(batch.image, batch.target, strict=True)]
    assert 0.5 < np.mean(same) < 1  # 1 - 0.4 / 2 - 0.2 / 2, but for morphology that changes nothing


def test_the_network_learns_from_what_it_will_be_given(tmp_path: Path, volumes: Path) -> None:
    data = open_dataset(volumes)
    first = save_stage(tmp_path / "first", 1, spacing=(2.0, 2.2, 1.9))
    plan = tiny_plan(3, 1, spacing=(0.9, 1.0, 1.1), transpose=(2, 0, 1), crop_to_nonzero=True,
                     normalisation=("zscore",))
    found = find_labels(data, data.train, first, tmp_path / "previous")
    for case, files in zip(prepare_cases(data, data.train, plan, None, tmp_path / "prepared", found), data.train,
                           strict=True):
        image = mambaseg.read(files.images[0])
        labels = mambaseg.segment(image, first).labels
        given = prepare(image.data[None], image.grid.spacing, plan, previous=labels)
        assert case.previous is not None
        np.testing.assert_array_equal(case.previous, given.previous)
        assert case.previous.shape == case.labels.shape == given.array.shape[1:]
        assert {1, 2} & set(np.unique(case.previous))


def test_channels_follow_the_values_asked_for() -> None:
    labels = np.array([[-1, 0, 1], [7, 300, 7]], np.int16)
    np.testing.assert_array_equal(one_hot(labels, (1, 300, 7)), [
        [[0, 0, 1], [0, 0, 0]], [[0, 0, 0], [0, 1, 0]], [[0, 0, 0], [1, 0, 1]]])
    assert one_hot(np.zeros((2, 2), np.int8), (1, 300)).sum() == 0


# --- nnU-Net's augmentation of labels ---------------------------------------------------------------------------------

def drawn() -> torch.Tensor:
    """Two labels: a block that fills a fifth of the patch, and two small ones apart."""
    channels = torch.zeros(2, 20, 20, 20)
    channels[0, :, 3:12, 4:15] = 1
    channels[1, 2:9, 14:19, 3:9] = 1
    channels[1, 12:17, 14:19, 10:16] = 1
    return channels


def test_labels_are_spoiled_as_often_as_nnunet_does() -> None:
    n, n_changed, n_lost_a_piece = 200, np.zeros(2), 0
    before = drawn()
    for seed in range(n):
        seed_augmentation(seed)
        after = spoil(drawn())
        assert set(after.unique().tolist()) <= {0.0, 1.0}
        n_changed += [(one != other).any() for one, other in zip(after, before, strict=True)]
        pieces = [bool((after[1] * block).any()) for block in (before[1] * corner(0, 10), before[1] * corner(10, 20))]
        n_lost_a_piece += sum(pieces) == 1
    # Label 1: no piece is small enough to be removed; morphology of itself (0.4 x 0.5) or of the other one that grows
    # over it. Closing a block changes nothing, so it is less than 0.2 of its own and some of the other's
    assert 0.1 < n_changed[0] / n < 0.25
    # Label 2 also loses one of its two pieces with 0.2 x 0.5; morphology seldom takes just one
    assert 0.06 < n_lost_a_piece / n < 0.16
    assert 0.18 < n_changed[1] / n < 0.34


def corner(low: int, high: int) -> torch.Tensor:
    mask = torch.zeros(20, 20, 20)
    mask[low:high] = 1
    return mask


def test_a_piece_that_fills_much_of_the_patch_is_never_removed() -> None:
    channels = torch.zeros(1, 12, 12, 12)
    channels[0, :8] = 1  # two thirds
    for seed in range(60):
        seed_augmentation(seed)
        after = spoil(channels.clone())[0].numpy()
        assert after.any() or not ndimage.binary_erosion(np.ones((8, 12, 12)), iterations=4, border_value=0).any()


def test_the_seed_alone_decides_how_labels_are_spoiled() -> None:
    made = []
    for seeds in ((5,), (1, 2, 3, 5)):  # what was spoiled before does not matter
        for seed in seeds:
            seed_augmentation(seed)
            last = spoil(drawn())
        made.append(last)
    assert torch.equal(*made)


# --- plans ------------------------------------------------------------------------------------------------------------

def fingerprint_of(shape: tuple[int, ...], unit: str = "mm") -> Fingerprint:
    return Fingerprint((shape,) * 5, ((1.0,) * 3,) * 5, ({"mean": 1.0, "std": 1.0},), unit=unit)


def test_the_low_resolution_sees_a_quarter_of_the_image() -> None:
    full = plan_for_training(fingerprint_of((200, 200, 200)), 3, 1)
    low = plan_for_training(fingerprint_of((200, 200, 200)), 3, 1, is_lowres=True)
    assert full.spacing == (1.0, 1.0, 1.0)
    assert low.spacing is not None
    shares = [np.prod(low.patch_size) / np.prod(200 / (np.array(low.spacing) / step)) for step in (1, 1.03)]
    assert shares[1] < 0.25 <= shares[0]  # the first step of 3 % at which it does
    assert not low.batch_dice


def test_the_standard_budget_has_the_low_resolution_of_the_planner() -> None:
    described = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "a": 1}, "numTraining": 5,
                 "file_ending": ".nii.gz"}
    fingerprint = fingerprint_of((300, 300, 300))
    expected = to_plan(plan_dataset(described, fingerprint), "3d_lowres")
    made = plan_for_training(fingerprint, 3, 1, budget="standard", is_lowres=True)
    for name in ("spacing", "patch_size", "batch_size", "strides", "features_per_stage", "batch_dice"):
        assert getattr(made, name) == getattr(expected, name), name


# --- from a folder to a package ---------------------------------------------------------------------------------------

@pytest.mark.usefixtures("tiny_budget")
def test_a_folder_becomes_one_package_of_both_stages(volumes: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    model = mambaseg.train(volumes, output=tmp_path / "m", iterations=6, configuration=CASCADE, progress=seen.append)
    first, second = mambaseg.load_model(shutil.copytree(tmp_path / "m", tmp_path / "elsewhere" / "m")).stages
    assert (first.training["iterations"], second.training["iterations"]) == (3, 3)  # half each
    assert (first.training["configuration"], second.training["configuration"]) == ("3d_lowres", CASCADE)
    assert all(low > full for low, full in zip(first.plan.spacing or (), second.plan.spacing or (), strict=True))
    assert (first.network_config["in_channels"], second.network_config["in_channels"]) == (1, 3)
    assert second.plan.batch_dice
    assert second.scores == model.scores != {}
    assert first.scores
    stages = [p.stage for p in seen if "low resolution" in p.message]
    assert {"Training", "Scoring", "Finding labels"} <= set(stages)
    image, _ = balls(0)
    assert mambaseg.segment(image, second).labels.shape == SHAPE


@pytest.mark.usefixtures("tiny_budget")
@pytest.mark.parametrize("stage", ["first", "labels", "second"])
def test_a_stopped_run_goes_on_in_its_stage(volumes: Path, tmp_path: Path, stage: str) -> None:
    is_there: dict[str, Callable[[Progress], bool]] = {
        "first": lambda p: p.stage == "Training" and "low resolution" in p.message and p.done == 2,
        "labels": lambda p: p.stage == "Finding labels" and p.done == 2,
        "second": lambda p: p.stage == "Training" and "low resolution" not in p.message and p.done == 2}

    def stop(update: Progress) -> None:
        if is_there[stage](update):
            raise Cancelled

    run: dict[str, Any] = {"output": tmp_path / "m", "iterations": 6, "configuration": CASCADE}
    with pytest.raises(Cancelled):
        mambaseg.train(volumes, progress=stop, **run)
    assert not (tmp_path / "m").exists()
    n_found = len(list((tmp_path / "m.training" / "previous").glob("*.npy")))
    assert n_found == {"first": 0, "labels": 2, "second": 5}[stage]
    seen: list[Progress] = []
    model = mambaseg.train(volumes, progress=seen.append, resume=True, **run)
    done = {key: [p.done for p in seen if p.stage == "Training" and ("low resolution" in p.message) == (key == "low")]
            for key in ("low", "full")}
    assert done == {"first": {"low": [3], "full": [1, 2, 3]}, "labels": {"low": [], "full": [1, 2, 3]},
                    "second": {"low": [], "full": [3]}}[stage]
    assert sum(p.stage == "Finding labels" for p in seen) == 0 or stage != "second"
    assert len(model.stages) == 2


@pytest.mark.usefixtures("tiny_budget")
def test_a_given_first_stage_leaves_all_the_time_to_the_second(volumes: Path, tmp_path: Path) -> None:
    first = save_stage(tmp_path / "first", 1, spacing=(2.0, 2.0, 2.0))
    model = mambaseg.train(volumes, output=tmp_path / "m", iterations=2, configuration=CASCADE,
                           previous=tmp_path / "first")
    assert model.training["iterations"] == 2
    assert model.stages[0].checksum == first.checksum
    again = mambaseg.train(volumes, output=tmp_path / "m", iterations=3, configuration=CASCADE, resume=True)
    assert again.training["iterations"] == 3
    assert again.stages[0].checksum == first.checksum
    save_stage(tmp_path / "other", 2, spacing=(2.0, 2.0, 2.0))
    with pytest.raises(UserError, match=r"began with .* as its first stage, and .* is another; resume without"):
        mambaseg.train(volumes, output=tmp_path / "m", iterations=4, configuration=CASCADE, resume=True,
                       previous=tmp_path / "other")


@pytest.mark.parametrize(("options", "words"), [
    ({"configuration": "3d"}, "2d, 3d_fullres, 3d_lowres, 3d_cascade_fullres"),
    ({"configuration": "3d_fullres", "previous": "nuclei-2d"}, "first stage of a cascade only"),
    ({"configuration": CASCADE, "network": "vmunet"}, "single slices.*umamba-bot"),
    ({"configuration": CASCADE, "fit_to": "bilinear"}, "whole images"),
    ({"configuration": CASCADE, "instances": True}, "number objects"),
    ({"configuration": CASCADE}, "100 % of the usual image.*3d_fullres or 2d"),
    ({"configuration": "3d_lowres"}, "there is no low resolution"),
    ({"configuration": CASCADE, "previous": "nuclei-2d"}, "nuclei-2d has the kind instances")])
def test_what_cannot_be_is_told_before_anything_is_trained(volumes: Path, tmp_path: Path, options: dict[str, Any],
                                                           words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        mambaseg.train(volumes, output=tmp_path / "m", iterations=1, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "m.training" / "last.pt").exists()


def test_volumes_of_unknown_voxel_size_have_no_cascade(tmp_path: Path) -> None:
    data = write_volumes(tmp_path / "set", 2, unit="px")
    with pytest.raises(UserError, match="voxel size of the images is not known"):
        mambaseg.train(data, output=tmp_path / "m", iterations=1, configuration=CASCADE)


def test_a_full_disk_is_told_before_labels_are_found(volumes: Path, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    first = save_stage(tmp_path / "first")
    data = open_dataset(volumes)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"need about .* only .* are free; make room"):
        find_labels(data, data.train, first, tmp_path / "previous")

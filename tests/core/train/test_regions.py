"""Classes that nest, as in tumours: from the labels of a data set through training back to labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray

import mambaseg
import tiny_models
from mambaseg._errors import DatasetError
from mambaseg.metrics import evaluate
from mambaseg.train.dataset import open_dataset
from mambaseg.train.loop import hard_dice_counts
from mambaseg.train.losses import deep_supervision_loss, downsample_target, region_dice_cross_entropy, region_target
from mambaseg.train.sample import UNLABELLED

SIDE = 32
RIM, CORE, CENTRE, IGNORE = 10, 20, 30, 40  # numbers that are no class indices
LABELS = {"background": 0, "whole": [RIM, CORE, CENTRE], "core": [CORE, CENTRE], "centre": CENTRE, "ignore": IGNORE}
ORDER = [RIM, CORE, CENTRE]
REGIONS = ((RIM, CORE, CENTRE), (CORE, CENTRE), (CENTRE,))


def write_tumours(folder: Path, n: int = 6, **changes: Any) -> Path:
    """Discs in discs in discs, each brighter than the one around it; a strip of each picture was not looked at."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for index in range(n):
        cy, cx = random.integers(13, 19, 2)
        distance = np.hypot(y - cy, x - cx)
        labels = np.zeros((SIDE, SIDE), np.uint8)
        image = np.full((SIDE, SIDE), 30.0)
        for value, radius, grey in ((RIM, 12, 90), (CORE, 8, 150), (CENTRE, 5, 220)):
            labels[distance < radius], image[distance < radius] = value, grey
        labels[:3] = IGNORE
        image += random.normal(0, 6, image.shape)
        tifffile.imwrite(folder / "images" / f"case{index}.tif", image.clip(0, 255).astype(np.uint8))
        tifffile.imwrite(folder / "labels" / f"case{index}.tif", labels)
    described = {"labels": LABELS, "regions_class_order": ORDER} | changes
    (folder / "dataset.json").write_text(json.dumps(described))
    return folder


@pytest.fixture(scope="module")
def tumours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tumours(tmp_path_factory.mktemp("tumours") / "set")


def test_a_data_set_tells_its_regions(tumours: Path) -> None:
    data = open_dataset(tumours)
    assert (data.kind, data.n_outputs, data.ignore_value) == ("regions", 3, IGNORE)
    assert data.classes == ("background", "whole", "core", "centre")
    assert data.regions == REGIONS
    assert data.region_order == tuple(ORDER)


def test_regions_without_an_order_of_painting_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="regions_class_order"):
        open_dataset(write_tumours(tmp_path / "set", n=2, regions_class_order=[1]))


def test_the_ignore_label_of_plain_classes_is_no_class(tmp_path: Path) -> None:
    plain = {"background": 0, "rim": RIM, "core": CORE, "centre": CENTRE, "ignore": IGNORE}
    data = open_dataset(write_tumours(tmp_path / "set", n=2, labels=plain))
    assert data.classes == ("background", "rim", "core", "centre")
    classes = data.to_classes(np.array([0, RIM, CORE, CENTRE, IGNORE]))
    assert classes.tolist() == [0, 1, 2, 3, data.ignore_class]


def test_the_loss_compares_each_level_with_its_regions() -> None:
    random = torch.Generator().manual_seed(0)
    target = torch.tensor([0, *ORDER, UNLABELLED])[torch.randint(0, 5, (2, 1, 8, 8), generator=random)]
    outputs = [torch.randn(2, 3, side, side, generator=random, requires_grad=True) for side in (8, 4, 2)]
    targets = downsample_target(target, [(1, 1), (2, 2), (2, 2)], 3)
    found = deep_supervision_loss(outputs, targets, True, UNLABELLED, REGIONS)
    wanted = torch.zeros(())
    for weight, output, level in zip((2 / 3, 1 / 3), outputs[:2], targets[:2], strict=True):
        channels = [torch.isin(level[:, 0], torch.tensor(region)) for region in (*REGIONS, [UNLABELLED])]
        wanted = wanted + weight * region_dice_cross_entropy(output, torch.stack(channels, 1), True, True)
    torch.testing.assert_close(found, wanted)
    found.backward()
    gradient = outputs[0].grad
    assert gradient is not None
    assert (gradient[(target == UNLABELLED).expand_as(gradient)] == 0).all()
    assert (gradient[(target != UNLABELLED).expand_as(gradient)] != 0).all()


def test_validation_counts_a_nested_voxel_for_all_its_regions() -> None:
    target = torch.tensor([[[0, RIM, CORE, CENTRE, UNLABELLED]]])
    logits = torch.where(region_target(target, REGIONS), 1.0, -1.0)
    logits[..., 4] = 1.0  # nobody knows what is there
    overlap, total = hard_dice_counts(logits, target, REGIONS)
    assert overlap.tolist() == [3, 2, 1]
    assert total.tolist() == [6, 4, 2]


def test_regions_are_scored_as_unions_of_labels() -> None:
    truth = np.array([[0, RIM, CORE, CENTRE, IGNORE]])
    found = evaluate(truth, np.array([[0, RIM, RIM, CENTRE, CENTRE]]), ignore_label=IGNORE,
                     regions={"whole": REGIONS[0], "core": REGIONS[1], "centre": REGIONS[2]})
    assert {name: row["dice"] for name, row in found["mean"]["classes"].items()} == {
        "whole": 1, "core": pytest.approx(2 / 3), "centre": 1}


@pytest.mark.slow
def test_training_raises_the_dice_of_every_region(tumours: Path, tmp_path: Path) -> None:
    before = mambaseg.train(tumours, output=tmp_path / "before", iterations=1).scores["dice"]
    model = mambaseg.train(tumours, output=tmp_path / "tumours", iterations=60)
    assert set(model.scores["dice"]) == set(before) == {"whole", "core", "centre"}
    for name, dice in model.scores["dice"].items():
        assert dice > max(0.7, before[name] or 0)
    loaded = mambaseg.load_model(tmp_path / "tumours")
    assert (loaded.kind, loaded.regions, loaded.region_order) == ("regions", REGIONS, tuple(ORDER))
    image = tifffile.imread(tumours / "images" / "case0.tif")
    result = mambaseg.segment(image, loaded, keep_probabilities=True)
    assert set(np.unique(result.labels)) == {0, *ORDER}
    assert result.probabilities is not None
    painted = np.select(list(result.probabilities[::-1] > 0.5), ORDER[::-1])
    np.testing.assert_array_equal(result.labels, painted)
    assert result.record["voxels"]["whole"] == np.count_nonzero(result.labels)
    assert result.record["voxels"]["core"] == np.isin(result.labels, REGIONS[1]).sum()


def test_a_package_paints_its_regions_in_its_own_order(tmp_path: Path) -> None:
    model = tiny_models.tiny_model(kind="regions", channels=("T1",))
    state = tiny_models.tiny_state(model)
    last = max(key for key in state if key.startswith("decoder.seg_layers") and key.endswith("bias"))
    state[last] = torch.full_like(state[last], 50.0)  # both regions everywhere
    image: NDArray[np.float32] = np.random.default_rng(0).normal(size=(20, 30)).astype(np.float32)
    for order in ((5, 300), (300, 5)):
        changed = mambaseg.models.Model(**{**vars(model), "region_order": order})
        tiny = mambaseg.models.package.save_package(tmp_path / str(order[0]), changed, state)
        labels = mambaseg.segment(image, tiny).labels
        assert (labels == order[1]).all()

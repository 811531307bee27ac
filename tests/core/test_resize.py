"""Whole pictures at the network's size, by the rules of the libraries that the authors used, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch.nn import functional

import mambaseg
from mambaseg._errors import UserError
from mambaseg.plan import Plan
from mambaseg.predict.run import predict
from mambaseg.prepare import prepare
from mambaseg.resize import resize, resize_labels, unresize

SIZES = [((37, 53), (64, 64)), ((300, 201), (64, 96)), ((64, 40), (64, 64)), ((1, 9), (32, 32))]


def picture(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(100, 30, shape).astype(np.float32)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_bilinear_is_what_torch_does_without_antialiasing(old: tuple[int, int], new: tuple[int, int]) -> None:
    values = picture(3, *old)
    for how, smooth in (("bilinear", False), ("antialias", True)):
        wanted = functional.interpolate(torch.from_numpy(values)[None], new, mode="bilinear", align_corners=False,
                                        antialias=smooth)[0]
        np.testing.assert_allclose(resize(values, new, how), wanted, atol=1e-3)


def test_antialias_is_what_pillow_does_with_pictures() -> None:
    values = np.clip(picture(301, 202), 0, 255)
    wanted = np.asarray(Image.fromarray(values).resize((64, 64), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(resize(values[None], (64, 64), "antialias")[0], wanted, atol=1e-3)


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_cubic_is_the_spline_zoom_of_the_abdomen_script(old: tuple[int, int], new: tuple[int, int]) -> None:
    values = picture(2, 3, *old)
    found = resize(values, new, "cubic")
    assert found.shape == (2, 3, *new)
    factors = [after / before for before, after in zip(old, new, strict=True)]
    np.testing.assert_array_equal(found[1, 2], ndimage.zoom(values[1, 2], factors, order=3))
    labels = unresize(found, (3, *old), "cubic").argmax(0)[2]
    back = [before / after for before, after in zip(old, new, strict=True)]
    np.testing.assert_array_equal(labels, ndimage.zoom(found[:, 2].argmax(0), back, order=0))


def test_labels_follow_their_picture() -> None:
    truth = np.zeros((40, 30), np.int8)
    truth[:20], truth[:, :3] = 2, -1
    for how in ("bilinear", "antialias", "cubic"):
        found = resize_labels(truth, (64, 64), how)
        assert set(np.unique(found)) == {-1, 0, 2}
        image = resize((truth == 2).astype(np.float32)[None], (64, 64), how)[0]
        assert ((image > 0.5) == (found == 2)).mean() > 0.98
    np.testing.assert_array_equal(resize_labels(truth[None], (64, 64), "bilinear")[0],
                                  resize_labels(truth, (64, 64), "bilinear"))


def resizing_plan(fit: str, n_channels: int = 3, **changes: Any) -> Plan:
    values: dict[str, Any] = {
        "ndim": 2, "patch_size": (32, 48), "batch_size": 2, "features_per_stage": (4,), "kernel_sizes": ((3, 3),),
        "strides": ((1, 1),), "n_blocks_encoder": (1,), "n_blocks_decoder": (), "transpose": (0, 1),
        "normalisation": ("minmax_255",) * n_channels, "use_mask_for_norm": (False,) * n_channels,
        "crop_to_nonzero": False, "fit": fit}
    return Plan(**(values | changes))


def network(n_channels: int = 3) -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(n_channels, 4, 3, padding=1), torch.nn.LeakyReLU(),
                               torch.nn.Conv2d(4, 2, 1))


@pytest.mark.parametrize("shape", [(37, 53), (90, 20), (32, 48)])
def test_a_picture_goes_through_the_network_whole_as_by_hand(shape: tuple[int, int]) -> None:
    image, net = picture(3, *shape), network()
    scaled = torch.from_numpy(255 * (image - image.min()) / (image.max() - image.min()))[None]
    with torch.no_grad():
        small = functional.interpolate(scaled, (32, 48), mode="bilinear", align_corners=False)
        wanted = functional.interpolate(net(small), shape, mode="bilinear", align_corners=False)[0].sigmoid()
    found = predict([net], image, (0.5, 0.5), resizing_plan("bilinear", spacing=(1.0, 1.0)), n_classes=2,
                    kind="regions")
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_slices_of_a_volume_are_resized_one_by_one() -> None:
    volume, net, plan = picture(1, 3, 41, 30), network(1), resizing_plan("cubic", 1, normalisation=("nonorm",))
    found = predict([net], volume, None, plan, n_classes=2)
    for index in range(3):
        alone = predict([net], volume[:, index], None, plan, n_classes=2)
        np.testing.assert_allclose(found[:, index], alone, atol=1e-6)
    part = predict([net], volume, None, plan, n_classes=2, roi=((1, 2), (10, 30), (0, 20)))
    np.testing.assert_allclose(part[:, 1, 10:30, :20], found[:, 1, 10:30, :20], atol=1e-6)
    assert (part[0, 0] == 1).all()


def test_training_labels_are_resized_with_the_picture() -> None:
    labels = np.zeros((37, 53), np.uint8)
    labels[10:30, 20:40] = 1
    prepared = prepare(picture(3, 37, 53), None, resizing_plan("bilinear"), labels)
    assert prepared.labels is not None
    assert prepared.array.shape[1:] == prepared.labels.shape == (32, 48)
    assert prepared.labels.mean() == pytest.approx(labels.mean(), abs=0.02)


def test_a_network_can_be_trained_on_whole_pictures(tmp_path: Path) -> None:
    for part in ("images", "labels"):
        (tmp_path / "set" / part).mkdir(parents=True)
    for index, shape in enumerate([(37, 53), (40, 30)]):
        image = np.clip(picture(*shape), 0, 255).astype(np.uint8)
        tifffile.imwrite(tmp_path / "set" / "images" / f"{index}.tif", image)
        tifffile.imwrite(tmp_path / "set" / "labels" / f"{index}.tif", (image > 110).astype(np.uint8))
    model = mambaseg.train(tmp_path / "set", output=tmp_path / "model", iterations=1, fit_to="bilinear")
    assert mambaseg.load_model(tmp_path / "model").plan.fit == model.plan.fit == "bilinear"
    assert mambaseg.segment(picture(33, 71), model).labels.shape == (33, 71)
    with pytest.raises(UserError, match="choose one of windows"):
        mambaseg.train(tmp_path / "set", output=tmp_path / "other", iterations=1, fit_to="stretch")

"""The networks that the paper compares with: the libraries' own, built from a plan, trainable and packed like ours."""

import copy
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mambaseg import nets
from mambaseg._errors import MissingPackageError
from mambaseg.models import Model, load_model
from mambaseg.models.package import check_package, save_package
from mambaseg.nets import comparison
from mambaseg.nets.registry import config_from_plan
from mambaseg.plan import Plan
from mambaseg.train.losses import deep_supervision_loss, downsample_target
from tiny_models import tiny_plan

NETWORKS = list(comparison.NETWORKS)
SIDES = {2: (64, 64), 3: (16, 32, 64)}


def plan(ndim: int = 2, **changes: Any) -> Plan:
    return tiny_plan(ndim, 1, **({"patch_size": SIDES[ndim], "features_per_stage": (4, 8, 16)} | changes))


def full_plan(ndim: int, side: int) -> Plan:
    """The sizes of nnU-Net's standard budget, whose base of 32 channels is that of the published comparison."""
    n = 6
    return Plan(ndim=ndim, patch_size=(side,) * ndim, batch_size=2, features_per_stage=(32, 64, 128, 256, 320, 320),
                kernel_sizes=((3,) * ndim,) * n, strides=((1,) * ndim, *((2,) * ndim,) * (n - 1)),
                n_blocks_encoder=(2,) * n, n_blocks_decoder=(2,) * (n - 1), transpose=tuple(range(ndim)))


def fresh(network: str, ndim: int = 2, deep: bool = False, n_classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    config = json.loads(json.dumps(config_from_plan(plan(ndim), 1, n_classes, deep, network)))
    return nets.build(network, **config)


def n_parameters(network: nn.Module) -> int:
    return sum(value.numel() for value in network.parameters())


# --- the libraries' own networks ---


def libraries_own(network: str) -> nn.Module:
    """As the U-Mamba authors' trainers call the libraries, for one channel, 14 classes and 96 x 96 x 96 voxels."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
    from monai.networks.nets.segresnet import SegResNet
    from monai.networks.nets.swin_unetr import SwinUNETR
    from monai.networks.nets.unetr import UNETR

    sizes: dict[str, Any] = {
        "input_channels": 1, "n_stages": 6, "features_per_stage": [32, 64, 128, 256, 320, 320], "conv_op": nn.Conv3d,
        "kernel_sizes": [[3, 3, 3]] * 6, "strides": [[1, 1, 1], *[[2, 2, 2]] * 5], "num_classes": 14, "conv_bias": True,
        "norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"eps": 1e-5, "affine": True}, "nonlin": nn.LeakyReLU}
    if network == "nnunet":
        return PlainConvUNet(n_conv_per_stage=[2] * 6, n_conv_per_stage_decoder=[2] * 5, **sizes)
    if network == "nnunet-resenc":
        return ResidualEncoderUNet(n_blocks_per_stage=[1, 3, 4, 6, 6, 6], n_conv_per_stage_decoder=[1] * 5, **sizes)
    if network == "segresnet":
        return SegResNet(spatial_dims=3, init_filters=32, in_channels=1, out_channels=14)
    if network == "unetr":
        return UNETR(in_channels=1, out_channels=14, img_size=(96, 96, 96))
    return SwinUNETR(in_channels=1, out_channels=14, feature_size=48)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_standard_plan_gives_the_published_size_under_the_librarys_keys(network: str) -> None:
    with torch.device("meta"):
        ours = nets.build(network, **config_from_plan(full_plan(3, 96), 1, 14, network=network))
    with torch.device("meta"), comparison._LinspaceOnCPU():
        theirs = libraries_own(network)
    assert n_parameters(ours) == n_parameters(theirs)
    named = {nets.canonical_key(key): value.shape for key, value in theirs.state_dict().items()}
    assert {key: value.shape for key, value in ours.state_dict().items()} == named


def test_sizes_of_the_comparison() -> None:
    """The counts of the libraries' versions that these tests last passed with."""
    counts = {}
    for network in NETWORKS:
        with torch.device("meta"):
            counts[network] = n_parameters(nets.build(network, **config_from_plan(full_plan(3, 96), 1, 14,
                                                                                  network=network)))
    assert counts["unetr"] == 92_802_478
    assert counts["segresnet"] == 18_796_398
    assert counts["swinunetr"] == 62_187_296
    assert counts["nnunet-resenc"] > 3 * counts["nnunet"] > 90_000_000


# --- what they return and take ---


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("ndim", [2, 3])
def test_logits_have_the_images_size(network: str, ndim: int) -> None:
    built = fresh(network, ndim).eval()
    with torch.inference_mode():
        logits = built(torch.randn(1, 1, *built.size_rule.fit(SIDES[ndim])))
    assert logits.shape[:2] == (1, 3)
    assert logits.shape[2:] == built.size_rule.fit(SIDES[ndim])
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("network", ["nnunet", "nnunet-resenc"])
def test_deep_supervision_lists_full_resolution_first(network: str) -> None:
    deep, plain = fresh(network, deep=True).eval(), fresh(network).eval()
    deep.load_state_dict(plain.state_dict())
    image = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        outputs = deep(image)
        assert [output.shape[2:] for output in outputs] == [(64, 64), (32, 32)]
        assert torch.equal(outputs[0], plain(image))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("given", [(33, 20), (1, 1)])
def test_a_fitted_size_always_works_in_training_too(network: str, given: tuple[int, int]) -> None:
    config = config_from_plan(plan(patch_size=given), 1, 2, network=network)
    built = nets.build(network, **config).train()
    sides = built.size_rule.fit(given)
    assert all(fitted >= side for fitted, side in zip(sides, given, strict=True))
    outputs = built(torch.randn(1, 1, *sides))
    assert outputs.shape[2:] == sides


@pytest.mark.parametrize(("network", "said"), [
    ("nnunet", "multiples of 4 x 4, not 63 x 64; pad the image to 64 x 64"), ("segresnet", "multiples of 8, not 63"),
    ("unetr", "64 x 64 only, not 63 x 64"), ("swinunetr", "multiples of 32, not 63 x 64")])
def test_a_size_that_does_not_fit_is_said_in_our_words(network: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fresh(network)(torch.randn(1, 1, 63, 64))


# --- training, copies, packages ---


@pytest.mark.parametrize("network", NETWORKS)
def test_a_few_steps_lower_the_loss(network: str) -> None:
    built = fresh(network, deep=True, n_classes=2).train()
    optimizer = torch.optim.AdamW(built.parameters(), 2e-3)
    image = torch.randn(1, 1, 64, 64)
    truth = (image > 0.5).long()
    losses = []
    for _ in range(4):
        outputs = built(image)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        loss = deep_supervision_loss(outputs, downsample_target(truth, plan().strides, len(outputs)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert math.isfinite(losses[-1])
    assert losses[-1] < losses[0] - 0.02


@pytest.mark.parametrize("network", NETWORKS)
def test_a_package_comes_back_as_it_was(network: str, tmp_path: Path) -> None:
    small = plan()
    built = fresh(network).eval()
    model = Model(name="other", title="Other", description="To compare.", network=network,
                  network_config=config_from_plan(small, 1, 3, network=network), plan=small,
                  classes=("background", "a", "b"), channels=("grey",), kind="classes", licence="CC0-1.0")
    save_package(tmp_path / "model", model, built.state_dict())
    loaded = load_model(tmp_path / "model")
    assert check_package(loaded) < 1e-5
    image = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1, 64, 64)).astype(np.float32))
    with torch.inference_mode():
        assert torch.equal(loaded.build()(image), built(image))
    content = (tmp_path / "model" / "weights.safetensors").read_bytes()
    n_header = 8 + int.from_bytes(content[:8], "little")
    once = sum(value.nbytes for value in (*built.parameters(), *built.buffers()))
    assert len(content) - n_header == once  # each tensor under one name


@pytest.mark.parametrize("network", ["nnunet", "nnunet-resenc"])
def test_weights_go_in_with_and_without_the_librarys_aliases(network: str) -> None:
    built = fresh(network)
    state = {key: value + 1 for key, value in built.state_dict().items()}
    other = copy.deepcopy(built)
    other.load_state_dict(state)
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())
    aliased = {f"decoder.{key}": value for key, value in state.items() if key.startswith("encoder.")}
    nets.load_official(built, state | aliased)
    assert all(torch.equal(value, state[key]) for key, value in built.state_dict().items())
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict(dict(list(state.items())[1:]))


@pytest.mark.parametrize(("network", "package"), [
    ("nnunet", "dynamic_network_architectures.architectures.unet"), ("segresnet", "monai.networks.nets.segresnet"),
    ("unetr", "monai.networks.nets.unetr"), ("swinunetr", "monai.networks.nets.swin_unetr")])
def test_a_missing_library_names_the_extra(network: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=r'pip install "mambaseg\[compare\]"'):
        fresh(network)

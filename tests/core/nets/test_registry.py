"""Names of networks, presets, and the constructor arguments of training and prediction."""

import json

import pytest
import torch

from mambaseg._errors import ModelError
from mambaseg.nets import NETWORKS, build, config_from_plan
from mambaseg.nets.registry import PRESETS
from mambaseg.plan import Plan

SIDE = 64
PLAN = Plan(ndim=2, patch_size=(SIDE, SIDE), batch_size=2, features_per_stage=(4, 8), kernel_sizes=((3, 3),) * 2,
            strides=((1, 1), (2, 2)), n_blocks_encoder=(1, 1), n_blocks_decoder=(1,), transpose=(0, 1))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_builds_and_gives_way_to_arguments(preset: str) -> None:
    with torch.device("meta"):
        network = build(preset, in_channels=2)
    assert network.in_channels == 2
    assert isinstance(network, NETWORKS[PRESETS[preset][0]])


def test_an_unknown_name_is_refused_for_networks_and_presets_alike() -> None:
    with pytest.raises(ModelError, match='no network "vmunet-isik"'):
        build("vmunet-isik")


SMALL = {"vmunet": {"width": 8, "d_state": 2}, "vmunetv2": {"mid_channel": 8, "d_state": 2, "depths": [1, 1, 1, 1]},
         "unetv2": {"backbone": "b0"}}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("n_classes", [1, 3])
@pytest.mark.parametrize("deep", [True, False])
def test_a_plan_gives_every_network_and_it_returns_logits(network: str, n_classes: int, deep: bool) -> None:
    torch.manual_seed(0)
    config = json.loads(json.dumps(config_from_plan(PLAN, 1, n_classes, deep, network)))
    built = build(network, **{**config, **SMALL.get(network, {})}).eval()
    with torch.inference_mode():
        for parameter in built.parameters():
            if parameter.shape == (n_classes,):
                parameter.fill_(-1000)  # the heads' biases: nothing else is that short
        outputs = built(torch.randn(1, 1, SIDE, SIDE))
    has_levels = deep and (network == "unetv2" or network.startswith(("umamba", "nnunet")))
    assert isinstance(outputs, list) == has_levels
    logits = outputs[0] if has_levels else outputs
    assert logits.shape == (1, n_classes, SIDE, SIDE)
    assert logits.max() < 0


def test_training_and_prediction_agree_on_what_vmunetv2_computes() -> None:
    training, prediction = (config_from_plan(PLAN, 3, 1, deep, "vmunetv2") for deep in (True, False))
    assert training == prediction

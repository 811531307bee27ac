"""U-Mamba beyond the fixtures: published sizes, options, and the loader of official weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from mambaseg._errors import ModelError
from mambaseg.nets import build, canonical_key, config_from_plan, load_official
from mambaseg.plan import Plan


def sizes(features: tuple[int, ...], ndim: int = 2, **others: Any) -> dict[str, Any]:
    n = len(features)
    return {"in_channels": 1, "n_classes": 3, "features_per_stage": features, "kernel_sizes": [[3] * ndim] * n,
            "strides": [[1] * ndim] + [[2] * ndim] * (n - 1), "n_blocks_encoder": [2] * n,
            "n_blocks_decoder": [2] * (n - 1), "patch_size": [32] * ndim, **others}


def n_parameters(name: str, config: dict[str, Any]) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build(name, **config).parameters())


CELLS = sizes((32, 64, 128, 256, 512, 512, 512, 512), in_channels=3, patch_size=[512, 512])
CT = {**sizes((32, 64, 128, 256, 320, 320), 3), "n_classes": 14, "patch_size": [40, 224, 192],
      "kernel_sizes": [[1, 3, 3]] + [[3, 3, 3]] * 5,
      "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]]}


@pytest.mark.parametrize(("name", "config", "generation", "published"), [
    ("umamba-bot", CELLS, 2, 64_797_301), ("umamba-enc", CELLS, 2, 64_014_261),
    ("umamba-bot", CT, 2, 41_945_158), ("umamba-enc", CT, 2, 42_842_798),
    ("umamba-bot", CELLS, 1, 86_150_037), ("umamba-enc", CELLS, 1, 91_835_029),
    ("umamba-bot", CT, 1, 57_832_166), ("umamba-enc", CT, 1, 59_105_766),
])
def test_parameter_counts_are_the_official_ones(name: str, config: dict[str, Any], generation: int,
                                                published: int) -> None:
    assert n_parameters(name, {**config, "generation": generation}) == published


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("generation", [1, 2])
def test_deep_supervision_adds_coarser_logits_and_changes_nothing_else(ndim: int, generation: int) -> None:
    config = sizes((4, 8, 8), ndim, generation=generation)
    deep = build("umamba-bot", **config, deep_supervision=True).eval()
    plain = build("umamba-bot", **config).eval()
    plain.load_state_dict(deep.state_dict())
    x = torch.randn(1, 1, *(16,) * ndim)
    with torch.inference_mode():
        outputs = deep(x)
        assert [tuple(o.shape[2:]) for o in outputs] == [(16,) * ndim, (8,) * ndim]
        torch.testing.assert_close(plain(x), outputs[0])


def test_bot_takes_any_size_that_divides() -> None:
    network = build("umamba-bot", **sizes((4, 8, 8))).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 1, 20, 44)).shape == (1, 3, 20, 44)


def test_half_precision_input_keeps_its_dtype_through_the_mamba_layer() -> None:
    network = build("umamba-bot", **sizes((4, 8, 8))).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        logits = network(torch.randn(1, 1, 16, 16))
    assert logits.dtype == torch.bfloat16
    assert torch.isfinite(logits).all()


def test_unknown_network_names_the_nearest() -> None:
    with pytest.raises(ModelError, match='Did you mean "umamba-bot"'):
        build("umamba-bott")


@pytest.mark.parametrize("wrong", [{"variant": "mid"}, {"generation": 3}])
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    from mambaseg.nets.umamba import UMamba

    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        UMamba(**{"variant": "bot", **sizes((4, 8)), **wrong})


def test_enc_needs_a_patch_size() -> None:
    with pytest.raises(ValueError, match="patch_size"):
        build("umamba-enc", **{**sizes((4, 8)), "patch_size": None})


def test_config_from_plan_builds() -> None:
    plan = Plan(ndim=2, patch_size=(32, 32), batch_size=2, features_per_stage=(4, 8), kernel_sizes=((3, 3),) * 2,
                strides=((1, 1), (2, 2)), n_blocks_encoder=(1, 1), n_blocks_decoder=(1,), transpose=(0, 1))
    network = build("umamba-enc", **config_from_plan(plan, in_channels=2, n_classes=5))
    assert network(torch.zeros(1, 2, 32, 32)).shape == (1, 5, 32, 32)


# --- official weights -------------------------------------------------------------------------------------------------

def with_aliases(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict as the official networks save it."""
    out = dict(state)
    for key, value in state.items():
        if key.startswith("encoder."):
            out[f"decoder.{key}"] = value
        for own, alias in ((".conv.", ".all_modules.0."), (".norm.", ".all_modules.1.")):
            if own in key and "layers" not in key:
                out[key.replace(own, alias)] = value
    return out


def test_official_weights_load_with_aliases_and_without() -> None:
    source = build("umamba-bot", **sizes((4, 8), generation=1))
    for state in (source.state_dict(), with_aliases(source.state_dict())):
        target = build("umamba-bot", **sizes((4, 8), generation=1))
        load_official(target, state)
        for name, value in source.state_dict().items():
            assert torch.equal(target.state_dict()[name], value), name


def test_every_misfit_is_named_and_nothing_is_loaded() -> None:
    network = build("umamba-bot", **sizes((4, 8)))
    before = copy.deepcopy(network.state_dict())
    state = {key: value + 1 for key, value in network.state_dict().items()}
    del state["decoder.seg_layers.0.bias"]
    state["surprise"] = torch.zeros(1)
    state["mamba_layer.norm.weight"] = torch.zeros(3)
    state["decoder.encoder.stem.0.conv1.bias"] = state["encoder.stem.0.conv1.bias"] + 1
    with pytest.raises(ModelError) as caught:
        load_official(network, state)
    message = str(caught.value)
    for part in ("decoder.seg_layers.0.bias is missing", "surprise is unexpected",
                 "mamba_layer.norm.weight is (3,), expected (8,)",
                 "decoder.encoder.stem.0.conv1.bias contradicts encoder.stem.0.conv1.bias"):
        assert part in message
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_canonical_key() -> None:
    alias = "decoder.encoder.stages.0.1.conv1.all_modules.1.weight"
    assert canonical_key(alias) == "encoder.stages.0.1.conv1.norm.weight"
    assert canonical_key("decoder.stages.0.0.conv1.weight") == "decoder.stages.0.0.conv1.weight"

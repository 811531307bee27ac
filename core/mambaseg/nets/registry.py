"""Names of networks and how to build them; the only door from a model package to code."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from mambaseg._errors import ModelError
from mambaseg.nets import comparison, unetv2, vmunet, vmunetv2
from mambaseg.nets.umamba import UMamba
from mambaseg.plan.plan import Plan

__all__ = ["ANY_SIZE", "NETWORKS", "PLANAR", "PRESETS", "build", "check_name", "config_from_plan"]

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "umamba-bot": partial(UMamba, "bot"),
    "umamba-enc": partial(UMamba, "enc"),
    "vmunet": vmunet.VMUNet,
    "vmunetv2": vmunetv2.VMUNetV2,
    "unetv2": unetv2.UNetV2,
    **comparison.NETWORKS,
}
# Networks that take any size that divides by their plan's strides; the others are run at the patch size
ANY_SIZE = frozenset({"umamba-bot", "nnunet", "nnunet-resenc"})
PLANAR = frozenset({"vmunet", "vmunetv2", "unetv2"})  # for 2-D pictures only
# Published configurations: name -> (key of NETWORKS, constructor arguments)
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    name: (network, config)
    for network, presets in (("vmunet", vmunet.PRESETS), ("vmunetv2", vmunetv2.PRESETS), ("unetv2", unetv2.PRESETS))
    for name, config in presets.items()
}


def check_name(name: str) -> None:
    """Raise ModelError with the nearest known name unless `name` is a network."""
    if name not in NETWORKS:
        near = difflib.get_close_matches(name, NETWORKS, n=1, cutoff=0.3)
        hint = f' Did you mean "{near[0]}"?' if near else ""
        raise ModelError(f'There is no network "{name}"; known are {", ".join(NETWORKS)}.{hint}')


def build(name: str, **config: Any) -> nn.Module:
    """A network with fresh weights.

    Parameters
    ----------
    name : a key of `NETWORKS`, or of `PRESETS`
    config : the network's constructor arguments, as `config_from_plan` gives them; they go before a preset's

    Raises
    ------
    ModelError : no such network; names the nearest
    """
    network, preset = PRESETS.get(name, (name, {}))
    check_name(network)
    return NETWORKS[network](**{**preset, **config})


def config_from_plan(plan: Plan, in_channels: int, n_classes: int, deep_supervision: bool = False,
                     network: str = "umamba-bot") -> dict[str, Any]:
    """Constructor arguments of a network that returns logits for this plan; plain JSON values.

    The plan decides the sizes of a U-Mamba and of the networks that it is compared with. The others have the sizes of
    their papers; as theirs, they see one channel as three, so that weights learned on photographs fit.

    Parameters
    ----------
    plan : sizes and preprocessing
    in_channels : channels of the images
    n_classes : outputs
    deep_supervision : return logits of several levels, full resolution first, where the network has them
    network : key of `NETWORKS`
    """
    check_name(network)
    if network.startswith("umamba"):
        sizes = plan.to_json()
        keys = ("features_per_stage", "kernel_sizes", "strides", "n_blocks_encoder", "n_blocks_decoder", "patch_size")
        return {"in_channels": in_channels, "n_classes": n_classes, "deep_supervision": deep_supervision,
                **{key: sizes[key] for key in keys}}
    if network in comparison.CONFIGS:
        sizes = comparison.CONFIGS[network](plan, deep_supervision)
        return {"in_channels": in_channels, "n_classes": n_classes, **sizes}
    return {"in_channels": 3 if in_channels == 1 else in_channels, "n_classes": n_classes,
            **_PAPER_CONFIG[network](n_classes, deep_supervision)}


_PAPER_CONFIG: dict[str, Callable[[int, bool], dict[str, Any]]] = {
    "vmunet": lambda n_classes, deep: {"depths": [2, 2, 2, 2], "depths_decoder": [2, 2, 2, 1], "activate": False},
    # its deep supervision is part of the function, so training and prediction have to agree on it
    "vmunetv2": lambda n_classes, deep: {"depths": [2, 2, 9, 2], "deep_supervision": n_classes == 1,
                                         "activate": False},
    "unetv2": lambda n_classes, deep: {"backbone": "b2", "deep_supervision": deep},
}

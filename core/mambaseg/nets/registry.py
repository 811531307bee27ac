"""Names of networks and how to build them; the only door from a model package to code."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from mambaseg._errors import ModelError
from mambaseg.nets.umamba import UMamba
from mambaseg.plan.plan import Plan

__all__ = ["NETWORKS", "PATCH_BOUND", "build", "check_name", "config_from_plan"]

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "umamba-bot": partial(UMamba, "bot"),
    "umamba-enc": partial(UMamba, "enc"),
}
# Networks that take their plan's patch size and no other
PATCH_BOUND = frozenset({"umamba-enc"})


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
    name : a key of `NETWORKS`
    config : the network's constructor arguments, as `config_from_plan` gives them

    Raises
    ------
    ModelError : no such network; names the nearest
    """
    check_name(name)
    return NETWORKS[name](**config)


def config_from_plan(plan: Plan, in_channels: int, n_classes: int, deep_supervision: bool = False) -> dict[str, Any]:
    """Constructor arguments of a U-Mamba whose sizes the plan decides; plain JSON values."""
    sizes = plan.to_json()
    keys = ("features_per_stage", "kernel_sizes", "strides", "n_blocks_encoder", "n_blocks_decoder", "patch_size")
    return {"in_channels": in_channels, "n_classes": n_classes, "deep_supervision": deep_supervision,
            **{key: sizes[key] for key in keys}}

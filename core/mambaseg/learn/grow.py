"""The last layer of a network, and room in it for classes that a correction names for the first time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mambaseg._errors import ModelError
from mambaseg.models import Model
from mambaseg.nets.sdi import SDINetwork
from mambaseg.nets.umamba import UMamba
from mambaseg.nets.vmunet import VMUNet

__all__ = ["add_classes", "grow_state", "last_layer"]

_NEW_BIAS = -2.0  # below the old classes' in softmax, so that nothing turns into the new class before it is learned


def last_layer(network: nn.Module) -> str:
    """Name of the 1x1 convolution that makes the full-resolution logits.

    Raises
    ------
    ModelError : the network ends in something else
    """
    if isinstance(network, UMamba):
        return f"decoder.seg_layers.{len(network.decoder.seg_layers) - 1}"
    if isinstance(network, VMUNet):
        return "vmunet.final_conv"
    if isinstance(network, SDINetwork):
        return f"seg_outs.{len(network.seg_outs) - 1}"
    raise ModelError(f"The network {type(network).__name__} ends in no layer that can be learned on its own; use a "
                     "U-Mamba model.")


def add_classes(model: Model, names: Sequence[str]) -> Model:
    """The description of a model with further classes behind the old ones; its weights have to grow with it.

    Raises
    ------
    ModelError : the model is not one of classes, or a name is taken
    """
    if model.kind != "classes":
        raise ModelError(f"{model.title} finds {model.kind}, so it cannot get a new class; only models of classes can.")
    taken = [name for name in names if name in model.classes or list(names).count(name) > 1]
    if taken:
        raise ModelError(f'{model.title} has a class "{taken[0]}" already; give the new class another name.')
    config = model.network_config | {"n_classes": len(model.classes) + len(names)}
    return dataclasses.replace(model, classes=(*model.classes, *names), network_config=config, members=())


def grow_state(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """A state dictionary for `network`, whose heads have more outputs: old ones kept, new ones unlikely at first."""
    grown: dict[str, Any] = {}
    for name, wanted in network.state_dict().items():
        old = state[name]
        if old.shape != wanted.shape:
            fresh = torch.zeros_like(wanted) if old.ndim > 1 else torch.full_like(wanted, _NEW_BIAS)
            fresh[: len(old)] = old
            old = fresh
        grown[name] = old
    return grown

"""Room in the last layer of a network for classes that a correction names for the first time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mambaseg._errors import ModelError
from mambaseg.models import Model

__all__ = ["add_classes", "grow_state"]

_NEW_BIAS = -2.0  # below the old classes' in softmax, so that nothing turns into the new class before it is learned


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

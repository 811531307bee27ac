"""Weights under the official key names, alias keys included, into our modules."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mambaseg._errors import ModelError

__all__ = ["canonical_key", "load_official"]


def canonical_key(key: str) -> str:
    """The one name of a tensor that official U-Mamba and nnU-Net state dicts list under several.

    ``decoder.encoder.*`` repeats the encoder; ``all_modules.0`` and ``.1`` repeat ``conv`` and ``norm``.
    """
    key = key.removeprefix("decoder.") if key.startswith("decoder.encoder.") else key
    return key.replace(".all_modules.0.", ".conv.").replace(".all_modules.1.", ".norm.")


def load_official(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load official weights strictly into `network`; half precision is widened.

    Parameters
    ----------
    network : built with the sizes of the checkpoint
    state : official key -> tensor; aliases may be there or not, but have to agree

    Raises
    ------
    ModelError : names every key that is missing, unexpected, of another shape or contradicts its alias
    """
    canonical: dict[str, Tensor] = {}
    problems = []
    for key, value in state.items():
        name = canonical_key(key)
        if name in canonical and not torch.equal(canonical[name], value):
            problems.append(f"{key} contradicts {name}")
        canonical.setdefault(name, value)
    own = network.state_dict()
    problems += [f"{name} is missing" for name in own if name not in canonical]
    problems += [f"{name} is unexpected" for name in canonical if name not in own]
    problems += [f"{name} is {tuple(canonical[name].shape)}, expected {tuple(value.shape)}"
                 for name, value in own.items() if name in canonical and canonical[name].shape != value.shape]
    if problems:
        raise ModelError(f"These weights do not fit the network: {'; '.join(problems)}.")
    network.load_state_dict(canonical)

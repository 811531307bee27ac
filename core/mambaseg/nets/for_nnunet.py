"""Networks under the arguments that nnU-Net builds a network with.

The `plans.json` of an exported model names `build` here, so a stock nnU-Net finds the network where mambaseg is
installed beside it. The name is written into files and has to stay.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from mambaseg._errors import ModelError
from mambaseg.nets.registry import build as build_network

__all__ = ["CLASS_NAME", "build"]

CLASS_NAME = f"{__name__}.build"


def build(input_channels: int, num_classes: int, network: str, network_config: dict[str, Any],
          deep_supervision: bool = False, **sizes: Any) -> nn.Module:
    """A network for prediction by nnU-Net, with the names and the order of arguments that it uses.

    Parameters
    ----------
    input_channels, num_classes : as nnU-Net counts them in `dataset.json`
    network, network_config : as in `mambaseg.models.Model`
    deep_supervision : nnU-Net asks for it in training
    sizes : the stages, for tools that read plans; the network's own are in `network_config`

    Returns
    -------
    (batch, input_channels, *S) -> logits (batch, num_classes, *S)

    Raises
    ------
    ModelError : `dataset.json` does not belong to the network, or training is wanted
    """
    if deep_supervision:
        raise ModelError(f"This model folder is for prediction; train {network} with mambaseg train instead.")
    if num_classes != network_config["n_classes"]:
        raise ModelError(f"dataset.json names {num_classes} classes, but the network has "
                         f"{network_config['n_classes']} outputs; use the dataset.json that was exported with it.")
    made = build_network(network, **network_config)
    made.register_forward_hook(_finest)
    return made


def _finest(network: nn.Module, images: Any, logits: Any) -> Any:
    """The full resolution of a network that gives several."""
    return logits[0] if isinstance(logits, list | tuple) else logits

"""Weights learned on ImageNet as the start of a network's encoder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mambaseg._errors import ModelError, UserError
from mambaseg.models._weights import sha256
from mambaseg.models.importer.checkpoint import read_checkpoint

__all__ = ["STARTS", "check_start", "load_initial"]

# Network -> whose weights fit, a key that tells them, and the name of the encoder in the network
STARTS = {
    "vmunet": ("VMamba", "layers.0.blocks.0.self_attention.x_proj_weight", "vmunet."),
    "vmunetv2": ("VMamba", "layers.0.blocks.0.self_attention.x_proj_weight", "vmunet."),
    "unetv2": ("PVT v2", "patch_embed1.proj.weight", "encoder.backbone."),
}
_DECODER = ("vmunet.layers_up.", "vmunet.final_")  # of VM-UNet, under the name of its encoder


def check_start(network: str) -> None:
    """Raise UserError unless the network can start from ImageNet weights."""
    if network not in STARTS:
        *others, last = STARTS
        raise UserError(f"{network} cannot start from ImageNet weights; leave --initial out, or train "
                        f"{', '.join(others)} or {last}.")


def load_initial(network: str, module: nn.Module, path: Path) -> dict[str, Any]:
    """Put the weights of an ImageNet classifier into a network's encoder; into VM-UNet's decoder, too, mirrored.

    As VM-UNet's authors do it, each stage of the encoder is copied once more to the decoder's stage of the same
    resolution (arXiv:2402.02491). Unlike there, nothing is passed over in silence.

    Parameters
    ----------
    network : name of `module`, a key of `STARTS`
    module : changed in place
    path : official ``.pth`` file: VMamba-T or -S for VM-UNet and VM-UNetV2, PVT v2 for U-Net v2

    Returns
    -------
    What `Model.training` keeps: file, its SHA-256, and ``not_used``, parts of the file that the network has no place
    for (deeper blocks, the classifier), and ``at_random``, blocks of VM-UNet's decoder that the file has none for

    Raises
    ------
    UserError : the network cannot start from such weights
    ModelError : the file cannot be read, holds other weights, or does not fill the encoder; names each key
    """
    check_start(network)
    kind, mark, prefix = STARTS[network]
    weights = read_checkpoint(path).weights
    if mark not in weights:
        raise ModelError(f"{path} does not hold the weights of {kind} as {network} starts from them: they have no "
                         f'"{mark}"; give the authors\' {kind} checkpoint for ImageNet.')
    own = module.state_dict()
    encoder = {key.removeprefix(prefix): key for key in own
               if key.startswith(prefix) and not key.startswith(_DECODER)}
    chosen = {key: weights[name] for name, key in encoder.items() if name in weights}
    mirrored = _mirrored(weights, own) if network == "vmunet" else {}
    problems = [f"{name} is missing" for name in encoder if name not in weights]
    problems += [f"{key} is {tuple(value.shape)}, expected {tuple(own[key].shape)}"
                 for key, value in (chosen | mirrored).items() if value.shape != own[key].shape]
    if problems:
        raise ModelError(f"{path} does not fit the encoder of {network}: {'; '.join(problems)}.")
    module.load_state_dict(own | {key: value.to(own[key].dtype) for key, value in (chosen | mirrored).items()})
    blocks = [key for key in own if key.startswith(_DECODER[0]) and ".blocks." in key]
    return {"file": path.name, "sha256": sha256(path), "weights": kind,
            "not_used": _parts(name for name in weights if name not in encoder),
            "at_random": _parts(key for key in blocks if key not in mirrored) if network == "vmunet" else []}


def _mirrored(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The blocks of the encoder's stages under the names of VM-UNet's decoder, as far as it has them."""
    last = max(int(key.split(".")[2]) for key in own if key.startswith(_DECODER[0]))
    found = {}
    for name, value in weights.items():
        match = re.fullmatch(r"layers\.(\d+)(\.blocks\..+)", name)
        key = f"{_DECODER[0]}{last - int(match[1])}{match[2]}" if match else ""
        if key in own:
            found[key] = value
    return found


def _parts(keys: Iterable[str]) -> list[str]:
    """The blocks and layers that keys belong to, each once, in order."""
    return list(dict.fromkeys(re.sub(r"(\bblocks\.\d+|^block\d\.\d+)\..+", r"\1", key) for key in keys))

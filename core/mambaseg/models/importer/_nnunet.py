"""Sizes of nnU-Net's own networks from the names and shapes of their weights, and what the weights cannot say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mambaseg._errors import ModelError
from mambaseg.models.importer._umamba import patch_for, strides_of

__all__ = ["check_architecture", "recognise_nnunet"]

Shapes = Mapping[str, tuple[int, ...]]

_ACTIVATION = "LeakyReLU"
_SLOPE = 0.01
_EPS = 1e-5


def recognise_nnunet(shapes: Shapes, strides: Sequence[Sequence[int]] | int | None,
                     patch_size: Sequence[int] | None) -> tuple[str, dict[str, Any]]:
    """Network name and configuration.

    Parameters
    ----------
    shapes : shape by canonical key
    strides : from a plan, to be checked; the weights hold them
    patch_size : from a plan or the user; no weights hold it

    Raises
    ------
    ModelError : no patch size is given, or what is given contradicts the weights
    LookupError, ValueError : a weight that every U-Net of nnU-Net's has is missing or has another rank
    """
    is_residual = "encoder.stem.convs.0.conv.weight" in shapes
    first, block = ((r"blocks.0.conv1.conv.weight", r"blocks\.") if is_residual
                    else (r"0.convs.0.conv.weight", r"0\.convs\."))
    n_stages = 1 + max(int(match[1]) for key in shapes if (match := re.match(r"encoder\.stages\.(\d+)\.", key)))
    convolutions = [shapes[f"encoder.stages.{i}.{first}"] for i in range(n_stages)]
    head = shapes["decoder.seg_layers.0.weight"]
    steps = strides_of(shapes, 1, n_stages, len(head) - 2, strides)
    entry = shapes["encoder.stem.convs.0.conv.weight"] if is_residual else convolutions[0]
    return ("nnunet-resenc" if is_residual else "nnunet"), {
        "in_channels": entry[1], "n_classes": head[0], "deep_supervision": False,
        "features_per_stage": [shape[0] for shape in convolutions],
        "kernel_sizes": [list(shape[2:]) for shape in convolutions], "strides": steps,
        "n_blocks_encoder": [_count(shapes, rf"encoder\.stages\.{i}\.{block}") for i in range(n_stages)],
        "n_blocks_decoder": [_count(shapes, rf"decoder\.stages\.{i}\.convs\.") for i in range(n_stages - 1)],
        "patch_size": patch_for(patch_size, steps)}


def _count(shapes: Shapes, before: str) -> int:
    """How many different numbers follow the pattern in the keys."""
    return len({match[1] for key in shapes if (match := re.match(rf"{before}(\d+)\.", key))})


def check_architecture(arguments: Mapping[str, Any]) -> None:
    """Check what shows in no weight: activation and norm must be those that nnU-Net's planners choose.

    Parameters
    ----------
    arguments : ``arch_kwargs`` of a plan; those that are missing are taken to be the usual ones

    Raises
    ------
    ModelError : the network was trained with others
    """
    activation, norm = (str(arguments.get(name) or usual) for name, usual in (
        ("nonlin", _ACTIVATION), ("norm_op", "InstanceNorm")))
    slope = (arguments.get("nonlin_kwargs") or {}).get("negative_slope", _SLOPE)
    eps = (arguments.get("norm_op_kwargs") or {}).get("eps", _EPS)
    is_usual = activation.endswith(_ACTIVATION) and "InstanceNorm" in norm and (slope, eps) == (_SLOPE, _EPS)
    if not is_usual or arguments.get("nonlin_first"):
        raise ModelError(f"its plan names a network with {activation} (slope {slope}) and {norm} (eps {eps}), but only "
                         f"nnU-Net's own with {_ACTIVATION} ({_SLOPE}) after InstanceNorm ({_EPS}) can be imported; "
                         "another would give other labels.")

"""The words of nnU-Net's `plans.json`: written for stock tools, read from their model folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mambaseg._errors import ModelError
from mambaseg.plan.network_size import Blocks, Topology, features_per_stage

OWN_WORDS = "mambaseg"  # entry of a plans.json that we wrote: what nnU-Net has no words for, and ignores
TURNING_READER = "NibabelIOWithReorient"  # nnU-Net's reader of NIfTI that turns volumes to RAS
SCHEME_CLASSES = {
    "ct": "CTNormalization",
    "nonorm": "NoNormalization",
    "zscore": "ZScoreNormalization",
    "rescale_to_0_1": "RescaleTo01Normalization",
    "rgb_to_0_1": "RGBTo01Normalization",
}


@dataclass(frozen=True)
class Configuration:
    """One planned configuration ("2d", "3d_fullres", "3d_lowres") before it is put into words.

    Parameters
    ----------
    spacing, median_shape : per axis that the network sees, transposed order; shapes in voxels, halves possible
    size : patch, strides and kernels
    features : channels per stage
    feature_cap : the most channels a stage may have
    batch_size : patches an iteration
    batch_dice : Dice over the whole batch rather than per sample
    """

    spacing: tuple[float, ...]
    median_shape: tuple[float, ...]
    size: Topology
    features: tuple[int, ...]
    feature_cap: int
    batch_size: int
    batch_dice: bool


def write_configuration(
    made: Configuration, blocks: Blocks, is_flat: bool, identifier: str, schemes: Sequence[str], masks: Sequence[bool]
) -> dict[str, Any]:
    """A configuration as `plans.json` holds it; `is_flat` gives the form of version 2.1.1."""
    values: dict[str, Any] = {
        "data_identifier": identifier,
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": made.batch_size,
        "patch_size": list(made.size.patch),
        "median_image_size_in_voxels": list(made.median_shape),
        "spacing": list(made.spacing),
        "normalization_schemes": [SCHEME_CLASSES[scheme] for scheme in schemes],
        "use_mask_for_norm": list(masks),
        "batch_dice": made.batch_dice,
    }
    for target, order, is_seg in (("data", 3, False), ("seg", 1, True), ("probabilities", 1, False)):
        values[f"resampling_fn_{target}"] = "resample_data_or_seg_to_shape"
        values[f"resampling_fn_{target}_kwargs"] = {
            "is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None,
        }  # fmt: skip
    return values | (_flat_network(made, blocks) if is_flat else {"architecture": _architecture(made, blocks)})


def _flat_network(made: Configuration, blocks: Blocks) -> dict[str, Any]:
    """The network in the flat keys of version 2.1.1."""
    n_stages = len(made.features)
    return {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": made.features[0],
        "n_conv_per_stage_encoder": list(blocks.per_stage(n_stages)),
        "n_conv_per_stage_decoder": [blocks.decoder] * (n_stages - 1),
        "num_pool_per_axis": [divisor.bit_length() - 1 for divisor in made.size.divisor],
        "pool_op_kernel_sizes": [list(stride) for stride in made.size.strides],
        "conv_kernel_sizes": [list(kernel) for kernel in made.size.kernels],
        "unet_max_num_features": made.feature_cap,
    }


def _architecture(made: Configuration, blocks: Blocks) -> dict[str, Any]:
    """The network as a class path and its arguments, as current versions write it."""
    n_stages = len(made.features)
    ndim = len(made.spacing)
    class_name = "ResidualEncoderUNet" if blocks.is_residual else "PlainConvUNet"
    arguments = {
        "n_stages": n_stages,
        "features_per_stage": list(made.features),
        "conv_op": f"torch.nn.modules.conv.Conv{ndim}d",
        "kernel_sizes": [list(kernel) for kernel in made.size.kernels],
        "strides": [list(stride) for stride in made.size.strides],
        ("n_blocks_per_stage" if blocks.is_residual else "n_conv_per_stage"): list(blocks.per_stage(n_stages)),
        "n_conv_per_stage_decoder": [blocks.decoder] * (n_stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{ndim}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{class_name}",
        "arch_kwargs": arguments,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def resolve(plans: dict[str, Any], name: str) -> dict[str, Any]:
    """One configuration with everything it inherits; its own keys win.

    Raises
    ------
    ModelError : the plans have no configuration of that name, or one inherits from itself
    """
    values: dict[str, Any] = {}
    seen: list[str] = []
    parent: str | None = name
    while parent is not None:
        known = plans.get("configurations", {})
        if parent not in known or parent in seen:
            has = ", ".join(sorted(known)) or "none"
            raise ModelError(f'The plans have no usable configuration "{parent}", expected one of: {has}; choose one.')
        seen.append(parent)
        values = known[parent] | values
        parent = known[parent].get("inherits_from")
    return values


def read_network(configuration: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `Plan` for the network's size, out of either form of a resolved configuration."""
    if "architecture" in configuration:
        arguments = configuration["architecture"]["arch_kwargs"]
        features = tuple(arguments["features_per_stage"])
        strides, kernels = arguments["strides"], arguments["kernel_sizes"]
        encoder = arguments.get("n_blocks_per_stage", arguments.get("n_conv_per_stage"))
    else:
        strides, kernels = configuration["pool_op_kernel_sizes"], configuration["conv_kernel_sizes"]
        base, cap = configuration["UNet_base_num_features"], configuration["unet_max_num_features"]
        features = features_per_stage(len(strides), base, cap)
        arguments = configuration
        encoder = configuration["n_conv_per_stage_encoder"]
    return {
        "features_per_stage": features,
        "strides": _rows(strides, len(configuration["patch_size"])),
        "kernel_sizes": _rows(kernels, len(configuration["patch_size"])),
        "n_blocks_encoder": _repeated(encoder, len(features)),
        "n_blocks_decoder": _repeated(arguments["n_conv_per_stage_decoder"], len(features) - 1),
    }


def read_schemes(class_names: Sequence[str]) -> tuple[str, ...]:
    """Normalisation names of ours for nnU-Net's class names.

    Raises
    ------
    ModelError : a class that nnU-Net itself does not have
    """
    names = {class_name: name for name, class_name in SCHEME_CLASSES.items()}
    unknown = [class_name for class_name in class_names if class_name not in names]
    if unknown:
        raise ModelError(f"The plans name the normalisation {unknown[0]}, expected one of {', '.join(names)}; "
                         "a model trained with a scheme of its own cannot be used.")  # fmt: skip
    return tuple(names[class_name] for class_name in class_names)


def _rows(values: Sequence[Any], ndim: int) -> tuple[tuple[int, ...], ...]:
    """One tuple a stage; a bare number stands for all axes."""
    return tuple(tuple(int(v) for v in np.broadcast_to(row, (ndim,))) for row in values)


def _repeated(values: Any, n: int) -> tuple[int, ...]:
    """`n` whole numbers; a bare number stands for all."""
    return tuple(int(v) for v in np.broadcast_to(values, (n,)))

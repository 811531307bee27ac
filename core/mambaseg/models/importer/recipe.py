"""The plan of a checkpoint that carries none: sizes from the weights, preprocessing from the network's paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mambaseg._errors import ModelError
from mambaseg.models.importer.recognise import Recognised
from mambaseg.nets.pvt import PVT_SIZES
from mambaseg.plan import Plan

__all__ = ["SYNAPSE_ORGANS", "is_of_synapse", "recipe", "sized"]

# What the authors' scripts do with a picture: side of the input, and how its values are scaled
_SIDES = {"vmunet": 256, "vmunetv2": 256, "unetv2": 352}
_SCHEMES = {"vmunet": "minmax_255", "vmunetv2": "minmax_255", "unetv2": "imagenet"}
_FITS = {"vmunet": "bilinear", "vmunetv2": "bilinear", "unetv2": "antialias"}
# VM-UNet on slices of the abdomen (Synapse): Hounsfield units from -125 to 275 become 0 to 1
_SYNAPSE_SIDE = 224
_SYNAPSE_WINDOW = {"percentile_00_5": -125.0, "percentile_99_5": 275.0, "mean": -125.0, "std": 400.0}
# Labels 1 to 8 of the abdomen's data set
SYNAPSE_ORGANS = ("aorta", "gallbladder", "left kidney", "right kidney", "liver", "pancreas", "spleen", "stomach")
_STEPS = [[4, 4], [2, 2], [2, 2], [2, 2]]  # of the stages of all three


def recipe(found: Recognised, patch_size: Sequence[int] | None) -> Plan:
    """A plan by the authors' recipe.

    Parameters
    ----------
    found : the network
    patch_size : sides of the input; None: those of the paper. U-Mamba's is in its configuration
    """
    if found.network not in _SIDES:
        return _umamba(found)
    is_synapse = is_of_synapse(found)
    side = _SYNAPSE_SIDE if is_synapse else _SIDES[found.network]
    scheme = _SCHEMES[found.network] if found.in_channels == 3 or found.network != "unetv2" else "rescale_to_0_1"
    patch = tuple(patch_size) if patch_size is not None else (side, side)
    if len(patch) != 2 or any(size <= 0 or size % 32 for size in patch):
        raise ModelError(f"The patch size {' x '.join(map(str, patch))} does not go with {found.network}, which takes "
                         "two sides that are multiples of 32; give another with --patch.")
    if found.network != "vmunet" and patch[0] != patch[1]:
        raise ModelError(f"The patch size {' x '.join(map(str, patch))} does not go with {found.network}, which takes "
                         "squares; give two equal sides with --patch.")
    features, encoder, decoder = _stages(found)
    schemes = ("ct",) if is_synapse else (scheme,) * found.in_channels
    return Plan(
        ndim=2, patch_size=patch, batch_size=8, features_per_stage=features, kernel_sizes=((3, 3),) * len(features),
        strides=tuple(tuple(step) for step in [*_STEPS, *_STEPS[1:]][:len(features)]), n_blocks_encoder=encoder,
        n_blocks_decoder=decoder, transpose=(0, 1), normalisation=schemes,
        use_mask_for_norm=(False,) * len(schemes), intensities=(_SYNAPSE_WINDOW,) if is_synapse else (),
        crop_to_nonzero=False, fit="cubic" if is_synapse else _FITS[found.network])


def is_of_synapse(found: Recognised) -> bool:
    """Whether these are weights of the abdomen's eight organs, the only ones that VM-UNet's authors made of CT."""
    return found.network == "vmunet" and found.n_classes == 1 + len(SYNAPSE_ORGANS)


def _stages(found: Recognised) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Channels of each stage, blocks of the encoder's stages and of the decoder's."""
    config: dict[str, Any] = found.config
    if found.network == "unetv2":
        size = PVT_SIZES[config["backbone"]]
        return size.widths, size.depths, (1, 1, 1)
    width = config["width"] if found.network == "vmunet" else 2 * config["mid_channel"]
    depths = tuple(config["depths"])
    decoder = tuple(config["depths_decoder"]) if found.network == "vmunet" else (1, 1, 1)
    return tuple(width * 2**i for i in range(len(depths))), depths, decoder


def _umamba(found: Recognised) -> Plan:
    """A plan for U-Mamba weights that came without one: values standardised, the picture's own grid."""
    config: dict[str, Any] = found.config
    ndim = len(config["patch_size"])
    return sized(Plan(
        ndim=ndim, patch_size=(), batch_size=2, features_per_stage=(), kernel_sizes=(), strides=(),
        n_blocks_encoder=(), n_blocks_decoder=(), transpose=tuple(range(ndim)),
        normalisation=("zscore",) * found.in_channels, use_mask_for_norm=(False,) * found.in_channels,
        crop_to_nonzero=False), found)


def sized(plan: Plan, found: Recognised) -> Plan:
    """The plan with the sizes that a U-Mamba's weights have; of other networks as it is."""
    if "features_per_stage" not in found.config:
        return plan
    names = ("patch_size", "features_per_stage", "kernel_sizes", "strides", "n_blocks_encoder", "n_blocks_decoder")
    return Plan.from_json(plan.to_json() | {name: found.config[name] for name in names})

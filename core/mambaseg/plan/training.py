"""The plan for `mambaseg train`: from a folder's fingerprint, for the computer at hand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from mambaseg._errors import DatasetError
from mambaseg.plan._nnunet_form import Configuration
from mambaseg.plan.fingerprint import Fingerprint
from mambaseg.plan.network_size import features_per_stage, initial_patch, topology
from mambaseg.plan.plan import Plan
from mambaseg.plan.rules import (
    PLAIN_BLOCKS,
    PLANNERS,
    WorkingGrid,
    configure,
    lowres,
    normalisation_scheme,
    three_axes,
    use_mask_for_norm,
    working_grid,
)

__all__ = ["Budget", "plan_for_training"]

Budget = Literal["small", "standard"]
_PLANNER = PLANNERS["umamba"]  # of the standard budget

# The small budget. It aims at minutes on two CPU cores rather than at a GPU of 8 GB.
SMALL_BASE = 16  # channels at full resolution: half of nnU-Net's, a quarter of its arithmetic
SMALL_CAP = 160  # most channels of a stage: the two deepest stages would otherwise hold 80 % of the weights
SMALL_VOXELS = {2: 256**2, 3: 64**3}  # patch: some 20 cells across in 2-D, an organ's neighbourhood in 3-D
SMALL_STAGES = {2: 6, 3: 5}  # 256 pixels end at 8, 64 voxels at 4: the Mamba layer sees the rest of the patch at once
SMALL_STEP_VOXELS = 2**19  # voxels an iteration: 8 pictures of 256 x 256 or 2 volumes of 64 x 64 x 64, below 2 GB
SMALL_BATCH = (2, 16)  # fewer gives no batch statistics worth the name, more adds time but little else
N_INSTANCE_CLASSES = 3  # background, interior, boundary


def plan_for_training(
    fingerprint: Fingerprint,
    ndim: int,
    n_channels: int,
    *,
    budget: Budget = "small",
    instances: bool = False,
    n_classes: int = 2,
    channel_names: Sequence[str] = (),
    is_lowres: bool = False,
) -> Plan:
    """A plan that trains on the data of `fingerprint`.

    Parameters
    ----------
    fingerprint : of all training cases; for microscopy measured with ``crop=False``
    ndim : 2 or 3 axes for the network; 2 on volumes plans for single slices across the coarsest axis
    n_channels : image channels
    budget : "small", a network for minutes on a CPU; "standard", U-Mamba's rule for a GPU of 8 GB
    instances : cells or other objects are told apart, so three classes and the image's own rim kept
    n_classes : classes with background, where not `instances`; the standard budget counts their memory
    is_lowres : plan the low resolution, at which a patch sees a quarter of the usual image or more; 3-D only
    channel_names : "CT", "noNorm", "zscore", "rescale_to_0_1" and "rgb_to_0_1" (any case) choose that normalisation

    Returns
    -------
    The plan. Images without a known pixel size (unit px) keep their own grid (`spacing` None); others are resampled to
    the data set's usual spacing. Microscopy (unit px or um, or `instances`) is scaled by percentiles and not cropped;
    the rest follows nnU-Net: z-score unless the channel's name says otherwise, cropped to nonzero.

    Raises
    ------
    DatasetError : 3-D asked for pictures, the fingerprint counts other channels, or there is no low resolution
    ValueError : unknown budget or `ndim`
    """
    if ndim not in (2, 3) or budget not in ("small", "standard"):
        raise ValueError(f"ndim {ndim!r} and budget {budget!r}, expected 2 or 3 and 'small' or 'standard'")
    _check(fingerprint, ndim, n_channels, channel_names)
    grid = _grid(fingerprint)
    n_cases, n_outputs = len(fingerprint.shapes), N_INSTANCE_CLASSES if instances else n_classes

    def make(spacing: Sequence[float], median: Sequence[float], n_voxels: float) -> Configuration:
        if budget == "small":
            return _small(spacing, median)
        return configure(_PLANNER, spacing, median, n_voxels * n_cases, n_outputs)

    made = make(grid.spacing[-ndim:], grid.median_shape[-ndim:], math.prod(grid.median_shape))
    if is_lowres:
        made = _low(made, make, fingerprint.unit)
    elif ndim == 3 and fingerprint.unit != "px":
        low = lowres(made, make, _PLANNER.drops_close_lowres)
        made = replace(made, batch_dice=low is not None)  # as nnU-Net: where a patch sees little of an image
    is_microscopy = instances or fingerprint.unit in ("px", "um")
    schemes = _schemes(channel_names or [""] * n_channels, is_microscopy)
    share = 1.0 if is_microscopy else fingerprint.median_relative_size
    n_stages = len(made.features)
    return Plan(
        ndim=ndim,
        patch_size=made.size.patch,
        batch_size=made.batch_size,
        features_per_stage=made.features,
        kernel_sizes=made.size.kernels,
        strides=made.size.strides,
        n_blocks_encoder=PLAIN_BLOCKS.per_stage(n_stages),
        n_blocks_decoder=(PLAIN_BLOCKS.decoder,) * (n_stages - 1),
        transpose=(0, 1) if fingerprint.ndim == 2 else grid.transpose,
        spacing=None if fingerprint.unit == "px" else made.spacing,
        unit="mm" if fingerprint.unit == "px" else fingerprint.unit,
        normalisation=schemes,
        use_mask_for_norm=use_mask_for_norm(schemes, share),
        intensities=tuple(dict(channel) for channel in fingerprint.intensities),
        crop_to_nonzero=not is_microscopy,
        batch_dice=made.batch_dice,
    )


def _low(full: Configuration, make: Callable[[Sequence[float], Sequence[int], float], Configuration],
         unit: str) -> Configuration:
    """The low resolution below a full one; see `mambaseg.plan.rules.lowres`."""
    if unit == "px":
        raise DatasetError("The voxel size of the images is not known, so there is no lower resolution to train at; "
                           "give images that tell it, or train with --configuration 3d_fullres or 2d.")
    low = lowres(full, make, _PLANNER.drops_close_lowres)
    if low is None:
        share = 100 * math.prod(full.size.patch) / math.prod(full.median_shape)
        raise DatasetError(f"At full resolution a patch already sees {min(share, 100):.0f} % of the usual image, so "
                           "there is no low resolution; train with --configuration 3d_fullres or 2d.")
    return low


def _check(fingerprint: Fingerprint, ndim: int, n_channels: int, channel_names: Sequence[str]) -> None:
    """Raise unless the fingerprint can carry such a plan."""
    if ndim == 3 and fingerprint.ndim == 2:
        raise DatasetError("The images are flat pictures, but a 3-D network was asked for, expected volumes; "
                           "train in 2-D instead.")  # fmt: skip
    measured = len(fingerprint.intensities)
    if measured != n_channels or len(channel_names) not in (0, n_channels):
        raise DatasetError(f"The images have {measured} channels and {len(channel_names)} channel names, expected "
                           f"{n_channels} of each; name every channel, or none.")  # fmt: skip


def _grid(fingerprint: Fingerprint) -> WorkingGrid:
    """Where the network works; without a known pixel size every image keeps its own shape."""
    spacings, shapes = three_axes(fingerprint)
    if fingerprint.unit == "px":
        spacings = np.broadcast_to(np.median(spacings, axis=0), spacings.shape).copy()
    return working_grid(spacings, shapes)


def _small(spacing: Sequence[float], median: Sequence[float]) -> Configuration:
    """Patch, network and batch for an ordinary computer."""
    ndim = len(spacing)
    size = topology(spacing, initial_patch(spacing, median, SMALL_VOXELS[ndim]), SMALL_STAGES[ndim])
    fewest, most = SMALL_BATCH
    return Configuration(
        spacing=tuple(spacing),
        median_shape=tuple(median),
        size=size,
        features=features_per_stage(len(size.strides), SMALL_BASE, SMALL_CAP),
        feature_cap=SMALL_CAP,
        batch_size=min(max(round(SMALL_STEP_VOXELS / math.prod(size.patch)), fewest), most),
        batch_dice=ndim == 2,
    )


def _schemes(channel_names: Sequence[str], is_microscopy: bool) -> tuple[str, ...]:
    """Normalisation per channel; microscopy's brightness means nothing, so percentiles unless the name insists."""
    schemes = []
    for name in channel_names:
        scheme = normalisation_scheme(name)
        is_default = scheme == "zscore" and name.casefold() != "zscore"
        schemes.append("percentile" if is_microscopy and is_default else scheme)
    return tuple(schemes)

"""From a fingerprint to plans: nnU-Net's planning rules, and a smaller plan for ordinary computers.

The rules were written down by Isensee and others (doi:10.1038/s41592-020-01008-z). Versions differ, so a planner is
named: "umamba" is the rule of version 2.1.1, which U-Mamba's authors used and which is our default; "current" is that
of 2.8.1; "resenc-m", "resenc-l" and "resenc-xl" are its residual-encoder presets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mambaseg.plan._nnunet_form import (
    OWN_WORDS,
    TURNING_READER,
    Configuration,
    read_network,
    read_schemes,
    resolve,
    write_configuration,
)
from mambaseg.plan.fingerprint import Fingerprint
from mambaseg.plan.network_size import (
    Blocks,
    Topology,
    features_per_stage,
    initial_patch,
    n_activations,
    shrink_patch,
)
from mambaseg.plan.plan import Plan

__all__ = [
    "PLAIN_BLOCKS",
    "PLANNERS",
    "Planner",
    "WorkingGrid",
    "batch_size",
    "configure",
    "lowres",
    "memory_bytes",
    "normalisation_scheme",
    "plan_dataset",
    "resampled_shapes",
    "target_spacing",
    "three_axes",
    "to_plan",
    "transpose_order",
    "use_mask_for_norm",
    "working_grid",
]

BASE_FEATURES = 32
PLAIN_BLOCKS = Blocks()  # two convolutions a stage
FEATURE_CAP = {2: 512, 3: 320}
START_VOXELS = {2: 2048**2, 3: 256**3}  # the patch that shrinking starts from
REFERENCE_BATCH = {2: 12, 3: 2}
MIN_BATCH = 2
LOWRES_BELOW = 0.25  # a patch that covers less of the median image asks for a low-resolution stage


@dataclass(frozen=True)
class Planner:
    """What tells one planner from another.

    Parameters
    ----------
    plans_name, class_name : as nnU-Net writes them into its plans
    reference : activations that fill the planner's GPU, by number of axes, at the reference batch
    memory_gb : of that GPU
    blocks : the network's stages
    cover : share of the data set's voxels that one batch may hold
    shrinks_per_sample : compare one sample's share of a reference batch, doubled, rather than the reference itself
    drops_close_lowres : no low-resolution stage unless it halves the number of voxels
    is_case_sensitive : "CT" is CT, but "ct" is not
    is_flat : plans are written in the keys of version 2.1.1
    """

    plans_name: str
    class_name: str
    reference: Mapping[int, float]
    blocks: Blocks = PLAIN_BLOCKS
    memory_gb: float = 8.0
    cover: float = 0.05
    shrinks_per_sample: bool = False
    drops_close_lowres: bool = True
    is_case_sensitive: bool = False
    is_flat: bool = False


def _residual(size: str, memory_gb: float, reference_2d: float, reference_3d: float) -> Planner:
    """A residual-encoder preset."""
    blocks = Blocks(encoder=(1, 3, 4, 6), decoder=1, is_residual=True)
    reference = {2: reference_2d, 3: reference_3d}
    plans_name, class_name = f"nnUNetResEncUNet{size}Plans", f"nnUNetPlannerResEnc{size}"
    return Planner(plans_name, class_name, reference, blocks, memory_gb, cover=1.0)


class WorkingGrid(NamedTuple):
    """Axis order, target spacing and median resampled shape; the latter two in that order, shapes may be halves."""

    transpose: tuple[int, ...]
    spacing: tuple[float, ...]
    median_shape: tuple[float, ...]


_PLAIN_REFERENCE = {2: 85e6, 3: 560e6}
PLANNERS: Mapping[str, Planner] = {
    "umamba": Planner("nnUNetPlans", "ExperimentPlanner", _PLAIN_REFERENCE, drops_close_lowres=False,
                      is_case_sensitive=True, is_flat=True),
    "current": Planner("nnUNetPlans", "ExperimentPlanner", _PLAIN_REFERENCE, shrinks_per_sample=True),
    "resenc-m": _residual("M", 8, 135e6, 680e6),
    "resenc-l": _residual("L", 24, 380e6, 2100e6),
    "resenc-xl": _residual("XL", 40, 560e6, 3600e6),
}  # fmt: skip


def target_spacing(spacings: NDArray[np.float64], shapes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Spacing that all cases are resampled to: the median, finer along a coarse and short axis.

    Parameters
    ----------
    spacings, shapes : (case, axis); shapes after the crop
    """
    target = np.median(spacings, axis=0)
    sizes = np.median(shapes, axis=0)
    coarse = int(np.argmax(target))
    others = [axis for axis in range(len(target)) if axis != coarse]
    if target[coarse] > 3 * target[others].max() and 3 * sizes[coarse] < sizes[others].min():
        tenth = float(np.percentile(spacings[:, coarse], 10))
        finest_allowed = float(target[others].max())
        target[coarse] = tenth if tenth >= finest_allowed else finest_allowed + 1e-5
    return target


def transpose_order(spacing: Sequence[float] | NDArray[np.float64]) -> tuple[int, ...]:
    """Axes of the image in the network's order: the coarsest first, the others as they were."""
    coarse = int(np.argmax(spacing))
    return (coarse, *(axis for axis in range(len(spacing)) if axis != coarse))


def resampled_shapes(
    spacings: NDArray[np.float64], shapes: NDArray[np.int64], target: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Shape of each case (case, axis) after resampling to `target`; halves are rounded to even."""
    return np.asarray(np.round(spacings / target * shapes))


def batch_size(size: Topology, activations: float, planner: Planner, n_voxels: float) -> int:
    """Patches an iteration: what fills the reference memory, but no more than `cover` of the data set, at least 2.

    Parameters
    ----------
    size, activations : the patch and what one such patch costs
    planner : gives reference and cover
    n_voxels : of the whole data set after resampling
    """
    ndim = len(size.patch)
    fits = round(planner.reference[ndim] / activations * REFERENCE_BATCH[ndim])
    covers = round(n_voxels * planner.cover / math.prod(size.patch))
    return max(min(fits, covers), MIN_BATCH)


def normalisation_scheme(channel_name: str, is_case_sensitive: bool = False) -> str:
    """Normalisation for a channel: what its name asks for ("CT", "noNorm", "rgb_to_0_1", ...), else zscore."""
    known = {"CT": "ct", "noNorm": "nonorm", "zscore": "zscore", "rescale_to_0_1": "rescale_to_0_1",
             "rgb_to_0_1": "rgb_to_0_1"}  # fmt: skip
    if is_case_sensitive:
        return known.get(channel_name, "zscore")
    return {name.casefold(): scheme for name, scheme in known.items()}.get(channel_name.casefold(), "zscore")


def use_mask_for_norm(schemes: Sequence[str], median_relative_size: float) -> tuple[bool, ...]:
    """Per channel, whether statistics come from the nonzero region: z-score channels of images that were mostly rim."""
    return tuple(scheme == "zscore" and median_relative_size < 0.75 for scheme in schemes)


def configure(
    planner: Planner, spacing: Sequence[float], median_shape: Sequence[float], n_voxels: float, n_labels: int
) -> Configuration:
    """Patch, network and batch for one spacing.

    Parameters
    ----------
    planner : whose rules
    spacing, median_shape : per axis of the network
    n_voxels : of the whole data set at this spacing
    n_labels : entries of the label table
    """
    ndim = len(spacing)
    cap = FEATURE_CAP[ndim]
    factor = 2 / REFERENCE_BATCH[ndim] if planner.shrinks_per_sample else 1.0

    def cost(size: Topology) -> float:
        features = features_per_stage(len(size.strides), BASE_FEATURES, cap)
        return n_activations(size, features, n_labels, planner.blocks)

    start = initial_patch(spacing, median_shape, START_VOXELS[ndim])
    size = shrink_patch(spacing, start, median_shape, lambda size: cost(size) * factor > planner.reference[ndim])
    return Configuration(
        spacing=tuple(float(s) for s in spacing),
        median_shape=tuple(median_shape),
        size=size,
        features=features_per_stage(len(size.strides), BASE_FEATURES, cap),
        feature_cap=cap,
        batch_size=batch_size(size, cost(size), planner, n_voxels),
        batch_dice=ndim == 2,
    )


def lowres(full: Configuration, make: Callable[[Sequence[float], Sequence[int], float], Configuration],
           drops_close: bool) -> Configuration | None:
    """The low-resolution stage, or None where the full-resolution patch already sees enough of an image.

    Parameters
    ----------
    full : of the full resolution
    make : plans for a spacing, a median shape, and that shape's voxels before it was rounded
    drops_close : no such stage unless it halves the number of voxels
    """
    full_voxels = float(np.prod(full.median_shape))
    made, voxels = full, full_voxels
    spacing = np.array(full.spacing)
    while np.prod(made.size.patch, dtype=np.int64) / voxels < LOWRES_BELOW:
        # The finer axes are coarsened first, until none is more than twice finer than the coarsest.
        is_fine = spacing.max() / spacing > 2
        spacing = spacing * np.where(is_fine if is_fine.any() else True, 1.03, 1.0)
        shape = full.spacing / spacing * full.median_shape
        voxels = float(np.prod(shape))
        rounded = [max(1, round(n)) for n in shape.tolist()]  # two voxels may be coarsened away
        made = make(spacing.tolist(), rounded, voxels)
    if made is full or (drops_close and full_voxels / float(np.prod(made.median_shape)) < 2):
        return None
    return made


def three_axes(fingerprint: Fingerprint) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Spacings and shapes (case, 3); a picture becomes one slice, 999 times as thick as its pixels are wide."""
    spacings = np.array(fingerprint.spacings, dtype=float)
    shapes = np.array(fingerprint.shapes, dtype=np.int64)
    if shapes.shape[1] == 2:
        spacings = np.column_stack([999 * spacings.max(axis=1), spacings])
        shapes = np.column_stack([np.ones(len(shapes), dtype=np.int64), shapes])
    return spacings, shapes


def plan_dataset(
    dataset_json: Mapping[str, Any],
    fingerprint: Fingerprint | Mapping[str, Any],
    planner: str = "umamba",
    dataset_name: str = "Dataset001_unnamed",
) -> dict[str, Any]:
    """The content of nnU-Net's `plans.json`: 2-D always, 3-D where there are volumes, low resolution where useful.

    Parameters
    ----------
    dataset_json : `channel_names`, `labels`, `numTraining` and `file_ending`, as in nnU-Net's `dataset.json`
    fingerprint : from `measure`, or the content of a `dataset_fingerprint.json`
    planner : "umamba", "current", "resenc-m", "resenc-l" or "resenc-xl"
    dataset_name : written into the plans

    Raises
    ------
    ValueError : unknown planner
    """
    if planner not in PLANNERS:
        raise ValueError(f"planner {planner!r}, expected one of {', '.join(PLANNERS)}")
    rule = PLANNERS[planner]
    known = fingerprint if isinstance(fingerprint, Fingerprint) else Fingerprint.from_json(fingerprint)
    spacings, shapes = three_axes(known)
    grid = working_grid(spacings, shapes)
    order = list(grid.transpose)
    channels = dataset_json.get("channel_names", dataset_json.get("modality", {}))
    schemes = [normalisation_scheme(channels[key], rule.is_case_sensitive) for key in sorted(channels, key=int)]
    masks = use_mask_for_norm(schemes, known.median_relative_size)
    made = _configurations(rule, grid, int(dataset_json["numTraining"]), len(dataset_json["labels"]))
    written = {
        name: write_configuration(one, rule.blocks, rule.is_flat, _identifier(rule, name), schemes, masks)
        for name, one in made.items()
    }
    if "3d_lowres" in written:
        written["3d_lowres"]["next_stage"] = "3d_cascade_fullres"
        written["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    return {
        "dataset_name": dataset_name,
        "plans_name": rule.plans_name,
        "original_median_spacing_after_transp": np.median(spacings, axis=0)[order].tolist(),
        "original_median_shape_after_transp": [round(n) for n in np.median(shapes, axis=0)[order].tolist()],
        "image_reader_writer": _reader(dataset_json["file_ending"]),
        "transpose_forward": order,
        "transpose_backward": np.argsort(order).tolist(),
        "configurations": written,
        "experiment_planner_used": rule.class_name,
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(i): dict(v) for i, v in enumerate(known.intensities)},
    }


def memory_bytes(plans: Mapping[str, Any], configuration: str, planner: str, n_labels: int) -> float:
    """GPU memory that training a configuration takes, by the reckoning that its planner sized it with.

    Parameters
    ----------
    plans, planner : from `plan_dataset`
    configuration : "2d", "3d_fullres", ...
    n_labels : entries of the label table

    Notes
    -----
    nnU-Net's estimate for its own U-Net. A U-Mamba's Mamba layers come on top.
    """
    rule, values = PLANNERS[planner], resolve(dict(plans), configuration)
    network = read_network(values)
    ndim = len(values["patch_size"])
    size = Topology(tuple(values["patch_size"]), network["strides"], network["kernel_sizes"], ())
    a_sample = n_activations(size, network["features_per_stage"], n_labels, rule.blocks)
    filled = a_sample * float(values["batch_size"]) / (rule.reference[ndim] * REFERENCE_BATCH[ndim])
    return filled * rule.memory_gb * 1e9


def _configurations(rule: Planner, grid: WorkingGrid, n_cases: int, n_labels: int) -> dict[str, Configuration]:
    """The configurations that a planner makes, by name."""
    n_voxels = math.prod(grid.median_shape) * n_cases
    made = {"2d": configure(rule, grid.spacing[1:], grid.median_shape[1:], n_voxels, n_labels)}
    if grid.median_shape[0] != 1:
        full = configure(rule, grid.spacing, grid.median_shape, n_voxels, n_labels)
        low = lowres(full, lambda spacing, shape, voxels: configure(rule, spacing, shape, voxels * n_cases, n_labels),
                     rule.drops_close_lowres)
        if low is not None:
            made["3d_lowres"] = low
        made["3d_fullres"] = replace(full, batch_dice=low is not None)
    return made


def working_grid(spacings: NDArray[np.float64], shapes: NDArray[np.int64]) -> WorkingGrid:
    """The grid that the cases of (case, 3) `spacings` and `shapes` are resampled to."""
    target = target_spacing(spacings, shapes)
    order = transpose_order(target)
    median = np.median(resampled_shapes(spacings, shapes, target), axis=0)
    return WorkingGrid(order, tuple(target[list(order)].tolist()), tuple(median[list(order)].tolist()))


def _identifier(rule: Planner, name: str) -> str:
    """Folder of the preprocessed data; presets share the plain planner's where the data come out equal."""
    return f"{rule.plans_name if name == '3d_lowres' else 'nnUNetPlans'}_{name}"


def _reader(file_ending: str) -> str:
    """nnU-Net's class for a file ending."""
    if file_ending in (".png", ".bmp", ".tif"):
        return "NaturalImage2DIO"
    return "Tiff3DIO" if file_ending == ".tiff" else "SimpleITKIO"


def to_plan(plans: Mapping[str, Any], configuration: str) -> Plan:
    """One configuration of a `plans.json`, flat or current form, as the plan that our networks and `prepare` take.

    Parameters
    ----------
    plans : from `plan_dataset` or a file
    configuration : "2d", "3d_fullres", ...; inherited keys are resolved

    Raises
    ------
    ModelError : no such configuration, or a normalisation that is not nnU-Net's

    Notes
    -----
    Nothing of a network family's own taste is applied here (U-Mamba changes the blocks per stage itself).
    """
    values = resolve(dict(plans), configuration)
    ndim = len(values["patch_size"])
    is_picture = ndim == 2 and plans["original_median_shape_after_transp"][0] == 1
    intensities = plans.get("foreground_intensity_properties_per_channel",
                            plans.get("foreground_intensity_properties_by_modality", {}))  # fmt: skip
    channels = sorted(intensities, key=int) if any(intensities.values()) else ()
    plan = Plan(
        ndim=ndim,
        patch_size=tuple(values["patch_size"]),
        batch_size=values["batch_size"],
        transpose=(0, 1) if is_picture else tuple(plans["transpose_forward"]),
        spacing=None if plans["image_reader_writer"] == "NaturalImage2DIO" else tuple(values["spacing"]),
        normalisation=read_schemes(values["normalization_schemes"]),
        use_mask_for_norm=tuple(values["use_mask_for_norm"]),
        intensities=tuple(dict(intensities[key]) for key in channels),
        batch_dice=values["batch_dice"],
        orientation="RAS" if plans["image_reader_writer"] == TURNING_READER else "",
        **read_network(values),
    )
    own = plans.get(OWN_WORDS)
    return Plan.from_json(plan.to_json() | own) if isinstance(own, dict) else plan

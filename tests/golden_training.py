"""nnU-Net's fixtures of training and scoring: losses, sampling, schedule, splits, augmentation, metrics."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

from golden_compare import Arrays, Check, Found, Record, greatest, load, n_different, n_unlike, near, read, same
from mambaseg.instances import keep_largest_component
from mambaseg.metrics.distance import Surface, hd95, nsd, umamba_nsd
from mambaseg.metrics.overlap import confusion, dice, iou
from mambaseg.plan import Plan
from mambaseg.train import losses, sample, schedule
from mambaseg.train.augment import augmentation
from mambaseg.train.split import folds, split_of_fold

# --- losses, sampling, schedule ---------------------------------------------------------------------------------------

def loss_checks(record: Record, arrays: Arrays) -> list[Check]:
    """A loss and its gradients by the logits of each scale."""
    scales = range(record["n_scales"])
    is_half = any(values.dtype == np.float16 for values in arrays.values())
    logits = [torch.from_numpy(arrays[f"logits{i}"]).float().requires_grad_() for i in scales]
    targets = [torch.from_numpy(arrays[f"target{i}"]) for i in scales]
    batch_dice, ignore = record["batch_dice"], record["ignore_label"]
    if record["kind"] == "dice_ce":
        loss = losses.dice_cross_entropy(logits[0], targets[0], batch_dice, ignore)
    elif record["kind"] == "dice_bce_regions":
        loss = losses.region_dice_cross_entropy(logits[0], targets[0], batch_dice, ignore)
    else:
        loss = losses.deep_supervision_loss(logits, targets, batch_dice, ignore)
    loss.backward()
    found = near("loss", np.float64(loss.item()), np.float64(record["loss"]), 1e-6, is_half)
    for i, values in enumerate(logits):
        gradient = torch.zeros_like(values) if values.grad is None else values.grad
        found += near(f"gradient {i}", gradient.numpy(), arrays.get(f"grad{i}"), 1e-7, is_half)
    return found


def downsampling_checks(record: Record, arrays: Arrays) -> list[Check]:
    """Targets for deep supervision."""
    scales = np.array(record["scales"], dtype=float)
    strides = [[1] * scales.shape[1], *(scales[:-1] / scales[1:]).round().astype(int).tolist()]
    got = losses.downsample_target(torch.from_numpy(arrays["0"])[None], strides, len(scales))
    return [check for i, level in enumerate(got) for check in same(f"scale {i}", level[0].numpy(), arrays.get(str(i)))]


def training_losses(folder: Path) -> Found:
    """Losses, their gradients, and the targets of deep supervision."""
    for index, arrays, compare in (("index", "loss", loss_checks),
                                   ("label_downsampling", "label_downsampling", downsampling_checks)):
        if not (folder / f"{index}.json").is_file():
            continue
        values = load(folder, arrays)
        for record in read(folder / f"{index}.json"):
            prefix = f"{record['name']}__"
            own = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
            yield f"loss/{record['name']}", compare(record, own)


def sampler(patch: list[int], shape: list[int], batch_size: int = 2) -> sample.PatchSampler:
    """A sampler over one image whose voxels hold their own number, counted from 1."""
    image = np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(1, *shape)
    plan = Plan(ndim=len(patch), patch_size=tuple(patch), batch_size=batch_size, features_per_stage=(), kernel_sizes=(),
                strides=(), n_blocks_encoder=(), n_blocks_decoder=(), transpose=tuple(range(len(patch))))
    return sample.PatchSampler([sample.Case("numbers", image, np.zeros(shape, np.int8))], plan, seed=0)


def patch_limits(record: Record) -> list[Check]:
    """Where a random patch may start, and where one around a foreground voxel does."""
    draw = sampler(record["final_patch"], record["data_shape"])
    draw.loader_size = tuple(record["initial_patch"])
    limits = [draw._limits(axis, extent) for axis, extent in enumerate(record["data_shape"])]
    draw.cases[0].locations[1] = np.array([record["fg_voxel"]])
    numbers = draw._patch(draw.cases[0], force_foreground=True)[0][0]
    inside = np.argwhere(numbers > 0)[0]
    first = np.array(np.unravel_index(int(numbers[tuple(inside)]) - 1, record["data_shape"])) - inside
    return [Check("limits", n_different(limits, record["lower_bound_range_inclusive"]), 0),
            Check("forced", n_different(first, record["fg_bbox_lower"]), 0)]


def loader_patch(record: Record) -> list[Check]:
    """Size of the patch before rotation, and how far it is rotated."""
    patch = record["patch"]
    return [Check("size", n_different(sample.loader_patch_size(patch), record["initial_patch"]), 0),
            Check("rotation", abs(sample.rotation_range(patch) - record["rotation_rad"][1]), 1e-12),
            Check("slice by slice", sample.is_dummy_2d(patch) != record["dummy_2d"], 0)]


def split_checks(record: Record) -> list[Check]:
    """The folds of a cross-validation."""
    made = [split._asdict() for split in folds(record["ids"])]
    return [Check(f"{len(record['ids'])} cases", n_unlike(made, record["splits"]), 0)]


def beyond_checks(record: Record) -> list[Check]:
    """A fold with a number that the cross-validation does not have."""
    made = split_of_fold(record["ids"], record["fold"])
    want = {key: record[key] for key in ("train", "val")}
    return [Check(f"fold {record['fold']}", n_unlike(made._asdict(), want), 0)]


def rate_checks(pairs: list[list[float]]) -> list[Check]:
    """nnU-Net's learning rates."""
    rates = [abs(schedule.learning_rate("polynomial", 0.01, epoch / 1000) - rate) for epoch, rate in pairs]
    return [Check("rate", max(rates), 1e-12)]


def weight_checks(wanted: Record) -> list[Check]:
    """Weights of deep supervision."""
    return [Check(n, greatest(np.array(losses.deep_supervision_weights(int(n))), np.array(want)), 1e-12)
            for n, want in wanted.items()]


def forced_checks(wanted: Record) -> list[Check]:
    """Which samples of a batch show foreground."""
    return [Check(n, n_different(np.arange(int(n)) >= sampler([4, 4], [4, 4], int(n))._n_free, want), 0)
            for n, want in wanted.items()]


def each(compare: Callable[[Record], list[Check]]) -> Callable[[list[Record]], list[Check]]:
    """The comparisons of all records of a list."""
    return lambda records: [check for record in records for check in compare(record)]


RULES: dict[str, Callable[[Any], list[Check]]] = {
    "splits": each(split_checks), "fold_beyond_split": each(beyond_checks), "poly_lr": rate_checks,
    "initial_patch": each(loader_patch), "oversample_forced": forced_checks, "ds_weights": weight_checks,
    "bbox": each(patch_limits),
}


def rules(folder: Path) -> Found:
    """Splits, sampling, schedule and post-processing."""
    if (folder / "rules.json").is_file():
        for name, record in read(folder / "rules.json").items():
            yield f"rules/{name}", RULES[name](record) if name in RULES else None
    if (folder / "largest_component.npz").is_file():
        arrays, said = load(folder, "largest_component"), read(folder / "largest_component.json")
        yield "rules/largest_component", [check for name, words in said.items() for check in same(
            name, keep_largest_component(arrays[f"{name}__in"], named_labels(words)), arrays.get(f"{name}__out"))]


def named_labels(words: str) -> list[int]:
    """The labels of a fixture's description: "labels_or_regions=[1,2] (...)", "1 (two equal ...)"."""
    said = words.removeprefix("labels_or_regions=").strip()
    part = said[:said.index("])"[said[0] == "("]) + 1] if said[0] in "[(" else said.split()[0]
    return [int(number) for number in re.findall(r"\d+", part)]


# --- augmentation -----------------------------------------------------------------------------------------------------

def transform_of(record: Record, shape: tuple[int, ...]) -> Any:
    """Our augmentation's own transform of an operator, with its parameters fixed."""
    patch = tuple(record.get("patch", shape))
    plan = Plan(ndim=len(patch), patch_size=patch, batch_size=1, features_per_stage=(), kernel_sizes=(), strides=(),
                n_blocks_encoder=(), n_blocks_decoder=(), transpose=tuple(range(len(patch))))
    kind, settings = OPERATORS[record["op"]]
    wanted = settings(record)
    for step in augmentation(plan, instances=False, pictures=False).transforms:
        transform = getattr(step, "transform", step)
        if isinstance(transform, kind) and wanted.get("p_invert_image", 0) == getattr(transform, "p_invert_image", 0):
            for name, value in wanted.items():
                setattr(transform, name, value)
            return transform
    raise LookupError(f"our augmentation has no {record['op']}")


OPERATORS: dict[str, tuple[type, Callable[[Record], Record]]] = {
    "contrast": (ContrastTransform, lambda record: {"contrast_range": record["multiplier"]}),
    "brightness": (MultiplicativeBrightnessTransform, lambda record: {"multiplier_range": record["multiplier"]}),
    "gamma": (GammaTransform, lambda record: {"gamma": record["gamma"], "p_invert_image": float(record["invert"])}),
    "gaussian_blur": (GaussianBlurTransform, lambda record: {"blur_sigma": record["sigma"], "p_per_channel": 1}),
    "simulate_low_resolution": (SimulateLowResolutionTransform,
                                lambda record: {"scale": record["scale"], "p_per_channel": 1}),
    "spatial": (SpatialTransform, lambda record: {
        "rotation": record["angle_all_axes"], "p_rotation": float(record["angle_all_axes"] != 0),
        "scaling": record["scale"], "p_scaling": float(record["scale"] != 1)}),
}


def augment(folder: Path) -> Found:
    """Augmentation operators with fixed parameters."""
    arrays = load(folder, "ops")
    for record in read(folder / "ops.json"):
        name = f"augment/{record['name']}"
        if record["op"] not in OPERATORS:
            yield name, None
            continue
        image = arrays[record["input"]].astype(np.float32)
        is_half = arrays[record["input"]].dtype == np.float16
        labels = arrays.get(f"{record['input']}_seg", np.zeros((1, *image.shape[1:]), np.int16))
        both = {"image": torch.from_numpy(image), "segmentation": torch.from_numpy(labels)}
        got = transform_of(record, image.shape[1:])(**both)
        found = near("image", got["image"].numpy(), arrays.get(record["name"]), 5e-6, is_half)
        want = arrays.get(record.get("seg_key", ""))
        if want is not None:
            found.append(Check("share of labels", n_different(got["segmentation"].numpy(), want) / want.size, 2e-3))
        yield name, found


# --- metrics ----------------------------------------------------------------------------------------------------------

def metrics(folder: Path) -> Found:
    """Counts, Dice, IoU and distances, by the conventions of five programs."""
    masks = load(folder, "masks")
    for record in read(folder / "metrics.json"):
        name = record["name"]
        pair = masks[f"{name}__ref"], masks[f"{name}__pred"]
        valid = masks[f"{name}__ignore"] == 0 if f"{name}__ignore" in masks else None
        yield f"metrics/{name}", [*overlap_checks(record, pair, valid), *distance_checks(record, pair)]


def overlap_checks(record: Record, pair: tuple[np.ndarray, np.ndarray], valid: np.ndarray | None) -> list[Check]:
    counts = confusion(*pair, valid)
    found = [Check(key, abs(getattr(counts, key.lower()) - record[key]), 0)
             for key in ("TP", "FP", "FN", "TN") if key in record]
    for key, got in (("nnunet_Dice", dice(counts)), ("nnunet_IoU", iou(counts)),
                     ("umamba_eval_Dice", dice(confusion(*pair), "umamba"))):
        if key in record:
            found.append(number_check(key, got, record[key], 1e-12))
    return found


def distance_checks(record: Record, pair: tuple[np.ndarray, np.ndarray]) -> list[Check]:
    spacing = record["spacing"]
    found = []
    for surface in Surface:
        if f"{surface}_HD95" in record:
            got, want = hd95(*pair, spacing, surface), record[f"{surface}_HD95"]
            found.append(number_check(f"{surface}_HD95", got, want, 1e-4))
        for tolerance, want in record.get(f"{surface}_NSD", {}).items():
            got = nsd(*pair, float(tolerance), spacing, surface)
            found.append(number_check(f"{surface}_NSD {tolerance}", got, want, 1e-4))
    for tolerance, want in record.get("umamba_eval_NSD", {}).items():
        got = umamba_nsd(*pair, float(tolerance), spacing)
        found.append(number_check(f"umamba_eval_NSD {tolerance}", got, want, 1e-4))
    return found


def number_check(what: str, got: float, want: float | None, tolerance: float) -> Check:
    """Compare two numbers, of which None says that there is none."""
    if want is None or not math.isfinite(want):
        return Check(what, float(math.isfinite(got)), 0)
    return Check(what, abs(got - want), tolerance)


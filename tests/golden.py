"""Run a folder of nnU-Net fixtures: ``python tests/golden.py FOLDER [KIND ...]``.

Each subfolder is a kind (plans, preproc, resample, sliding, ...) of numbers that the real nnU-Net gave. Prints a line a
fixture, ``NAME difference tolerance ok|FAIL|unknown``: of all comparisons of the fixture the one nearest to its
tolerance. Exit status 1 when something fails, or is of a kind that this project does not reproduce.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mambaseg.plan import Plan
from mambaseg.plan.rules import plan_dataset, to_plan
from mambaseg.predict.blend import gaussian_weights, probabilities_to_labels
from mambaseg.predict.run import predict_logits, to_frame
from mambaseg.predict.windows import window_starts
from mambaseg.prepare import prepare
from mambaseg.resample import resample, resample_labels
from mambaseg.train import losses, sample, schedule

Record = dict[str, Any]
Arrays = dict[str, np.ndarray]


class Check(NamedTuple):
    """One comparison: what was compared, how far apart it is, and how far it may be."""

    what: str
    difference: float
    tolerance: float

    @property
    def passes(self) -> bool:
        return self.difference <= self.tolerance  # False for NaN


Found = Iterator[tuple[str, list[Check] | None]]  # a fixture's name and its comparisons, None: nothing here runs it


# --- comparing --------------------------------------------------------------------------------------------------------

def greatest(got: np.ndarray, want: np.ndarray) -> float:
    """Largest absolute difference; infinite where the shapes differ."""
    if got.shape != want.shape:
        return float("inf")
    return float(np.abs(got.astype(np.float64) - want.astype(np.float64)).max(initial=0.0))


def n_different(got: Any, want: Any) -> float:
    """How many values differ; infinite where the shapes do."""
    got, want = np.asarray(got), np.asarray(want)
    return float("inf") if got.shape != want.shape else float(np.count_nonzero(got != want))


def half_steps(got: np.ndarray, want: np.ndarray) -> float:
    """Largest difference in units of the last place of half precision."""
    if got.shape != want.shape:
        return float("inf")
    step = np.spacing(np.maximum(np.abs(got), np.abs(want)).astype(np.float16)).astype(np.float64)
    return float((np.abs(got.astype(np.float64) - want.astype(np.float64)) / step).max())


def n_unlike(got: Any, want: Any) -> float:
    """How many leaves of two JSON trees differ; floats may by 1e-9 of their size."""
    if isinstance(want, dict) and isinstance(got, dict):
        return sum(n_unlike(got.get(key, "missing"), want.get(key, "missing")) for key in got.keys() | want.keys())
    if isinstance(want, list | tuple) and isinstance(got, list | tuple):
        pairs = zip(got, want, strict=False)
        return sum(n_unlike(a, b) for a, b in pairs) + abs(len(got) - len(want))
    if isinstance(want, float) and isinstance(got, int | float):
        return float(not abs(got - want) <= 1e-9 * max(abs(got), abs(want)))
    return float(got != want)


def load(folder: Path, name: str) -> Arrays:
    """The arrays of an npz file."""
    with np.load(folder / f"{name}.npz") as arrays:
        return dict(arrays)


def read(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text())


# --- planning ---------------------------------------------------------------------------------------------------------

PLANNERS = {"ExperimentPlanner": "current", "nnUNetPlannerResEncM": "resenc-m", "nnUNetPlannerResEncL": "resenc-l",
            "nnUNetPlannerResEncXL": "resenc-xl", "umamba_2.1.1_ExperimentPlanner": "umamba"}


def plans(folder: Path) -> Found:
    """Complete plans.json files from fingerprints, one line a planner."""
    for path in sorted(folder.glob("*.json")):
        record = read(path)
        for planner, want in record["plans"].items():
            name = f"plans/{path.stem}/{planner}"
            if planner not in PLANNERS:
                yield name, None
                continue
            got = plan_dataset(record["dataset_json"], record["fingerprint"], PLANNERS[planner],
                               dataset_name=record["dataset_name"])
            yield name, [Check("values", n_unlike(json.loads(json.dumps(got)), want), 0)]


# --- preparing --------------------------------------------------------------------------------------------------------

def preproc(folder: Path) -> Found:
    """Whole preprocessing runs: boxes, shapes, images and labels."""
    for record in read(folder / "index.json"):
        arrays = load(folder, record["name"])
        plan = to_plan(record["plans"], record["configuration"])
        frame = arrays["in_data"].astype(np.float32)
        # nnU-Net labels a case without labels 0 inside the nonzero region and -1 outside, as it does an empty one
        labels = arrays["in_seg"][0] if record["has_seg"] else np.zeros(frame.shape[1:], np.int8)
        got = prepare(frame, record["spacing"], plan, labels)
        yield f"preproc/{record['name']}", [
            Check("box", n_different(got.crop, record["bbox_used_for_cropping"]), 0),
            Check("shape before crop", n_different(got.shape_before_crop, record["shape_before_cropping"]), 0),
            Check("shape", n_different(got.array.shape, record["out_shape"]), 0),
            Check("image", greatest(got.array, arrays["out_data"]), 2e-5),
            Check("labels", n_different(got.labels[None], arrays["out_seg"]), 0),
        ]


def resampling(folder: Path) -> Found:
    """Images, labels and half-precision logits on other grids."""
    arrays = load(folder, "resample")
    for record in read(folder / "index.json"):
        name = record["name"]
        grid = record["new_shape"], record["current_spacing"], record["new_spacing"]
        values, want = arrays[f"{name}__in"], arrays[f"{name}__out"]
        if record["is_seg"]:
            check = Check("labels", n_different(resample_labels(values[0], *grid)[None], want), 0)
        else:
            got = resample(values, *grid, order=record["order"])
            is_half = want.dtype == np.float16
            check = (Check("half-precision steps", half_steps(got, want), 1) if is_half
                     else Check("values", greatest(got, want), 1e-6))
        yield f"resample/{name}", [check]


# --- predicting -------------------------------------------------------------------------------------------------------

class TinyNetwork(torch.nn.Sequential):
    """The fixtures' network: 3x3 convolution, leaky ReLU, 1x1 convolution."""

    def __init__(self, arrays: Arrays, fold: int) -> None:
        weights = {key: torch.from_numpy(arrays[f"w{fold}__{key}"])
                   for key in ("c1.weight", "c1.bias", "c2.weight", "c2.bias")}
        convolution = torch.nn.Conv3d if weights["c1.weight"].ndim == 5 else torch.nn.Conv2d
        hidden, channels = weights["c1.weight"].shape[:2]
        super().__init__(convolution(channels, hidden, 3, padding=1), torch.nn.LeakyReLU(0.01),
                         convolution(hidden, len(weights["c2.weight"]), 1))
        self.load_state_dict({key.replace("c1", "0").replace("c2", "2"): value for key, value in weights.items()})


def steps(path: Path) -> list[Check]:
    """Window positions."""
    wrong = [case for case in read(path)
             if [list(window_starts(*axis, case["step"])) for axis in zip(case["image"], case["tile"], strict=True)]
             != case["steps"]]
    return [Check("cases", len(wrong), 0)]


def weight_map(tile: list[int], name: str, record: Record, arrays: Arrays) -> list[Check]:
    """A window's weights: in half precision as nnU-Net uses them, and before rounding."""
    weights = gaussian_weights(tuple(tile))
    half = weights.astype(np.float16)
    half[half == 0] = half[half > 0].min()
    found = [Check("sum", abs(weights.sum(dtype=np.float64) / record["fp32"]["sum_float64"] - 1), 1e-6),
             Check("half-precision sum", abs(half.sum(dtype=np.float64) / record["fp16"]["sum_float64"] - 1), 1e-4)]
    if f"{name}_fp16" in arrays:
        found.append(Check("half-precision steps", half_steps(half, arrays[f"{name}_fp16"]), 1))
    for axis in range(len(tile)):
        centre = tuple(slice(None) if other == axis else side // 2 for other, side in enumerate(tile))
        found.append(Check("profile", greatest(weights[centre], arrays[f"{name}_fp32_profile_axis{axis}"]), 1e-5))
    return found


def end_to_end(record: Record, arrays: Arrays) -> list[Check]:
    """From an image to labels with a fixed network."""
    plan = to_plan(record["plans"], record["configuration"])
    networks = [TinyNetwork(arrays, fold) for fold in range(record["n_weight_sets"])]
    order = record["dataset_json"].get("regions_class_order")
    kind = "classes" if order is None else "regions"
    frame = arrays["image"].astype(np.float32)
    how = {"n_classes": len(arrays["logits"]), "mirror_axes": record["mirror_axes"] or (),
           "step": record["tile_step_size"], "gaussian": record["use_gaussian"]}
    prepared = prepare(frame, record["spacing"], plan)
    # nnU-Net sums windows, and networks, in half precision, which costs it whole units near the corners
    logits = sum(predict_logits([network], prepared.array, plan, sums=torch.float16, **how).astype(np.float16)
                 for network in networks) / np.float16(len(networks))
    ours = predict_logits(networks, prepared.array, plan, **how)
    found = [Check("prepared", greatest(prepared.array, arrays["preprocessed"]), 2e-5),
             Check("logits", greatest(logits, arrays["logits"]), 1e-2),
             Check("median, single-precision sums", float(np.median(np.abs(ours - arrays["logits"]))), 1e-2)]
    probabilities = to_frame(logits.astype(np.float32), prepared, kind)
    labels = probabilities_to_labels(probabilities, kind, order)
    share = n_different(labels, arrays["segmentation"]) / labels.size
    return [*found, Check("probabilities", greatest(probabilities, arrays["probabilities"]), 5e-3),
            Check("share of labels", share, 1e-3)]


def sliding(folder: Path) -> Found:
    """Window positions, weights, and whole predictions."""
    yield "sliding/steps", steps(folder / "steps.json")
    maps = load(folder, "gaussian")
    for record in read(folder / "gaussian.json"):
        name = "x".join(map(str, record["tile"]))
        yield f"sliding/gaussian_{name}", weight_map(record["tile"], name, record, maps)
    for record in read(folder / "e2e.json"):
        yield f"sliding/e2e_{record['name']}", end_to_end(record, load(folder, f"e2e_{record['name']}"))


# --- training ---------------------------------------------------------------------------------------------------------

def loss_checks(record: Record, arrays: Arrays) -> list[Check]:
    """A loss and its gradients by the logits of each scale."""
    scales = range(record["n_scales"])
    logits = [torch.from_numpy(arrays[f"logits{i}"]).requires_grad_() for i in scales]
    targets = [torch.from_numpy(arrays[f"target{i}"]) for i in scales]
    batch_dice, ignore = record["batch_dice"], record["ignore_label"]
    if record["kind"] == "dice_ce":
        loss = losses.dice_cross_entropy(logits[0], targets[0], batch_dice, ignore)
    elif record["kind"] == "dice_bce_regions":
        loss = losses.region_dice_cross_entropy(logits[0], targets[0], batch_dice, ignore)
    else:
        loss = losses.deep_supervision_loss(logits, targets, batch_dice, ignore)
    loss.backward()
    found = [Check("loss", abs(loss.item() - record["loss"]), 1e-6)]
    for i, values in enumerate(logits):
        gradient = torch.zeros_like(values) if values.grad is None else values.grad
        found.append(Check(f"gradient {i}", greatest(gradient.numpy(), arrays[f"grad{i}"]), 1e-7))
    return found


def downsampling_checks(record: Record, arrays: Arrays) -> list[Check]:
    """Targets for deep supervision."""
    scales = np.array(record["scales"], dtype=float)
    strides = [[1] * scales.shape[1], *(scales[:-1] / scales[1:]).round().astype(int).tolist()]
    got = losses.downsample_target(torch.from_numpy(arrays["0"])[None], strides, len(scales))
    return [Check(f"scale {i}", n_different(level[0].numpy(), arrays[str(i)]), 0) for i, level in enumerate(got)]


def training_losses(folder: Path) -> Found:
    """Losses, their gradients, and the targets of deep supervision."""
    for index, arrays, compare in (("index", "loss", loss_checks),
                                   ("label_downsampling", "label_downsampling", downsampling_checks)):
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


def rules(folder: Path) -> Found:
    """Sampling and schedule; splits and largest components are unknown."""
    values = read(folder / "rules.json")
    rates = [abs(schedule.learning_rate("sgd", 0.01, epoch / 1000) - rate) for epoch, rate in values.pop("poly_lr")]
    yield "rules/poly_lr", [Check("rate", max(rates), 1e-12)]
    yield "rules/ds_weights", [
        Check(n, greatest(np.array(losses.deep_supervision_weights(int(n))), np.array(want)), 1e-12)
        for n, want in values.pop("ds_weights").items()]
    yield "rules/oversample_forced", [
        Check(n, n_different(np.arange(int(n)) >= sampler([4, 4], [4, 4], int(n))._n_free, want), 0)
        for n, want in values.pop("oversample_forced").items()]
    yield "rules/initial_patch", [check for record in values.pop("initial_patch") for check in loader_patch(record)]
    yield "rules/bbox", [check for record in values.pop("bbox") for check in patch_limits(record)]
    for name in [*values, *(path.stem for path in sorted(folder.glob("*.npz")))]:
        yield f"rules/{name}", None


# --- running ----------------------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[Path], Found]] = {
    "loss": training_losses, "plans": plans, "preproc": preproc, "resample": resampling, "rules": rules,
    "sliding": sliding,
}


def fixtures(folder: Path, kinds: list[str]) -> Found:
    """All fixtures of a folder, or of some kinds; a folder that is itself named as a kind counts as that kind."""
    if folder.name in KINDS and not any((folder / kind).is_dir() for kind in KINDS):
        folder, kinds = folder.parent, [folder.name]
    names = kinds or sorted(path.name for path in folder.iterdir() if path.is_dir() or path.suffix == ".json")
    for name in names:
        if name in KINDS:
            yield from KINDS[name](folder / name)
        else:
            yield name, None


def nearest(found: list[Check]) -> Check:
    """The failing check if there is one, else the one nearest to its tolerance."""
    return max(found, key=lambda c: (not c.passes, c.difference / c.tolerance if c.tolerance else c.difference))


def main(arguments: list[str]) -> int:
    status = 0
    for name, found in fixtures(Path(arguments[0]), arguments[1:]):
        if found is None:
            print(f"{name} - - unknown", flush=True)
            status = 1
            continue
        worst = nearest(found)
        if not worst.passes:
            status = 1
            print(json.dumps({name: [c._asdict() for c in found if not c.passes]}), file=sys.stderr)
        print(f"{name} {worst.difference:.3g} {worst.tolerance:.3g} {'ok' if worst.passes else 'FAIL'}", flush=True)
    return status


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python tests/golden.py FOLDER [KIND ...]")
    sys.exit(main(sys.argv[1:]))

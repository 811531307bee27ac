"""nnU-Net's fixtures up to the network's input: plans, preprocessing, resampling, and whole raw data sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from golden_compare import Arrays, Check, Found, Record, half_steps, load, n_different, n_unlike, near, read, same
from mambaseg.plan.fingerprint import NNUNET_SAMPLES, measure
from mambaseg.plan.rules import plan_dataset, to_plan
from mambaseg.prepare import prepare
from mambaseg.resample import resample, resample_labels
from mambaseg.train.dataset import open_dataset
from mambaseg.train.sample import Case
from mambaseg.train.split import folds

PLANNERS = {"ExperimentPlanner": "current", "nnUNetPlannerResEncM": "resenc-m", "nnUNetPlannerResEncL": "resenc-l",
            "nnUNetPlannerResEncXL": "resenc-xl", "umamba_2.1.1_ExperimentPlanner": "umamba"}
INTENSITIES = "foreground_intensity_properties_per_channel"


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
                               dataset_name=record.get("dataset_name", want["dataset_name"]))
            yield name, [Check("values", n_unlike(json.loads(json.dumps(got)), want), 0)]


def preproc(folder: Path) -> Found:
    """Whole preprocessing runs: boxes, shapes, images and labels."""
    for record in read(folder / "index.json"):
        yield f"preproc/{record['name']}", preparing(record, load(folder, record["name"]))


def preparing(record: Record, arrays: Arrays) -> list[Check]:
    """One case, prepared."""
    plan = to_plan(record["plans"], record["configuration"])
    frame = arrays["in_data"].astype(np.float32)
    # nnU-Net labels a case without labels 0 inside the nonzero region and -1 outside, as it does an empty one
    labels = arrays["in_seg"][0] if record["has_seg"] else np.zeros(frame.shape[1:], np.int8)
    got = prepare(frame, record["spacing"], plan, labels)
    return [
        *same("box", got.crop, record.get("bbox_used_for_cropping")),
        *same("shape before crop", got.shape_before_crop, record.get("shape_before_cropping")),
        *same("shape", got.array.shape, record.get("out_shape")),
        *near("image", got.array, arrays.get("out_data"), 2e-5),
        *same("labels", got.labels[None], arrays.get("out_seg")),
        *same("remembered voxels", *locations(record, got.labels)),
    ]


def locations(record: Record, labels: np.ndarray) -> tuple[list[int], list[int] | None]:
    """How many voxels of each class are remembered; of regions and what is annotated nothing is compared."""
    want = {int(key): n for key, n in record.get("class_location_counts", {}).items() if key.isdigit()}
    if not want:
        return [], None
    case = Case(record["name"], np.zeros((1, *labels.shape), np.float32), labels)
    case.find_foreground(instances=False)
    return [len(case.locations.get(number, ())) for number in want], list(want.values())


def resampling(folder: Path) -> Found:
    """Images, labels and half-precision logits on other grids."""
    arrays = load(folder, "resample")
    for record in read(folder / "index.json"):
        name = record["name"]
        grid = record["new_shape"], record["current_spacing"], record["new_spacing"]
        values, want = arrays[f"{name}__in"], arrays.get(f"{name}__out")
        if want is None:
            continue
        if record["is_seg"]:
            check = Check("labels", n_different(resample_labels(values[0], *grid)[None], want), 0)
        else:
            # nnU-Net's logits are in half precision; other values may only be kept in it
            got = resample(values.astype(record.get("dtype_in", values.dtype)), *grid, order=record["order"])
            check = (Check("half-precision steps", half_steps(got, want), 1) if got.dtype == np.float16
                     else near("values", got, want, 1e-6, values.dtype == np.float16)[0])
        yield f"resample/{name}", [check]


def rawdata(folder: Path) -> Found:
    """Whole data sets: fingerprint, plans, splits and prepared cases from the files."""
    for path in sorted(folder.iterdir()):
        if (path / "raw").is_dir():
            yield from data_set(path)


def data_set(path: Path) -> Found:
    """One data set of the folder, as stock nnU-Net saw it."""
    data = open_dataset(path / "raw")
    files = sorted([*data.train, *data.validation], key=lambda case: case.name)
    cases = {name: (frame, labels, spacing) for name, frame, labels, spacing in data.load(files)}
    name = f"rawdata/{path.name}"
    stored = {key: read_if_there(path / f"{key}.json")
              for key in ("dataset_fingerprint", "nnUNetPlans", "splits_final")}
    fingerprint, found = fingerprinted(cases, stored["dataset_fingerprint"])
    if found:
        yield f"{name}/fingerprint", found
    if stored["nnUNetPlans"]:
        made = plan_dataset(read(path / "raw/dataset.json"), fingerprint, "current", path.name)
        unlike = n_unlike(json.loads(json.dumps(made | {INTENSITIES: 0})), stored["nnUNetPlans"] | {INTENSITIES: 0})
        yield f"{name}/plans", [Check("values", unlike, 0)]
    if stored["splits_final"]:
        splits = [split._asdict() for split in folds(list(cases))]
        yield f"{name}/splits", [Check("values", n_unlike(splits, stored["splits_final"]), 0)]
    for prepared in sorted(path.glob("preprocessed_*/*.npz")) if stored["nnUNetPlans"] else ():
        configuration = prepared.parent.name.removeprefix("preprocessed_")
        plan = to_plan(stored["nnUNetPlans"], configuration)
        yield (f"{name}/{configuration}/{prepared.stem}",
               prepared_checks(cases[prepared.stem], plan, load(prepared.parent, prepared.stem)))


def fingerprinted(cases: dict[str, tuple], want: Record) -> tuple[Record, list[Check]]:
    """Our fingerprint and how it compares.

    Where a percentile falls between two grey levels, chance decides; then nnU-Net's own draw is repeated, which takes a
    minute and 2 GB.
    """
    found: list[Check] = []
    for how in ({"evenly": True}, {"n_samples": NNUNET_SAMPLES}):
        made = measure((three_axes(*case) for case in cases.values()), len(cases), **how).to_json()
        found = fingerprint_checks(made, want)
        if all(check.passes for check in found):
            break
    return made, found


def read_if_there(path: Path) -> Record:
    """A JSON file, {} where there is none."""
    return read(path) if path.is_file() else {}


def three_axes(frame: np.ndarray, labels: np.ndarray, spacing: tuple[float, ...]) -> tuple:
    """A picture as the slice of thickness 999 that nnU-Net takes it for."""
    if labels.ndim == 3:
        return frame, labels, spacing
    return frame[:, None], labels[None], (999.0, *spacing)


def fingerprint_checks(got: Record, want: Record) -> list[Check]:
    """Shapes and spacings exactly, brightness to 0.02 standard deviations: ours is a smaller sample."""
    exact = ("shapes_after_crop", "spacings", "median_relative_size_after_cropping")
    found = [Check(key, n_unlike(got[key], want[key]), 0) for key in exact if key in want]
    for channel, values in want.get(INTENSITIES, {}).items():
        ours = got[INTENSITIES][channel]
        found += [Check(f"channel {channel} {key}", abs(ours[key] - value) / max(values["std"], 1e-8), 0.02)
                  for key, value in values.items()]
    return found


def prepared_checks(case: tuple, plan: object, want: Arrays) -> list[Check]:
    """A case of a data set, prepared."""
    frame, labels, spacing = case
    got = prepare(frame, spacing, plan, labels)
    image = want.get("data")
    if image is not None:
        image = image.reshape(len(image), *image.shape[1 + image.ndim - got.array.ndim:])
    truth = want.get("seg")
    return [*near("image", got.array, image, 2e-5),
            *same("labels", got.labels, None if truth is None else truth.reshape(truth.shape[-got.labels.ndim:]))]

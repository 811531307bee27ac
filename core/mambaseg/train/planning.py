"""nnU-Net's plans for a data set on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from mambaseg import io
from mambaseg._errors import UserError
from mambaseg.plan.rules import PLANNERS, plan_dataset
from mambaseg.progress import ProgressCallback
from mambaseg.train.dataset import Dataset, open_dataset

__all__ = ["Planned", "plan_files"]

_OBJECT_LABELS = {"background": 0, "interior": 1, "boundary": 2}  # what is learned of instances


class Planned(NamedTuple):
    """Plans and what they were made from.

    Parameters
    ----------
    plans : content of nnU-Net's `plans.json`
    data : the data set
    n_labels : entries of its label table
    """

    plans: dict[str, Any]
    data: Dataset
    n_labels: int


def plan_files(path: Path, planner: str = "umamba", instances: bool | None = None,
               progress: ProgressCallback | None = None) -> Planned:
    """Check a data set, measure it, and plan for it.

    Parameters
    ----------
    path : a folder or table; see `mambaseg.train.files.find_cases`
    planner : a name in `mambaseg.plan.rules.PLANNERS`
    instances : see `mambaseg.train.dataset.open_dataset`
    progress : called after each case

    Raises
    ------
    UserError : there is no such planner
    DatasetError : the data set cannot be used; all problems are told
    """
    if planner not in PLANNERS:
        raise UserError(f"There is no planner {planner!r}; choose one of {', '.join(PLANNERS)}.")
    data = open_dataset(path, instances, crop=True, progress=progress)
    cases = sorted([*data.train, *data.validation], key=lambda case: case.name)
    described = {**_description(data, len(cases)), **_told(data, len(cases))}
    name = path.resolve().stem if path.is_file() else path.resolve().name
    return Planned(plan_dataset(described, data.fingerprint(cases, crop=True), planner, name), data,
                   len(described["labels"]))


def _description(data: Dataset, n_cases: int) -> dict[str, Any]:
    """What nnU-Net's `dataset.json` would say of a data set that has none."""
    labels = (_OBJECT_LABELS if data.instances else data.info["labels"] if data.regions
              else dict(zip(data.classes, data.label_values, strict=True)))
    return {"channel_names": {str(i): name for i, name in enumerate(data.channels)}, "labels": dict(labels),
            "numTraining": n_cases, "file_ending": io.suffix_of(data.train[0].images[0])}


def _told(data: Dataset, n_cases: int) -> dict[str, Any]:
    """What a `dataset.json` in nnU-Net's own form says; nothing of others."""
    keys = ("channel_names", "modality", "labels", "file_ending")
    if "file_ending" not in data.info:
        return {}
    return {key: data.info[key] for key in keys if key in data.info} | {"numTraining": n_cases}

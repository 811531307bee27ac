"""Drawn volumes with a low resolution, and small cascades of random weights that disagree with their first stage."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg import Grid, Image, io, nets
from mambaseg.models import Model
from mambaseg.models.package import save_package
from small_models import weights
from tiny_models import tiny_model

SHAPE = (20, 22, 24)


def balls(seed: int, spacing: tuple[float, ...] = (1.0, 1.0, 1.0), unit: str = "mm") -> tuple[Image, NDArray[np.uint8]]:
    """A volume with a ball of class 1 around a smaller one of class 2, and its labels."""
    random = np.random.default_rng(seed)
    centre = random.integers(8, 13, 3)
    square = sum((axis - at) ** 2 for axis, at in zip(np.ogrid[:20, :22, :24], centre, strict=True))
    labels = np.where(square < 10, 2, np.where(square < 40, 1, 0)).astype(np.uint8)
    values = (labels * 40 + 20 + random.normal(0, 5, SHAPE)).astype(np.float32)
    return Image(values, "ZYX", Grid(SHAPE, spacing, unit)), labels


def write_volumes(folder: Path, n: int = 5, unit: str = "mm") -> Path:
    """A data set of `balls`."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    described = {"labels": {"background": 0, "front": 1, "back": 2}}
    (folder / "dataset.json").write_text(json.dumps(described))
    suffix = "nii.gz" if unit == "mm" else "tif"
    for index in range(n):
        image, labels = balls(index, unit=unit)
        io.write(image, folder / "images" / f"case{index}.{suffix}")
        io.write_labels(labels, image, folder / "labels" / f"case{index}.{suffix}")
    return folder


def save_stage(folder: Path, seed: int = 0, previous: Model | None = None, kind: str = "classes",
               **plan_changes: Any) -> Model:
    """A model of three classes in volumes; the second stage of a cascade where `previous` is given."""
    usual = {"spacing": (1.0, 1.0, 1.0), "normalisation": ("zscore",), "crop_to_nonzero": True,
             "features_per_stage": (4, 8, 8)}
    model = tiny_model(("channel 1",), 3, kind, folder.name, **(usual | plan_changes))
    n_inputs = 1 + (0 if previous is None else len(previous.foreground_labels))
    model = dataclasses.replace(model, network_config=nets.config_from_plan(model.plan, n_inputs, model.n_outputs))
    state = weights(model.network, model.network_config, seed)
    return save_package(folder, model, state, previous=previous)


def save_cascade(folder: Path, kind: str = "classes") -> Model:
    """A cascade whose first stage works at half the resolution, in a folder of its own beside it as well."""
    first = save_stage(folder.with_name(f"{folder.name}-first"), 1, kind=kind, spacing=(2.0, 2.2, 1.9))
    return save_stage(folder, 2, first, kind)

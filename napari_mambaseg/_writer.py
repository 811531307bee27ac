"""Saves a labels layer with its record and its table of objects beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg import Grid, Image, io
from napari_mambaseg._adapt import length_of

__all__ = ["RECORD", "write_labels"]

RECORD = "mambaseg"  # key of the run's record in a layer's metadata


def write_labels(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write labels as OME-TIFF, NIfTI, NRRD or MHA, and NAME_record.json and NAME_features.csv where there are any.

    Spacing, unit, position and direction are those of the layer; napari's world axes, x first, are taken for the
    file's.

    Parameters
    ----------
    path : the suffix names the format
    data : whole numbers, time first if `meta` says that there is a time axis
    meta : the layer's attributes, as napari gives them

    Returns
    -------
    Paths of the files written

    Raises
    ------
    UserError : the format cannot hold these labels, or the files cannot be written
    """
    labels = np.asarray(data)
    record = dict(meta.get("metadata", {})).get(RECORD)
    target = Path(path)
    io.write_labels(labels, _like(labels, meta, record), target)
    written = [target]
    stem = target.name[: len(target.name) - len(io.suffix_of(target))].removesuffix("_labels")
    if record is not None:
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        written.append(_write(target.with_name(f"{stem}_record.json"), text))
    features = meta.get("features")
    if features is not None and len(features.columns) > 1:
        text = features[features["index"] > 0].to_csv(index=False, lineterminator="\n")
        written.append(_write(target.with_name(f"{stem}_features.csv"), text))
    return [str(file) for file in written]


def _like(labels: NDArray[Any], meta: dict[str, Any], record: dict[str, Any] | None) -> Image:
    """An image on the grid of the labels."""
    axes = "ZYX"[-min(labels.ndim, 3):] if labels.ndim < 4 else "TZYX"
    if record is not None:
        axes = str(record["layer"]["axes"])
    n_time = int(axes.startswith("T"))
    unit, factors = length_of([str(unit) for unit in meta.get("units") or ["pixel"] * labels.ndim][n_time:])
    matrix = _to_world(meta, labels.ndim)[n_time:, n_time:]
    matrix[:-1] *= np.asarray(factors)[:, np.newaxis]
    n = len(matrix) - 1
    order = [*range(n - 1, -1, -1), n]  # z, y, x -> x, y, z
    return Image(labels, axes, Grid.from_affine(labels.shape[n_time:], matrix[np.ix_(order, order)], unit))


def _to_world(meta: dict[str, Any], ndim: int) -> NDArray[np.float64]:
    """Matrix from voxel to world, array order, (ndim + 1, ndim + 1)."""
    from napari.utils.transforms import Affine

    inner = Affine(scale=meta.get("scale", np.ones(ndim)), translate=meta.get("translate", np.zeros(ndim)),
                   rotate=meta.get("rotate"), shear=meta.get("shear"), ndim=ndim)
    outer = meta.get("affine", np.eye(ndim + 1))
    matrix: NDArray[np.float64] = np.asarray(outer, dtype=float) @ np.asarray(inner.affine_matrix, dtype=float)
    return matrix


def _write(path: Path, text: str) -> Path:
    content = text.encode("utf-8")
    with io.atomic_path(path, len(content)) as temporary:
        temporary.write_bytes(content)
    return path

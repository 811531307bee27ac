"""Corrections as training examples: what was given is checked, and becomes sparse labels on the network's grid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mambaseg._errors import DatasetError, ModelError
from mambaseg.image import Image
from mambaseg.models import Model
from mambaseg.orientation import turn_to, turned_image
from mambaseg.prepare import Prepared, prepare
from mambaseg.segmentation.match import match_axes, match_channels, match_spacing
from mambaseg.train.sample import UNLABELLED, Case

__all__ = ["Example", "as_examples", "find_labelled", "first_frame", "prepare_image", "sparse_labels", "to_case",
           "to_grid"]

COLLAR_PX = 3  # who draws an outline has also said that what lies just outside of it is not this object


@dataclass(frozen=True)
class Example:
    """An image and what its user says about it.

    Parameters
    ----------
    image : one time point
    corrections : integers on the image's grid, (*spatial): 0 not looked at, v + 1 where label v is right; so 1 is
        background, 2 the first class or object number 1
    labels : all labels as the user left them, (*spatial), the uncorrected ones too. For objects: one that was touched
        counts as right as a whole, and the free voxels just outside of it as background. None: only `corrections`
    weight : how often patches of it are drawn, relative to the others
    """

    image: Image
    corrections: NDArray[Any]
    labels: NDArray[Any] | None = None
    weight: float = 1.0


def as_examples(examples: Iterable[Example | Sequence[Any]], model: Model, n_new_classes: int = 0) -> list[Example]:
    """Examples from whatever was given, checked against the model.

    Parameters
    ----------
    examples : `Example`, or (image, corrections) or (image, corrections, labels)
    n_new_classes : classes that the model is about to get

    Returns
    -------
    Those with corrections, volumes turned to the orientation that the model learned from (`mambaseg.orientation`)

    Raises
    ------
    DatasetError : nothing is corrected, shapes differ, values are no labels of this model, or corrections of the same
        image contradict each other
    ModelError : the model's kind cannot learn from corrections
    """
    if model.kind == "regions":
        raise ModelError(f"{model.title} finds regions that may overlap, but corrections say one label a voxel; choose "
                         "a model of classes or of objects.")
    found = [_one(each) for each in examples]
    for example in found:
        _check(example, model, n_new_classes)
    found = [example for example in found if example.corrections.any()]
    if not found:
        raise DatasetError("There are no corrections to learn from: no voxel was corrected or confirmed. Correct a few "
                           "objects, or say that a region is right.")
    _check_agreement(found)
    return [_turned(example, model) for example in found]


def _one(given: Example | Sequence[Any]) -> Example:
    if isinstance(given, Example):
        return given
    image, corrections, *labels = given
    image = image if isinstance(image, Image) else Image.from_array(np.asarray(image))
    return Example(image, np.asarray(corrections), np.asarray(labels[0]) if labels else None)


def _turned(example: Example, model: Model) -> Example:
    """The example with its axes turned as the model takes them."""
    turn = turn_to(model.plan.orientation, example.image.grid)
    return replace(example, image=turned_image(example.image, turn), corrections=turn(example.corrections),
                   labels=None if example.labels is None else turn(example.labels))


def _check(example: Example, model: Model, n_new_classes: int) -> None:
    """Refuse what cannot be learned from, in words for the user."""
    shape = example.image.grid.shape
    if example.image.has_time:
        raise DatasetError("The corrected image is a time series, but learning takes single time points; give the "
                           "time point that was corrected.")
    for name, array in (("corrections", example.corrections), ("labels", example.labels)):
        if array is None:
            continue
        if array.shape != shape:
            raise DatasetError(f"The {name} have shape {array.shape}, but their image has {shape}; correct on the "
                               "image's own grid.")
        if array.dtype.kind not in "iu" or array.min(initial=0) < 0:
            raise DatasetError(f"The {name} hold {array.dtype} values from {array.min(initial=0):g} on, but labels are "
                               "whole numbers from 0 on; convert them.")
    largest, n_classes = int(example.corrections.max(initial=0)) - 1, len(model.classes) + n_new_classes
    if model.kind == "classes" and largest >= n_classes:
        raise DatasetError(f"The corrections name class {largest}, but {model.title} has the classes 0 to "
                           f"{n_classes - 1} ({', '.join(model.classes)}); name the new one with --add-class "
                           "(Python: new_classes).")
    if example.labels is not None:
        marked = example.corrections > 0
        n_odd = int(np.count_nonzero(example.labels[marked] != example.corrections[marked].astype(np.int64) - 1))
        if n_odd:
            raise DatasetError(f"At {n_odd:,} voxels the labels differ from the corrections made there; give the "
                               "labels as they were when the corrections were read.")


def _check_agreement(examples: Sequence[Example]) -> None:
    """No voxel of one image may be two things."""
    for index, first in enumerate(examples):
        for second in examples[index + 1:]:
            if not _is_same(first.image, second.image):
                continue
            both = (first.corrections > 0) & (second.corrections > 0)
            n_odd = int(np.count_nonzero(first.corrections[both] != second.corrections[both]))
            if n_odd:
                raise DatasetError(f"Two sets of corrections of the same image contradict each other at {n_odd:,} "
                                   "voxels; keep the one that is right.")


def _is_same(first: Image, second: Image) -> bool:
    return first.data is second.data or (first.data.shape == second.data.shape
                                         and bool(np.array_equal(first.data, second.data)))


def source_name(example: Example, index: int) -> str:
    """Name of an example's file without its folder; its number among the examples where it has none."""
    return (example.image.source or "").replace("\\", "/").rpartition("/")[2] or f"image {index + 1}"


def sparse_labels(example: Example, kind: str) -> NDArray[np.int32]:
    """Labels of the voxels that the user vouches for, `UNLABELLED` elsewhere; (*spatial) on the image's grid."""
    known = example.corrections > 0
    values = np.where(known, example.corrections.astype(np.int32) - 1, UNLABELLED)
    if kind != "instances" or example.labels is None:
        return np.asarray(values)
    touched = np.unique(values[values > 0])
    whole = np.isin(example.labels, touched)
    values = np.where(known, values, np.where(whole, example.labels.astype(np.int32), UNLABELLED))
    near = ndimage.binary_dilation(values > 0, iterations=COLLAR_PX)
    values[near & (example.labels == 0) & (values == UNLABELLED)] = 0
    return np.asarray(values)


def first_frame(image: Image, model: Model) -> NDArray[Any]:
    """The image's first time point with the model's channels, (channel, *spatial)."""
    return next(match_channels(image, model, []).frames())


def prepare_image(image: Image, model: Model) -> tuple[Prepared, tuple[float, ...] | None]:
    """The image as `mambaseg.segment` prepares it, axes turned, and its own spacing in the plan's unit."""
    notes: list[str] = []
    matched = match_channels(image, model, notes)
    match_axes(image, model, notes)
    spacing = match_spacing(image, model, notes)
    turn = turn_to(model.plan.orientation, image.grid)
    return prepare(turn(next(matched.frames())), turn.sizes(spacing), model.plan), spacing


def to_grid(labels: NDArray[np.int32], prepared: Prepared) -> NDArray[np.int32]:
    """Sparse labels on the prepared grid; none is lost where that is coarser, however thin.

    Parameters
    ----------
    labels : (*spatial) on the frame's grid, `UNLABELLED` where not known
    """
    box = tuple(slice(start, stop) for start, stop in prepared.crop)
    cropped = labels.transpose(prepared.transpose)[box]
    shape = prepared.array.shape[1:]
    if cropped.shape == shape:
        return np.ascontiguousarray(cropped)
    pull = [((np.arange(new) + 0.5) * old / new).astype(int) for old, new in zip(cropped.shape, shape, strict=True)]
    result = cropped[np.ix_(*pull)]
    known = np.nonzero(cropped != UNLABELLED)
    push = tuple(((at + 0.5) * new / old).astype(int)
                 for at, old, new in zip(known, cropped.shape, shape, strict=True))
    thin = result[push] == UNLABELLED
    result[tuple(at[thin] for at in push)] = cropped[known][thin]
    return result


def to_case(name: str, array: NDArray[np.float32], labels: NDArray[np.int32], weight: float = 1.0) -> Case:
    """A case for training whose patches are drawn around what is known; every object, or class, equally often."""
    case = Case(name, array, labels, weight)
    case.locations = find_labelled(labels)
    return case


def find_labelled(labels: NDArray[np.int32]) -> dict[int, NDArray[np.int64]]:
    """Voxels by label; background only where nothing else is known."""
    known = np.argwhere(labels != UNLABELLED)
    values = labels[tuple(known.T)]
    present = [int(value) for value in np.unique(values) if value > 0]
    if not present:
        return {0: known} if len(known) else {}
    return {value: known[values == value] for value in present}


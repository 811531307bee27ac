"""How objects are found again is learned too: another kind of objects has another size and other necks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg.instances import Decoder
from mambaseg.learn.around import box_around, segment_around
from mambaseg.learn.examples import Example
from mambaseg.metrics import f1
from mambaseg.models import Model
from mambaseg.progress import Progress, ProgressCallback
from mambaseg.segmentation.match import match_spacing
from mambaseg.segmentation.run import labels_from
from mambaseg.train.sample import UNLABELLED

__all__ = ["fit_decoder", "smallest_size"]

_FEWEST_OBJECTS = 2  # of fewer nothing is concluded
_MOST_IMAGES = 8  # those with most labels
_SHARE_OF_MEDIAN = 0.25  # of the corrected objects' size: what is smaller is debris; see docs/learning.md
_MOST_SMALLER = 5  # per cent of the corrected objects
_SPLITS = (0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75)
_LEAST_GAIN = 0.05  # of F1, for which the parent's setting is given up, and no further than that takes


def fit_decoder(model: Model, examples: Sequence[Example], labels: Sequence[NDArray[np.int32]], device: str = "auto",
                progress: ProgressCallback | None = None) -> dict[str, Any] | None:
    """Settings of `mambaseg.instances.Decoder` for objects like the corrected ones.

    The smallest size follows from the sizes of the objects, the strength of splitting from which one finds them best in
    what the network answers where they lie.

    Parameters
    ----------
    model : fine-tuned and saved; its own settings are returned where nothing can be concluded
    labels : sparse labels of each example, those kept aside left out
    progress : called for every window

    Raises
    ------
    Cancelled : as raised by `progress`
    """
    if model.kind != "instances":
        return model.decoder
    size = smallest_size(model, examples, labels)
    if size is None:
        return model.decoder
    start = {**(model.decoder or {}), "min_size": size}
    alone = model.alone()
    own = float(start.get("split", Decoder.split))
    scores = dict.fromkeys((own, *_SPLITS), 0.0)
    with_objects = [index for index, array in enumerate(labels) if (array > 0).any()]
    order = sorted(with_objects, key=lambda index: -int((labels[index] > 0).sum()))[:_MOST_IMAGES]
    for done, index in enumerate(order):
        update = Progress("Fitting", done, len(order), "how objects are told apart")
        box = box_around(labels[index] != UNLABELLED, model)
        found = segment_around(alone, examples[index].image, box, update, device, progress, keep_probabilities=True)
        inside = (slice(None), *(slice(*side) for side in box))
        answers = np.ascontiguousarray(np.asarray(found.probabilities)[inside])
        spacing = match_spacing(examples[index].image, model, [])
        for split in scores:
            other = dataclasses.replace(model, decoder=start | {"split": split})
            scores[split] += _agreement(labels[index][inside[1:]], labels_from(answers, other, spacing))
    return start | {"split": _nearest_good(scores, own, _LEAST_GAIN * len(order))}


def _nearest_good(scores: Mapping[float, float], own: float, tolerance: float) -> float:
    """The setting nearest to `own` of those whose score is within `tolerance` of the best."""
    good = [split for split in scores if scores[split] >= max(scores.values()) - tolerance]
    return min(good, key=lambda split: (round(abs(split - own), 6), -scores[split]))


def smallest_size(model: Model, examples: Sequence[Example], labels: Sequence[NDArray[np.int32]]) -> float | None:
    """A share of the median object, but such that one in twenty is smaller at most; None where there are too few.

    Objects that the edge of the picture cuts do not count. In voxels, or in the unit of the model's spacing; of a 2-D
    model in a volume of the objects' pieces in slices.
    """
    sizes: list[float] = []
    ndim = model.plan.ndim
    for example, array in zip(examples, labels, strict=True):
        spacing = match_spacing(example.image, model, [])
        voxel = 1.0 if spacing is None else float(np.prod(spacing[-ndim:]))
        for plane in array if array.ndim > ndim else array[None]:
            numbers, counts = np.unique(plane[plane > 0], return_counts=True)
            faces = [plane.take((0, -1), axis) for axis in range(ndim)]
            cut = np.unique(np.concatenate([face.ravel() for face in faces]))
            sizes += [voxel * count for count in counts[~np.isin(numbers, cut)].tolist()]
    if len(sizes) < _FEWEST_OBJECTS:
        return None
    return min(_SHARE_OF_MEDIAN * float(np.median(sizes)), float(np.percentile(sizes, _MOST_SMALLER)))


def _agreement(truth: NDArray[np.int32], found: NDArray[Any]) -> float:
    """F1 at IoU 0.5 of the objects that lie mostly where something is labelled."""
    known = truth != UNLABELLED
    sizes = np.bincount(found.ravel())
    looked_at = 2 * np.bincount(found.ravel(), known.ravel()) >= sizes
    looked_at[0] = False
    return f1(np.maximum(truth, 0), np.where(looked_at[found], found, 0))

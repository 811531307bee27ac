"""Dice, IoU and their kin from counts, with the conventions for empty masks named."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg._errors import UserError

__all__ = ["Convention", "Counts", "binary_scores", "class_counts", "confusion", "dice", "iou", "rates",
           "truth_slices"]


class Convention(StrEnum):
    """What a score is where truth, prediction or both are empty; with something in both, all agree.

    ======== ============ ================= ================= =========================================================
    value    both empty   truth empty only  prediction empty  source
    ======== ============ ================= ================= =========================================================
    nnunet   NaN          0                 0                 nnU-Net 2 (means over cases skip NaN)
    umamba   1            0                 0                 evaluation of the U-Mamba authors, arXiv:2401.04722
    pooled   0            0                 0                 VM-UNet, VM-UNetV2: one count over all pictures of a set
    synapse  0            1                 0                 Synapse multi-organ, as TransUNet and VM-UNet score it
    ======== ============ ================= ================= =========================================================
    """

    NNUNET = "nnunet"
    UMAMBA = "umamba"
    POOLED = "pooled"
    SYNAPSE = "synapse"


@dataclass(frozen=True)
class Counts:
    """Voxels of one class: found, wrongly found, missed, rightly left out. Counts of several pictures may be added."""

    tp: int
    fp: int
    fn: int
    tn: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn)

    @property
    def n_truth(self) -> int:
        """Voxels of the class in the truth."""
        return self.tp + self.fn

    @property
    def n_prediction(self) -> int:
        """Voxels of the class in the prediction."""
        return self.tp + self.fp


def confusion(truth: NDArray[Any], prediction: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> Counts:
    """Counts of two masks of the same shape (not zero: in the class); voxels where `valid` is False are left out."""
    return class_counts(truth != 0, prediction != 0, [1], valid)[1]


def class_counts(truth: NDArray[Any], prediction: NDArray[Any], classes: Iterable[int],
                 valid: NDArray[np.bool_] | None = None) -> dict[int, Counts]:
    """Counts of each class against all the rest.

    Parameters
    ----------
    truth, prediction : integer or boolean classes of the same shape
    classes : the classes asked for; they need not occur
    valid : boolean; voxels where it is False are left out (an ignore label in the truth); None: all count

    Raises
    ------
    UserError : shapes differ
    """
    if truth.shape != prediction.shape:
        raise UserError(f"The true labels have shape {truth.shape} and the predicted ones {prediction.shape}; "
                        "compare label images of the same picture, on the same grid.")
    if valid is not None:
        truth, prediction = truth[valid], prediction[valid]
    counts = {}
    for number in classes:
        in_truth, in_prediction = truth == number, prediction == number
        tp = int(np.count_nonzero(in_truth & in_prediction))
        fn, fp = int(np.count_nonzero(in_truth)) - tp, int(np.count_nonzero(in_prediction)) - tp
        counts[number] = Counts(tp, fp, fn, truth.size - tp - fp - fn)
    return counts


def dice(counts: Counts, convention: Convention | str = Convention.NNUNET) -> float:
    """2 TP / (2 TP + FP + FN); see `Convention` for empty masks."""
    return _share(2 * counts.tp, counts.fp + counts.fn, Convention(convention), counts)


def iou(counts: Counts, convention: Convention | str = Convention.NNUNET) -> float:
    """TP / (TP + FP + FN); see `Convention` for empty masks."""
    return _share(counts.tp, counts.fp + counts.fn, Convention(convention), counts)


def _share(agreed: int, wrong: int, convention: Convention, counts: Counts) -> float:
    if convention is Convention.SYNAPSE and not counts.n_truth:
        return float(counts.n_prediction > 0)
    if agreed + wrong:
        return agreed / (agreed + wrong)
    return {Convention.NNUNET: math.nan, Convention.UMAMBA: 1.0}.get(convention, 0.0)


def rates(counts: Counts) -> dict[str, float]:
    """Shares of voxels that were told rightly; NaN where a denominator is 0.

    Returns
    -------
    sensitivity TP / (TP + FN), specificity TN / (TN + FP), accuracy (TP + TN) / all, and mae (FP + FN) / all, the mean
    absolute error of two masks of 0 and 1
    """
    def share(part: int, whole: int) -> float:
        return part / whole if whole else math.nan

    n_voxels = counts.tp + counts.fp + counts.fn + counts.tn
    return {"sensitivity": share(counts.tp, counts.n_truth), "specificity": share(counts.tn, counts.tn + counts.fp),
            "accuracy": share(counts.tp + counts.tn, n_voxels), "mae": share(counts.fp + counts.fn, n_voxels)}


def binary_scores(counts: Counts) -> dict[str, float]:
    """The five figures of the VM-UNet papers from one pooled count; 0 where a denominator is 0.

    Returns
    -------
    miou (of the foreground alone), dsc, accuracy, sensitivity, specificity
    """
    def share(part: int, whole: int) -> float:
        return part / whole if whole else 0.0

    return {"miou": iou(counts, Convention.POOLED), "dsc": dice(counts, Convention.POOLED),
            "accuracy": share(counts.tp + counts.tn, counts.tp + counts.tn + counts.fp + counts.fn),
            "sensitivity": share(counts.tp, counts.n_truth),
            "specificity": share(counts.tn, counts.tn + counts.fp)}


def truth_slices(truth: NDArray[Any], axis: int) -> slice:
    """The slices along `axis` on which the U-Mamba authors score tubular organs (aorta, vena cava, oesophagus).

    From the first slice with the mask `truth` up to, but without, the last: their range is half open, and the last
    slice is lost. An empty mask gives an empty slice.
    """
    others = tuple(other for other in range(truth.ndim) if other != axis % truth.ndim)
    present = np.flatnonzero(truth.any(axis=others))
    return slice(int(present[0]), int(present[-1])) if len(present) else slice(0, 0)

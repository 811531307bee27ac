"""Scores as the papers report them, with their quirks; nowhere else do these apply."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mambaseg._errors import UserError
from mambaseg.metrics._cases import Case
from mambaseg.metrics.distance import Surface, hd95, umamba_nsd
from mambaseg.metrics.matching import cells_f1
from mambaseg.metrics.overlap import Convention, Counts, binary_scores, confusion, dice, iou, truth_slices

__all__ = ["PROTOCOLS", "UMAMBA_CELLS", "Protocol"]

SMOOTH = 1e-5  # of U-Net v2's Dice and IoU
N_SYNAPSE = 8  # organs, labels 1 to 8
_TUBULAR = (5, 6, 10)  # aorta, vena cava, oesophagus among U-Mamba's labels
_ABDOMEN_MM = (5, 3, 3, 5, 2, 2, 2, 2, 2, 3, 5, 7, 3)  # NSD tolerances of labels 1 to 13
_ENDOSCOPY_PX = 2.0

Row = dict[str, Any]


class Protocol(NamedTuple):
    """How a paper scores.

    Parameters
    ----------
    score : case -> scores by class number, or under "" where a case has one row
    conventions : words for each score
    pool : counts of all pictures -> scores, where the paper pools them
    """

    score: Callable[[Case], dict[str, Row]]
    conventions: Mapping[str, str]
    pool: Callable[[Iterable[Case]], Row] | None = None


def _pooled(cases: Iterable[Case]) -> Row:
    """One confusion matrix over all pixels of all pictures."""
    counts = reduce(add, (confusion(case.truth, case.prediction) for case in cases), Counts(0, 0, 0, 0))
    return binary_scores(counts)


def _isic(case: Case) -> dict[str, Row]:
    counts = confusion(case.truth, case.prediction)
    return {"": {"dice": dice(counts), "iou": iou(counts)}}


def _polyp(case: Case) -> dict[str, Row]:
    counts = confusion(case.truth, case.prediction)
    overlap = (2 * counts.tp + SMOOTH) / (counts.n_truth + counts.n_prediction + SMOOTH)
    union = (counts.tp + SMOOTH) / (counts.tp + counts.fp + counts.fn + SMOOTH)
    return {"": {"dice": overlap, "iou": union, "mae": (counts.fp + counts.fn) / case.truth.size}}


def _synapse(case: Case) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for organ in range(1, N_SYNAPSE + 1):
        truth, prediction = case.truth == organ, case.prediction == organ
        distance = hd95(truth, prediction, surface=Surface.MEDPY)
        rows[str(organ)] = {"dice": dice(confusion(truth, prediction), Convention.SYNAPSE),
                            "hd95_voxels": 0.0 if math.isnan(distance) else distance}
    return rows


def _umamba(case: Case) -> dict[str, Row]:
    return _endoscopy(case) if case.truth.ndim == 2 else _abdomen(case)


def _abdomen(case: Case) -> dict[str, Row]:
    """The authors' CT and MR script: labels 1 to 13."""
    present = np.union1d(case.truth, case.prediction)
    if present[-1] > len(_ABDOMEN_MM):
        raise UserError(f"{case.name} has the label {present[-1]}, but U-Mamba's protocol for volumes knows the 13 "
                        "organs of its abdomen data; leave out --protocol.")
    rows: dict[str, Row] = {}
    for organ, tolerance in enumerate(_ABDOMEN_MM, 1):
        truth, prediction = case.truth == organ, case.prediction == organ
        if organ in _TUBULAR and truth.any():
            kept = truth_slices(truth, axis=0)  # files have the slices last, arrays first
            truth, prediction = truth[kept], prediction[kept]
        rows[str(organ)] = _umamba_scores(truth, prediction, tolerance, case.spacing)
    return rows


def _endoscopy(case: Case) -> dict[str, Row]:
    """The authors' script for pictures: the labels of each picture, the smallest taken for background."""
    labels = np.union1d(case.truth, case.prediction)[1:]
    rows = [_umamba_scores(case.truth == label, case.prediction == label, _ENDOSCOPY_PX, (1.0, 1.0))
            for label in labels]
    return {"": {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} if rows else
            {"dice": math.nan, "nsd": math.nan}}


def _umamba_scores(truth: NDArray[Any], prediction: NDArray[Any], tolerance: float,
                   spacing: tuple[float, ...]) -> Row:
    """Dice and NSD, rounded to four digits as the authors do."""
    if not truth.size:  # an organ in a single slice, which is lost
        return {"dice": math.nan, "nsd": math.nan}
    return {"dice": round(dice(confusion(truth, prediction), Convention.UMAMBA), 4),
            "nsd": round(umamba_nsd(truth, prediction, tolerance, spacing), 4)}


def _cells(case: Case) -> dict[str, Row]:
    found = cells_f1(case.truth, case.prediction)
    return {"": {"f1@0.5": found.f1, "precision@0.5": found.precision, "recall@0.5": found.recall}}


_GRID = "labels as given; the authors score at 256 x 256"
_POOLED_WORDS = f"one count over all pixels of all pictures, as VM-UNet and VM-UNetV2; 0 where there is none; {_GRID}"
PROTOCOLS: dict[str, Protocol] = {
    "isic": Protocol(_isic, {
        "pooled": f"{_POOLED_WORDS}; miou is that of the foreground alone",
        "dice": "per picture, null where truth and prediction are empty, as U-Net v2's authors (nnU-Net)",
        "iou": "per picture, likewise"}, _pooled),
    "polyp": Protocol(_polyp, {
        "pooled": f"{_POOLED_WORDS}; miou is that of the foreground alone",
        "dice": "per picture with 1e-5 added above and below the line, so 1 where both are empty, as U-Net v2's "
                "authors; not the mean over 256 thresholds of other polyp papers",
        "iou": "per picture, likewise", "mae": "of the masks, as U-Net v2's training log; not of soft maps"}, _pooled),
    "synapse": Protocol(_synapse, {
        "dice": "of the organs 1 to 8 of each volume; 0 where both are empty, 1 where only the truth is",
        "hd95_voxels": "95th percentile of both directions pooled (medpy) in voxels, spacing 1; 0 where one is empty"}),
    "umamba": Protocol(_umamba, {
        "dice": "1 where both are empty, 0 where the truth is; of aorta, vena cava and oesophagus only the slices from "
                "their first to the one before their last; rounded to four digits",
        "nsd": "volumes: DeepMind's surface, tolerances of 2 to 7 mm by organ; pictures: 2 px, each taken for "
               "a volume of one slice whose flat faces count, which raises the score"}),
}
UMAMBA_CELLS = Protocol(_cells, {
    "f1@0.5": "of objects, without those that touch the two outermost pixels; tiles of 2000 px from 25 million pixels "
              "on; 0 when nothing matches; as the U-Mamba authors score cells"})

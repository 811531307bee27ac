"""Scores of many predictions at once, per picture and in the mean."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, get_args

import numpy as np

from mambaseg._errors import UserError
from mambaseg.metrics._cases import Case, Cases, Labels, pair
from mambaseg.metrics.distance import hd95, nsd
from mambaseg.metrics.matching import Matching, average_precision, cells_f1, match_instances, pooled
from mambaseg.metrics.overlap import Convention, class_counts, confusion, dice, iou

__all__ = ["evaluate"]

Kind = Literal["auto", "classes", "instances"]

MAX_CLASSES_SURE, MIN_INSTANCES_SURE = 5, 21

Row = dict[str, Any]  # plain JSON values by score


def evaluate(truth: Labels | Sequence[Labels], prediction: Labels | Sequence[Labels], kind: Kind = "auto", *,
             convention: Convention | str = Convention.NNUNET, ignore_label: int | None = None,
             iou_threshold: float = 0.5, distances: bool = False, tolerance: float = 1.0) -> dict[str, Any]:
    """Scores of predictions against the truth, each with its convention named.

    Parameters
    ----------
    truth, prediction : labels as array, `Image` or file; a sequence of them in the same order; or two folders, whose
        files are matched by name (a prediction may end in `_labels`)
    kind : "classes" (the same number means the same thing everywhere), "instances" (one number an object) or "auto":
        classes up to 5 different numbers in a picture, instances from 21
    convention : what Dice and IoU of classes are where a mask is empty
    ignore_label : number in the truth that marks voxels to leave out (classes only)
    iou_threshold : from this IoU on, a predicted object is a true one (instances only)
    distances : also HD95 and normalised surface Dice (classes only; takes much longer)
    tolerance : of the surface Dice, in the unit of the labels' grid

    Returns
    -------
    dict of plain JSON values; None where a score is not defined. `kind`; `conventions`: words for each score; `cases`:
    one dict a picture; `mean`: mean over the pictures, without those where a score is not defined. Classes: scores
    stand under `classes` by class number, and `foreground_mean` is the plain mean over the classes. Instances: also
    `pooled`, where the objects of all pictures count as one set.

    Raises
    ------
    UserError : kind unknown or not to be told; shapes differ; labels are not whole numbers
    DatasetError : a truth without a prediction
    """
    cases = pair(truth, prediction)
    if kind not in get_args(Kind):
        raise UserError(f'Predictions cannot be scored as "{kind}"; choose one of {", ".join(get_args(Kind))}.')
    if kind == "instances":
        return _evaluate_instances(cases, iou_threshold)
    present = [_labels_present(case) for case in cases]
    if kind == "auto" and _guess(max(map(len, present))) == "instances":
        return _evaluate_instances(cases, iou_threshold)
    numbers = sorted(set[int]().union(*present) - {ignore_label})
    surface_tolerance = tolerance if distances else None
    return _evaluate_classes(cases, numbers, Convention(convention), ignore_label, surface_tolerance)


def _labels_present(case: Case) -> set[int]:
    """Numbers other than 0 in the truth or the prediction."""
    return (set(np.unique(case.truth).tolist()) | set(np.unique(case.prediction).tolist())) - {0}


def _guess(n_labels: int) -> Kind:
    if MAX_CLASSES_SURE < n_labels < MIN_INSTANCES_SURE:
        raise UserError(f"With up to {n_labels} different numbers in a picture, the labels may be classes or "
                        'instances; say which: kind "classes" or "instances".')
    return "classes" if n_labels <= MAX_CLASSES_SURE else "instances"


def _evaluate_instances(cases: Cases, threshold: float) -> dict[str, Any]:
    rows: list[Row] = []
    matchings: list[Matching] = []
    for case in cases:
        matchings.append(match_instances(case.truth, case.prediction, threshold))
        rows.append({"case": case.name, **_instance_scores(case, matchings[-1])})
    return {"kind": "instances", "conventions": _instance_conventions(threshold), "cases": rows, "mean": _mean(rows),
            "pooled": _matching_scores(pooled(matchings))}


def _instance_scores(case: Case, matching: Matching) -> Row:
    precisions = average_precision(case.truth, case.prediction)
    return {
        **_matching_scores(matching),
        f"umamba_cells_f1@{matching.threshold:g}": cells_f1(case.truth, case.prediction, matching.threshold).f1,
        **{f"ap@{threshold:g}": value for threshold, value in precisions.items()},
        "mean_ap": float(np.mean(list(precisions.values()))),
        "dice": _plain(dice(confusion(case.truth, case.prediction))),
    }


def _matching_scores(matching: Matching) -> Row:
    at = f"@{matching.threshold:g}"
    return {"n_truth": matching.n_truth, "n_prediction": matching.n_prediction,
            f"tp{at}": matching.tp, f"fp{at}": matching.fp, f"fn{at}": matching.fn,
            f"precision{at}": matching.precision, f"recall{at}": matching.recall, f"f1{at}": matching.f1}


def _instance_conventions(threshold: float) -> dict[str, str]:
    at = f"@{threshold:g}"
    return {
        f"f1{at}": f"2 TP / (2 TP + FP + FN) of objects, Hungarian matching, a pair counts from IoU {threshold:g} on, "
                   "all objects, 0 when nothing matches",
        f"umamba_cells_f1{at}": "the same without objects that touch the two outermost pixels, as the U-Mamba authors "
                                "score cells (tiles of 2000 px from 25 million pixels on)",
        "ap": "TP / (TP + FP + FN) of objects at one IoU threshold, as StarDist and the Data Science Bowl 2018",
        "mean_ap": "mean of ap over the IoU thresholds 0.5, 0.55, ... 0.95",
        "dice": "all objects as one foreground; null where truth and prediction are empty",
        "mean": "plain mean over pictures, null left out",
        "pooled": "objects of all pictures as one set",
    }


def _evaluate_classes(cases: Cases, numbers: Iterable[int], convention: Convention, ignore_label: int | None,
                      tolerance: float | None) -> dict[str, Any]:
    numbers = list(numbers)
    rows: list[Row] = []
    for case in cases:
        valid = None if ignore_label is None else case.truth != ignore_label
        counts = class_counts(case.truth, case.prediction, numbers, valid)
        classes = {str(number): {
            "dice": _plain(dice(count, convention)), "iou": _plain(iou(count, convention)), **asdict(count),
            "n_truth": count.n_truth, "n_prediction": count.n_prediction,
            **({} if tolerance is None else _distance_scores(case, number, tolerance)),
        } for number, count in counts.items()}
        rows.append({"case": case.name, "classes": classes, "unit": case.unit})
    mean = {str(number): _mean([row["classes"][str(number)] for row in rows]) for number in numbers}
    return {"kind": "classes", "conventions": _class_conventions(convention, tolerance), "cases": rows,
            "mean": {"classes": mean}, "foreground_mean": _mean(list(mean.values()))}


def _distance_scores(case: Case, number: int, tolerance: float) -> Row:
    truth, prediction = case.truth == number, case.prediction == number
    return {"hd95": _plain(hd95(truth, prediction, case.spacing)),
            f"nsd@{tolerance:g}": _plain(nsd(truth, prediction, tolerance, case.spacing))}


def _class_conventions(convention: Convention, tolerance: float | None) -> dict[str, str]:
    empty = {Convention.NNUNET: "null where both are empty", Convention.UMAMBA: "1 where both are empty",
             Convention.POOLED: "0 where both are empty",
             Convention.SYNAPSE: "0 where both are empty, 1 where only the truth is"}[convention]
    words = {"dice": f"2 TP / (2 TP + FP + FN) of voxels, convention {convention.value}: {empty}",
             "iou": f"TP / (TP + FP + FN) of voxels, convention {convention.value}: {empty}",
             "mean": "by class: plain mean over pictures, null left out",
             "foreground_mean": "plain mean over classes of the mean over pictures"}
    if tolerance is not None:
        words["hd95"] = ("surface elements between voxels weighted by area (as DeepMind), larger of the two directed "
                         "95 % quantiles, in the unit of the case; null where one is empty")
        words[f"nsd@{tolerance:g}"] = (f"share of both surfaces within {tolerance:g} (unit of the case) of the other, "
                                       "as DeepMind; 0 where one is empty, null where both are")
    return words


def _mean(rows: Sequence[Mapping[str, Any]]) -> Row:
    """Mean of each number over the rows; None and words are left out."""
    mean: Row = {}
    for key in rows[0] if rows else ():
        values = [row[key] for row in rows if isinstance(row[key], int | float)]
        if values or rows[0][key] is None:
            mean[key] = float(np.mean(values)) if values else None
    return mean


def _plain(score: float) -> float | None:
    return score if math.isfinite(score) else None

"""Scores of many predictions at once, per picture and in the mean."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mambaseg._errors import UserError
from mambaseg.metrics._cases import Case, Cases, Labels, pair
from mambaseg.metrics.distance import SurfaceDistances
from mambaseg.metrics.interval import bootstrap
from mambaseg.metrics.matching import Matching, average_precision, cells_f1, match_instances, pooled
from mambaseg.metrics.overlap import Convention, confusion, dice, iou, rates
from mambaseg.metrics.protocols import PROTOCOLS, UMAMBA_CELLS
from mambaseg.progress import Clock, Progress, ProgressCallback, report

__all__ = ["evaluate", "is_count"]

Kind = Literal["auto", "classes", "instances"]

MAX_CLASSES_SURE, MIN_INSTANCES_SURE = 5, 21

Row = dict[str, Any]  # plain JSON values by score

_MEAN_WORDS = {"mean": "by class: plain mean over pictures, null left out",
               "foreground_mean": "plain mean over classes of the mean over pictures",
               "interval": "middle 95 % of the mean over 2000 sets of pictures drawn with replacement (bootstrap)"}


def evaluate(truth: Labels | Sequence[Labels], prediction: Labels | Sequence[Labels], kind: Kind = "auto", *,
             convention: Convention | str = Convention.NNUNET, ignore_label: int | None = None,
             iou_threshold: float = 0.5, distances: bool = False, tolerance: float = 1.0,
             regions: Mapping[str, Sequence[int]] | None = None, protocol: str | None = None,
             progress: ProgressCallback | None = None) -> dict[str, Any]:
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
    distances : also HD95, mean surface distance and normalised surface Dice (classes only; takes much longer)
    tolerance : of the surface Dice, in the unit of the labels' grid
    regions : name -> label values: scores of these unions, which may overlap, instead of each class (classes only)
    protocol : score as a paper does, quirks included: a name in `mambaseg.metrics.protocols.PROTOCOLS`. The options
        above, but for `kind`, then do not apply
    progress : called after each picture

    Returns
    -------
    dict of plain JSON values; None where a score is not defined. `kind`; `protocol`; `conventions`: words for each
    score; `cases`: one dict a picture; `mean`: mean over the pictures, without those where a score is not defined;
    `interval`: 95 % bootstrap interval of each mean, None with fewer than two pictures. Classes: scores stand under
    `classes` by class number, and `foreground_mean` (`foreground_interval`) is the plain mean over the classes.
    Instances: also `pooled` (`pooled_interval`), where the objects of all pictures count as one set.

    Raises
    ------
    UserError : kind or protocol unknown or not to be told; shapes differ; labels are not whole numbers
    DatasetError : a truth without a prediction
    """
    cases = pair(truth, prediction)
    if kind not in get_args(Kind):
        raise UserError(f'Predictions cannot be scored as "{kind}"; choose one of {", ".join(get_args(Kind))}.')
    if protocol is not None:
        return _evaluate_protocol(cases, kind, protocol, progress)
    if kind == "instances":
        return _evaluate_instances(cases, iou_threshold, progress)
    if regions is None:
        present = [_labels_present(case) for case in cases]
        if kind == "auto" and _guess(max(map(len, present))) == "instances":
            return _evaluate_instances(cases, iou_threshold, progress)
        regions = {str(number): (number,) for number in sorted(set[int]().union(*present) - {ignore_label})}
    surface_tolerance = tolerance if distances else None

    def score(case: Case) -> Row:
        valid = None if ignore_label is None else case.truth != ignore_label
        return {name: _class_scores(np.isin(case.truth, values), np.isin(case.prediction, values), valid, case.spacing,
                                    Convention(convention), surface_tolerance) for name, values in regions.items()}

    rows = [{"case": case.name, "classes": row, "unit": case.unit} for case, row in _scored(cases, score, progress)]
    return _of_classes(rows, _class_conventions(Convention(convention), surface_tolerance))


def _scored(cases: Cases, score: Callable[[Case], Row],
            progress: ProgressCallback | None) -> Iterator[tuple[Case, Row]]:
    """Each case with its scores."""
    clock = Clock(len(cases))
    for done, case in enumerate(cases, 1):
        yield case, score(case)
        report(progress, Progress("Scoring", done, len(cases), case.name, seconds_left=clock.seconds_left(done)))


def _evaluate_protocol(cases: Cases, kind: Kind, name: str, progress: ProgressCallback | None) -> dict[str, Any]:
    """Scores by a paper's protocol."""
    if name not in PROTOCOLS:
        raise UserError(f'There is no protocol "{name}"; choose one of {", ".join(PROTOCOLS)}.')
    protocol = PROTOCOLS[name]
    if name == "umamba" and (kind == "instances" or (kind == "auto" and _are_instances(cases))):
        protocol = UMAMBA_CELLS
    rows = list(_scored(cases, protocol.score, progress))
    conventions = {**protocol.conventions, **_MEAN_WORDS}
    if all(set(row) == {""} for _, row in rows):
        flat = [{"case": case.name, **{key: _plain(value) for key, value in row[""].items()}} for case, row in rows]
        found = {"kind": "pictures", "conventions": conventions, "cases": flat, "mean": _mean(flat),
                 "interval": _intervals(flat)}
    else:
        plain = [{"case": case.name, "unit": case.unit, "classes": {
            number: {key: _plain(value) for key, value in scores.items()} for number, scores in row.items()}}
            for case, row in rows]
        found = _of_classes(plain, conventions)
    return found | {"protocol": name} | ({"pooled": protocol.pool(cases)} if protocol.pool else {})


def _are_instances(cases: Cases) -> bool:
    """Whether some picture has more numbers than classes would."""
    return _guess(max(len(_labels_present(case)) for case in cases)) == "instances"


def _labels_present(case: Case) -> set[int]:
    """Numbers other than 0 in the truth or the prediction."""
    return (set(np.unique(case.truth).tolist()) | set(np.unique(case.prediction).tolist())) - {0}


def _guess(n_labels: int) -> Kind:
    if MAX_CLASSES_SURE < n_labels < MIN_INSTANCES_SURE:
        raise UserError(f"With up to {n_labels} different numbers in a picture, the labels may be classes or "
                        'instances; say which: kind "classes" or "instances".')
    return "classes" if n_labels <= MAX_CLASSES_SURE else "instances"


def _evaluate_instances(cases: Cases, threshold: float, progress: ProgressCallback | None) -> dict[str, Any]:
    matchings: list[Matching] = []

    def score(case: Case) -> Row:
        matchings.append(match_instances(case.truth, case.prediction, threshold))
        return _instance_scores(case, matchings[-1])

    rows = [{"case": case.name, **row} for case, row in _scored(cases, score, progress)]
    return {"kind": "instances", "protocol": None, "conventions": _instance_conventions(threshold), "cases": rows,
            "mean": _mean(rows), "interval": _intervals(rows), "pooled": _matching_scores(pooled(matchings)),
            "pooled_interval": {f"f1@{threshold:g}": bootstrap(_object_counts(matchings), _pooled_f1)}}


def _object_counts(matchings: Sequence[Matching]) -> NDArray[np.float64]:
    """Matched pairs, true and predicted objects of each picture."""
    return np.array([(m.tp, m.n_truth, m.n_prediction) for m in matchings], dtype=float).reshape(-1, 3)


def _pooled_f1(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """F1 of the objects of all pictures, (draw, picture, 3) -> (draw,)."""
    pairs, truths, predictions = np.moveaxis(counts.sum(axis=-2), -1, 0)
    return np.asarray(2 * pairs / np.maximum(truths + predictions, 1))


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
        "mean": "plain mean over pictures, null left out", "interval": _MEAN_WORDS["interval"],
        "pooled": "objects of all pictures as one set",
    }


def _class_scores(truth: NDArray[np.bool_], prediction: NDArray[np.bool_], valid: NDArray[np.bool_] | None,
                  spacing: Sequence[float], convention: Convention, tolerance: float | None) -> Row:
    """All scores of one class in one case."""
    count = confusion(truth, prediction, valid)
    row: Row = {"dice": dice(count, convention), "iou": iou(count, convention), **rates(count)}
    if tolerance is not None:
        if valid is not None:
            prediction = np.where(valid, prediction, truth)  # what does not count shall not make a distance either
        distances = SurfaceDistances.measure(truth, prediction, spacing)
        row |= {"hd95": distances.hd95(), "assd": distances.assd(), f"nsd@{tolerance:g}": distances.nsd(tolerance)}
    return {**{key: _plain(value) for key, value in row.items()}, **asdict(count), "n_truth": count.n_truth,
            "n_prediction": count.n_prediction}


def _of_classes(rows: list[Row], conventions: Mapping[str, str]) -> dict[str, Any]:
    """Means and intervals over the rows of the cases, by class and over the classes."""
    numbers = list(rows[0]["classes"]) if rows else []
    by_class = {number: [row["classes"][number] for row in rows] for number in numbers}
    mean = {number: _mean(scores) for number, scores in by_class.items()}
    names = [name for name in (rows[0]["classes"][numbers[0]] if numbers else ()) if not is_count(name)]
    overall = {name: bootstrap(np.column_stack([_column(by_class[number], name) for number in numbers]))
               for name in names}
    return {"kind": "classes", "protocol": None, "conventions": dict(conventions), "cases": rows,
            "mean": {"classes": mean},
            "interval": {"classes": {number: _intervals(scores) for number, scores in by_class.items()}},
            "foreground_mean": _mean(list(mean.values())), "foreground_interval": overall}


def _intervals(rows: Sequence[Mapping[str, Any]]) -> Row:
    """Bootstrap interval of the mean of each score over the rows; counts have none."""
    first = rows[0].items() if rows else ()
    names = [name for name, value in first if not isinstance(value, str) and not is_count(name)]
    return {name: bootstrap(_column(rows, name)[:, None]) for name in names}


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> NDArray[np.float64]:
    """A score of each row, NaN where it is not defined."""
    return np.array([math.nan if row[name] is None else row[name] for row in rows], dtype=float)


def is_count(name: str) -> bool:
    """Whether a score is a number of voxels or objects, of which a mean says little."""
    return name.startswith(("n_", "tp", "fp", "fn", "tn"))


def _class_conventions(convention: Convention, tolerance: float | None) -> dict[str, str]:
    empty = {Convention.NNUNET: "null where both are empty", Convention.UMAMBA: "1 where both are empty",
             Convention.POOLED: "0 where both are empty",
             Convention.SYNAPSE: "0 where both are empty, 1 where only the truth is"}[convention]
    words = {"dice": f"2 TP / (2 TP + FP + FN) of voxels, convention {convention.value}: {empty}",
             "iou": f"TP / (TP + FP + FN) of voxels, convention {convention.value}: {empty}",
             "sensitivity": "TP / (TP + FN) of voxels, null where the truth is empty",
             "specificity": "TN / (TN + FP) of voxels",
             "accuracy": "(TP + TN) / all voxels", "mae": "(FP + FN) / all voxels: mean absolute error of the masks",
             **_MEAN_WORDS}
    if tolerance is not None:
        words["hd95"] = ("surface elements between voxels weighted by area (as DeepMind), larger of the two directed "
                         "95 % quantiles, in the unit of the case; null where one is empty")
        words["assd"] = ("mean distance of both surfaces to the other by area (as DeepMind), in the unit of the case; "
                         "null where one is empty")
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

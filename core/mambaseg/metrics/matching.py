"""Which predicted object is which true object: F1, precision, recall and average precision of instances."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from mambaseg._errors import UserError

__all__ = ["AP_THRESHOLDS", "Matching", "Overlaps", "average_precision", "cells_f1", "f1", "match_instances",
           "overlaps", "pooled", "precision", "recall", "remove_frame"]

AP_THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""0.5, 0.55, ... 0.95: the thresholds of the 2018 Data Science Bowl (doi:10.1038/s41592-019-0612-7)."""

TILE_PX = 2000
TILED_FROM_PX = 25_000_000


@dataclass(frozen=True)
class Overlaps:
    """Objects of two label images and the pairs that share voxels.

    Parameters
    ----------
    truth_ids, prediction_ids : the labels present, ascending, without 0
    truth_index, prediction_index : positions in them, one entry a pair that overlaps
    iou : intersection over union of those pairs, in (0, 1]
    """

    truth_ids: NDArray[np.int64]
    prediction_ids: NDArray[np.int64]
    truth_index: NDArray[np.int64]
    prediction_index: NDArray[np.int64]
    iou: NDArray[np.float64]


@dataclass(frozen=True)
class Matching:
    """One-to-one pairs of objects whose IoU reaches a threshold.

    Parameters
    ----------
    threshold : IoU that a pair must reach
    n_truth, n_prediction : objects compared
    pairs : int64, (pair, 2); true label, predicted label
    iou : float64, (pair,); at least `threshold`
    """

    threshold: float
    n_truth: int
    n_prediction: int
    pairs: NDArray[np.int64]
    iou: NDArray[np.float64]

    @property
    def tp(self) -> int:
        """Matched pairs."""
        return len(self.pairs)

    @property
    def fp(self) -> int:
        """Predicted objects without a partner."""
        return self.n_prediction - self.tp

    @property
    def fn(self) -> int:
        """True objects without a partner."""
        return self.n_truth - self.tp

    @property
    def precision(self) -> float:
        """TP / predicted objects; 0 when TP = 0."""
        return _share(self.tp, self.n_prediction)

    @property
    def recall(self) -> float:
        """TP / true objects; 0 when TP = 0."""
        return _share(self.tp, self.n_truth)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall; 0 when TP = 0."""
        return _share(2 * self.tp, self.n_truth + self.n_prediction)

    @property
    def average_precision(self) -> float:
        """TP / (TP + FP + FN) as StarDist and the Data Science Bowl use the word; 0 when TP = 0."""
        return _share(self.tp, self.tp + self.fp + self.fn)


def _share(part: int, whole: int) -> float:
    return part / whole if part else 0.0


def _as_index(labels: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels present (0 left out) and, per voxel, 0 or 1 + the position of its label among them."""
    flat = np.ravel(labels)
    if flat.size and (flat.min() < 0 or flat.max() > 4 * flat.size + 65536):  # a lookup table would not pay
        ids, inverse = np.unique(flat, return_inverse=True)
        is_object = ids != 0
        position = np.cumsum(is_object) * is_object
        return ids[is_object].astype(np.int64), position[inverse.reshape(-1)]
    present = np.bincount(flat.astype(np.intp), minlength=1) > 0
    present[0] = False
    return np.flatnonzero(present), (np.cumsum(present) * present)[flat]


def _check(truth: NDArray[Any], prediction: NDArray[Any]) -> None:
    if truth.shape != prediction.shape:
        raise UserError(f"The true labels have shape {truth.shape} and the predicted ones {prediction.shape}; "
                        "compare label images of the same picture, on the same grid.")
    for name, labels in (("true", truth), ("predicted", prediction)):
        if labels.dtype.kind not in "iub":
            raise UserError(f"The {name} labels are {labels.dtype} numbers, but labels are whole numbers; "
                            "convert the array to an integer type.")


def overlaps(truth: NDArray[Any], prediction: NDArray[Any]) -> Overlaps:
    """IoU of all pairs of objects that share voxels, through one sparse table.

    Parameters
    ----------
    truth, prediction : integer labels of the same shape; 0 is background

    Raises
    ------
    UserError : shapes differ, or an array does not hold whole numbers
    """
    _check(truth, prediction)
    truth_ids, rows = _as_index(truth)
    prediction_ids, columns = _as_index(prediction)
    n_columns = len(prediction_ids) + 1
    cells, counts = _count(rows * n_columns + columns, (len(truth_ids) + 1) * n_columns)
    rows, columns = np.divmod(cells, n_columns)
    truth_size = np.bincount(rows, counts, len(truth_ids) + 1)
    prediction_size = np.bincount(columns, counts, n_columns)
    shared = (rows > 0) & (columns > 0)
    rows, columns, counts = rows[shared], columns[shared], counts[shared]
    iou = counts / (truth_size[rows] + prediction_size[columns] - counts)
    return Overlaps(truth_ids, prediction_ids, rows - 1, columns - 1, iou)


def _count(codes: NDArray[np.int64], n_codes: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The codes that occur and how often; a table where it is small, else a sort."""
    if n_codes <= 4 * codes.size + 65536:
        table = np.bincount(codes, minlength=n_codes)
        present = np.flatnonzero(table)
        return present, table[present]
    return np.unique(codes, return_counts=True)


def _assign(table: Overlaps, threshold: float) -> NDArray[np.intp]:
    """Positions in `table` of the matched pairs.

    The optimum maximises the number of pairs at or above `threshold` first and their IoU second. It falls apart into
    the connected parts of the graph of such pairs, so the Hungarian method only ever sees a handful of objects: above
    0.5 each part is a single pair, as two objects cannot both cover more than half of a third.
    """
    good = np.flatnonzero(table.iou >= threshold)
    rows, columns = table.truth_index[good], table.prediction_index[good]
    alone = (np.bincount(rows, minlength=1)[rows] == 1) & (np.bincount(columns, minlength=1)[columns] == 1)
    chosen = [good[alone]]
    good, rows, columns = good[~alone], rows[~alone], columns[~alone]
    if len(good):
        n = len(table.truth_ids)
        graph = coo_matrix((np.ones(len(good)), (rows, n + columns)), shape=(n + len(table.prediction_ids),) * 2)
        _, part = connected_components(graph, directed=False)
        order = np.argsort(part[rows], kind="stable")
        starts = np.flatnonzero(np.diff(part[rows][order])) + 1
        chosen += [group[_best(rows_columns, table.iou[group])] for group, rows_columns in (
            (good[at], (rows[at], columns[at])) for at in np.split(order, starts))]
    return np.sort(np.concatenate(chosen))


def _best(rows_columns: tuple[NDArray[np.int64], NDArray[np.int64]], iou: NDArray[np.float64]) -> NDArray[np.intp]:
    """The pairs of the best assignment within one connected part."""
    (rows, row), (columns, column) = (np.unique(index, return_inverse=True) for index in rows_columns)
    gain = np.zeros((len(rows), len(columns)))
    # a pair more is worth more than any gain in IoU: all IoU terms together stay below 1/2
    gain[row, column] = 1.0 + iou / (2 * min(gain.shape))
    at = np.full(gain.shape, -1, dtype=np.intp)
    at[row, column] = np.arange(len(iou))
    pairs: NDArray[np.intp] = at[linear_sum_assignment(gain, maximize=True)]
    return pairs[pairs >= 0]


def _matching(table: Overlaps, threshold: float) -> Matching:
    at = _assign(table, threshold)
    pairs = np.stack([table.truth_ids[table.truth_index[at]], table.prediction_ids[table.prediction_index[at]]], axis=1)
    return Matching(threshold, len(table.truth_ids), len(table.prediction_ids), pairs, table.iou[at])


def match_instances(truth: NDArray[Any], prediction: NDArray[Any], iou: float = 0.5, *, frame_px: int = 0) -> Matching:
    """The best one-to-one matching of predicted with true objects.

    Parameters
    ----------
    truth, prediction : integer labels of the same shape, 2-D or 3-D; 0 is background
    iou : a pair counts from this IoU on, in (0, 1]
    frame_px : leave out objects that touch the outermost pixels of this depth, in both label images; 0 keeps all

    Raises
    ------
    UserError : shapes differ, labels are not whole numbers, or `iou` is out of range

    Notes
    -----
    Number of pairs first, IoU second, as in the cell segmentation protocol of U-Mamba (arXiv:2401.04722) and Cellpose.
    """
    if not 0 < iou <= 1:
        raise UserError(f"The IoU threshold is {iou}, but a pair of objects can only be asked for more than 0 and "
                        "at most 1; 0.5 is usual.")
    if frame_px:
        truth, prediction = remove_frame(truth, frame_px), remove_frame(prediction, frame_px)
    return _matching(overlaps(truth, prediction), iou)


def average_precision(truth: NDArray[Any], prediction: NDArray[Any], thresholds: Iterable[float] = AP_THRESHOLDS, *,
                      frame_px: int = 0) -> dict[float, float]:
    """TP / (TP + FP + FN) at each IoU threshold; their plain mean is the "mean AP" of StarDist and the DSB 2018.

    It is not the area under a precision-recall curve: instances carry no ranking here. Arguments as `match_instances`.
    """
    if frame_px:
        truth, prediction = remove_frame(truth, frame_px), remove_frame(prediction, frame_px)
    table = overlaps(truth, prediction)
    return {threshold: _matching(table, threshold).average_precision for threshold in thresholds}


def f1(truth: NDArray[Any], prediction: NDArray[Any], iou: float = 0.5, *, frame_px: int = 0) -> float:
    """F1 of `match_instances`; 0 when nothing matches, also when both label images are empty."""
    return match_instances(truth, prediction, iou, frame_px=frame_px).f1


def precision(truth: NDArray[Any], prediction: NDArray[Any], iou: float = 0.5, *, frame_px: int = 0) -> float:
    """Share of predicted objects that match a true one; 0 when nothing matches."""
    return match_instances(truth, prediction, iou, frame_px=frame_px).precision


def recall(truth: NDArray[Any], prediction: NDArray[Any], iou: float = 0.5, *, frame_px: int = 0) -> float:
    """Share of true objects that a predicted one matches; 0 when nothing matches."""
    return match_instances(truth, prediction, iou, frame_px=frame_px).recall


def remove_frame(labels: NDArray[Any], frame_px: int = 2) -> NDArray[Any]:
    """A copy without the objects that touch the outermost `frame_px` pixels on any side."""
    if any(side <= 2 * frame_px for side in labels.shape):
        return np.zeros_like(labels)
    on_frame = np.ones(labels.shape, dtype=bool)
    on_frame[(slice(frame_px, -frame_px),) * labels.ndim] = False
    touching = np.unique(labels[on_frame])
    return np.where(np.isin(labels, touching), 0, labels).astype(labels.dtype)


def pooled(matchings: Iterable[Matching]) -> Matching:
    """Several matchings as one: counts summed, pairs one after the other (labels may repeat).

    Raises
    ------
    ValueError : there is none, or thresholds differ
    """
    parts = list(matchings)
    if len({part.threshold for part in parts}) != 1:
        raise ValueError(f"matchings must share one threshold, got {sorted({part.threshold for part in parts})}")
    return Matching(parts[0].threshold, sum(part.n_truth for part in parts), sum(part.n_prediction for part in parts),
                    np.concatenate([part.pairs for part in parts]), np.concatenate([part.iou for part in parts]))


def cells_f1(truth: NDArray[Any], prediction: NDArray[Any], iou: float = 0.5, *, frame_px: int = 2) -> Matching:
    """The protocol of the U-Mamba authors for cells, step by step.

    Objects that touch the two outermost pixels are left out of both label images. From 25 million pixels on, a picture
    is cut into tiles of 2000 x 2000 (padded with zeros), which are treated so one by one and whose counts are summed.

    Parameters
    ----------
    truth, prediction : integer labels of the same shape, (y, x); volumes are never tiled
    iou : a pair counts from this IoU on
    frame_px : depth of the frame; 0 keeps all objects (the protocol's other setting)

    Notes
    -----
    arXiv:2401.04722, after the NeurIPS 2022 cell segmentation challenge (doi:10.1038/s41592-024-02233-6).
    """
    _check(truth, prediction)
    if truth.ndim != 2 or truth.size < TILED_FROM_PX:
        return match_instances(truth, prediction, iou, frame_px=frame_px)
    tiles = zip(_tiles(truth), _tiles(prediction), strict=True)
    return pooled(match_instances(*pair, iou, frame_px=frame_px) for pair in tiles)


def _tiles(labels: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Tiles of 2000 x 2000, the last ones padded with zeros below and to the right."""
    for top in range(0, labels.shape[0], TILE_PX):
        for left in range(0, labels.shape[1], TILE_PX):
            tile = np.zeros((TILE_PX, TILE_PX), dtype=labels.dtype)
            part = labels[top:top + TILE_PX, left:left + TILE_PX]
            tile[:part.shape[0], :part.shape[1]] = part
            yield tile

"""Whether a model's labels get better when only the largest piece of a class is kept: nnU-Net's post-processing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg.instances import keep_largest_component
from mambaseg.metrics.interval import mean_over_pictures
from mambaseg.metrics.overlap import confusion, dice

__all__ = ["LEAST_CASES", "Groups", "largest_components"]

LEAST_CASES = 5  # held-out cases that can tell help from luck

Groups = tuple[tuple[int, ...], ...]
Labels = NDArray[Any]


def largest_components(truths: Sequence[Labels], predictions: Sequence[Labels], n_classes: int,
                       ignore_label: int | None = None) -> Groups:
    """Classes of which, group by group, only the largest piece should be kept.

    Parameters
    ----------
    truths, predictions : class numbers of held-out cases, (*spatial) each
    n_classes : with background
    ignore_label : number in the truth of voxels that do not count

    Returns
    -------
    All foreground classes as one group where that raises the mean Dice and lowers none; then each class whose own Dice
    rises. Empty with fewer than `LEAST_CASES` cases

    Notes
    -----
    nnU-Net's rule (doi:10.1038/s41592-020-01008-z), which it applies to a cross-validation.
    """
    foreground = tuple(range(1, n_classes))
    if len(truths) < LEAST_CASES or not foreground:
        return ()
    groups: list[tuple[int, ...]] = []
    kept = list(predictions)
    scores = _scores(truths, kept, foreground, ignore_label)
    tried = [keep_largest_component(labels, foreground) for labels in kept]
    new = _scores(truths, tried, foreground, ignore_label)
    if mean_over_pictures(new[None]) > mean_over_pictures(scores[None]) and not (new < scores).any():
        groups.append(foreground)
        kept, scores = tried, new
    for number in foreground if len(foreground) > 1 else ():
        tried = [keep_largest_component(labels, number) for labels in kept]
        new = _scores(truths, tried, foreground, ignore_label)
        if new[number - 1] > scores[number - 1]:
            groups.append((number,))
            kept, scores = tried, new
    return tuple(groups)


def _scores(truths: Sequence[Labels], predictions: Sequence[Labels], classes: Sequence[int],
            ignore_label: int | None) -> NDArray[np.float64]:
    """Mean Dice of each class over the cases; NaN where it is in none."""
    table = np.array([[dice(confusion(truth == number, labels == number,
                                      None if ignore_label is None else truth != ignore_label))
                       for number in classes] for truth, labels in zip(truths, predictions, strict=True)])
    return np.array([float(mean_over_pictures(table[:, [column]])) for column in range(len(classes))])

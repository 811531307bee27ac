"""How sure a mean over pictures is: bootstrap intervals."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SHARE", "bootstrap", "mean_over_pictures"]

SHARE = 0.95
_N_DRAWS = 2000
_SEED = 0
_MOST_NUMBERS = 2**22  # drawn at once

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def mean_over_pictures(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over the last but one axis of (..., picture, class) without NaN, then over the classes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of an empty mean, which is NaN as wanted
        mean: NDArray[np.float64] = np.nanmean(np.nanmean(values, axis=-2), axis=-1)
    return mean


def bootstrap(values: NDArray[Any], statistic: Statistic = mean_over_pictures) -> list[float] | None:
    """Interval that holds the middle 95 % of a score over pictures drawn anew with replacement, again and again.

    Parameters
    ----------
    values : (picture, class); NaN where a score is not defined
    statistic : takes (draw, picture, class) and gives a score for each draw

    Returns
    -------
    Lower and upper end; None with fewer than two pictures that have a score. Always the same for the same values

    Notes
    -----
    Percentile bootstrap, 2000 draws (Efron, doi:10.1214/aos/1176344552). It says how much the score depends on the
    choice of pictures, not on that of training pictures or seeds.
    """
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values).all(axis=1)]
    if len(values) < 2:
        return None
    random = np.random.default_rng(_SEED)
    n_at_once = max(1, min(_N_DRAWS, _MOST_NUMBERS // values.size))
    draws = [statistic(values[random.integers(len(values), size=(n_at_once, len(values)))])
             for _ in range(-(-_N_DRAWS // n_at_once))]
    return [float(end) for end in np.nanquantile(np.concatenate(draws), [(1 - SHARE) / 2, (1 + SHARE) / 2])]

"""Which cases train a network and which judge it: nnU-Net's folds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mambaseg._errors import UserError

__all__ = ["N_FOLDS", "Split", "folds", "split_of_fold"]

N_FOLDS = 5
_SEED = 12345


class Split(NamedTuple):
    """Names of the cases that are learned from, and of those held out."""

    train: list[str]
    val: list[str]


def folds(names: Sequence[str], n_folds: int = N_FOLDS) -> list[Split]:
    """The folds of a cross-validation as nnU-Net makes them: equal to its `splits_final.json`.

    Parameters
    ----------
    names : of all cases, any order; at least `n_folds`
    n_folds : parts of equal size, or one case more in the first ones

    Raises
    ------
    ValueError : fewer names than folds

    Notes
    -----
    scikit-learn's shuffled `KFold` with the seed 12345, over the names in alphabetical order.
    """
    ordered = sorted(names)
    if len(ordered) < n_folds:
        raise ValueError(f"{len(ordered)} cases cannot be split into {n_folds} folds")
    shuffled = np.random.RandomState(_SEED).permutation(len(ordered))  # the old generator, for the same draws
    made = []
    for part in np.array_split(shuffled, n_folds):
        held_out = {int(index) for index in part}
        made.append(Split([name for i, name in enumerate(ordered) if i not in held_out],
                          [name for i, name in enumerate(ordered) if i in held_out]))
    return made


def split_of_fold(names: Sequence[str], fold: int | str, splits: Sequence[Split] | None = None) -> Split:
    """One fold; beyond the last one a random four fifths of the cases train, as in nnU-Net.

    Parameters
    ----------
    names : of all cases
    fold : counted from 0; "all": every case trains and none is held out. nnU-Net then validates on what it learned
        from, which tells nothing
    splits : to choose from; None: `folds`

    Raises
    ------
    UserError : another word than "all"
    """
    if isinstance(fold, str):
        if fold != "all" and not fold.isdecimal():
            raise UserError(f'There is no fold "{fold}"; give a number from 0 on, or all.')
        if fold == "all":
            return Split(sorted(names), [])
        fold = int(fold)
    known = folds(names) if splits is None else splits
    if fold < len(known):
        return known[fold]
    ordered = sorted(names)
    drawn = np.random.RandomState(_SEED + fold).choice(len(ordered), int(0.8 * len(ordered)), replace=False)
    train = [ordered[i] for i in drawn]
    return Split(train, [name for name in ordered if name not in set(train)])

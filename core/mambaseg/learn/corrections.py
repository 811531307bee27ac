"""Corrections: what the user looked at in an image, as facts that no later prediction overwrites.

Three states a voxel: not looked at, confirmed ("this region is right"), corrected (differs from the prediction). In
an instance model an object with a corrected voxel is corrected as a whole: who moved a part of its outline has seen it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg._errors import UserError

__all__ = ["CONFIRMED", "CORRECTED", "NOT_LOOKED_AT", "Corrections", "Counts", "apply_locks", "encode_marks",
           "voxel_states"]

NOT_LOOKED_AT, CONFIRMED, CORRECTED = 0, 1, 2
_MAX_COUNTED = 2**24  # object numbers beyond it are counted anew first
KEPT_SHARE = 0.5  # a predicted object that loses more of its voxels than this to facts was another view of them


@dataclass(frozen=True)
class Counts:
    """Numbers for the window; objects of instance models, connected regions of others.

    Parameters
    ----------
    n_corrected : objects changed, drawn or removed
    n_confirmed : objects confirmed as a whole
    n_overruled : voxels confirmed or corrected as one label and painted with another later; the later one holds
    """

    n_corrected: int = 0
    n_confirmed: int = 0
    n_overruled: int = 0

    @property
    def notice(self) -> str:
        """A sentence about contradictions; empty where there are none."""
        if not self.n_overruled:
            return ""
        voxels = "1 voxel was" if self.n_overruled == 1 else f"{self.n_overruled:,} voxels were"
        return f"{voxels} painted over after having been marked as right; the later label holds."


@dataclass(frozen=True)
class Corrections:
    """What is known about an image, or a box of it.

    Parameters
    ----------
    labels : int, (*S); as the user sees them now
    state : uint8, (*S); `NOT_LOOKED_AT`, `CONFIRMED` or `CORRECTED`
    kind : of the model: "classes", "regions" or "instances"
    n_overruled : see `Counts`
    """

    labels: NDArray[Any]
    state: NDArray[np.uint8]
    kind: str = "classes"
    n_overruled: int = 0

    @classmethod
    def from_planes(cls, labels: NDArray[Any], baseline: NDArray[Any], marks: NDArray[Any] | None = None,
                    kind: str = "classes") -> Corrections:
        """Corrections as the difference to a prediction, and what was marked before.

        Parameters
        ----------
        labels : whole numbers from 0, (*S); as the user sees them now
        baseline : the prediction that was shown, (*S)
        marks : as `encode_marks` gives them, (*S); a mark counts as long as the voxel still has its label; None: none
        kind : of the model

        Raises
        ------
        UserError : the shapes differ
        """
        if labels.shape != baseline.shape or (marks is not None and marks.shape != labels.shape):
            raise UserError(f"The labels are {_times(labels.shape)} voxels, but the prediction that they correct is "
                            f"{_times(baseline.shape)}; choose the labels that belong to it.")
        state, touched, n_overruled = voxel_states(labels, baseline, marks)
        if kind == "instances":
            state[_is_one_of(labels, touched)] = CORRECTED
        return cls(labels, state, kind, n_overruled)

    @classmethod
    def from_examples(cls, examples: NDArray[Any], kind: str = "classes") -> Corrections:
        """Corrections from a sparse array as `to_examples` gives it and as people hand them in."""
        looked_at = examples > 0
        labels = np.where(looked_at, examples.astype(np.int64) - 1, 0)
        return cls(labels, np.where(looked_at, CORRECTED, NOT_LOOKED_AT).astype(np.uint8), kind)

    @property
    def locked(self) -> NDArray[np.bool_]:
        """Voxels that no prediction may change: the corrected and the confirmed ones."""
        return np.asarray(self.state != NOT_LOOKED_AT)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was looked at, so that there is nothing to learn from."""
        return not self.locked.any()

    def to_examples(self) -> NDArray[np.int32]:
        """Sparse labels to learn from: label (of instances the object's number) + 1, 0 where nobody looked; (*S)."""
        return np.where(self.locked, self.labels + 1, 0).astype(np.int32)

    def counts(self) -> Counts:
        """How many objects (instances) or connected regions (others) were corrected and confirmed."""
        if self.kind != "instances":
            return Counts(_n_components(self.state == CORRECTED), _n_components(self.state == CONFIRMED),
                          self.n_overruled)
        corrected = np.setdiff1d(self.labels[self.state == CORRECTED], [0])
        confirmed = np.setdiff1d(self.labels[self.state == CONFIRMED], [0, *corrected])
        partly = np.unique(self.labels[_is_one_of(self.labels, confirmed) & (self.state == NOT_LOOKED_AT)])
        return Counts(len(corrected) + self._n_removed(corrected), len(np.setdiff1d(confirmed, partly)),
                      self.n_overruled)

    def _n_removed(self, corrected: NDArray[Any]) -> int:
        """Patches of corrected background that do not merely trim a corrected object."""
        from scipy import ndimage

        erased = (self.state == CORRECTED) & (self.labels == 0)
        around = ndimage.find_objects(erased.view(np.uint8))
        if not around:
            return 0
        box = tuple(slice(max(0, part.start - 1), part.stop + 1) for part in around[0])
        components, n_components = ndimage.label(erased[box])
        beside = ndimage.binary_dilation(_is_one_of(self.labels[box], corrected))
        return int(n_components) - len(np.setdiff1d(components[beside], [0]))


def voxel_states(labels: NDArray[Any], baseline: NDArray[Any], marks: NDArray[Any] | None = None
                 ) -> tuple[NDArray[np.uint8], NDArray[Any], int]:
    """The three states, voxel by voxel; arguments as for `Corrections.from_planes`.

    Returns
    -------
    state, uint8 (*S); the labels of objects that were touched, those that only shrank among them; number of voxels
    whose mark no longer holds
    """
    changed = labels != baseline
    state = np.where(changed, np.uint8(CORRECTED), np.uint8(NOT_LOOKED_AT))
    n_overruled = 0
    if marks is not None:
        holds = np.abs(marks) - 1 == labels  # never where there is no mark: labels are not negative
        n_overruled = int(np.count_nonzero((marks != 0) & ~holds))
        state[holds & (marks > 0) & ~changed] = CONFIRMED
        state[holds & (marks < 0)] = CORRECTED
    touched = np.unique(np.concatenate([labels[state == CORRECTED], baseline[changed]]))
    return state, touched, n_overruled


def apply_locks(prediction: NDArray[Any], corrections: Corrections) -> NDArray[np.int32]:
    """A prediction with the facts laid over it: every locked voxel keeps its label.

    For instances, an object with a locked voxel is kept whole and under its number. A predicted object that shares
    voxels with facts gives way there, and altogether where more than half of it lies on them; the others keep their
    numbers, and get new ones above all others where a fact has theirs.

    Parameters
    ----------
    prediction : whole numbers from 0, (*S)
    corrections : of the same shape and kind of labels

    Returns
    -------
    int32, (*S)

    Raises
    ------
    UserError : another shape
    """
    if prediction.shape != corrections.labels.shape:
        raise UserError(f"The prediction is {_times(prediction.shape)} voxels, but the corrections are "
                        f"{_times(corrections.labels.shape)}; use the image that was corrected.")
    facts = corrections.locked
    if corrections.kind != "instances":
        return np.where(facts, corrections.labels, prediction).astype(np.int32)
    facts = facts | _is_one_of(corrections.labels, corrections.labels[facts])
    if not facts.any():
        return prediction.astype(np.int32)
    if int(prediction.max()) >= _MAX_COUNTED:
        names, prediction = np.unique(prediction, return_inverse=True)
        prediction = prediction.reshape(facts.shape) + (names[0] > 0)
    numbers = _new_numbers(prediction, facts, np.unique(corrections.labels[facts]))
    return np.where(facts, corrections.labels, numbers[prediction]).astype(np.int32)


def _new_numbers(prediction: NDArray[Any], facts: NDArray[np.bool_], taken: NDArray[Any]) -> NDArray[np.int32]:
    """What each predicted object is called from now on; 0 for those that give way. `taken` are the facts' numbers."""
    n_names = int(prediction.max()) + 1
    size, lost = np.zeros(n_names, np.int64), np.zeros(n_names, np.int64)
    for part, known in zip(prediction, facts, strict=True):  # slice by slice: counting wants eight bytes a voxel
        size += np.bincount(part.ravel(), minlength=n_names)
        lost += np.bincount(part[known], minlength=n_names)
    stays = (size > 0) & (lost <= KEPT_SHARE * size)
    stays[0] = False
    numbers = np.where(stays, np.arange(n_names), 0)
    clashes = np.flatnonzero(stays & np.isin(numbers, taken))
    numbers[clashes] = max(n_names, int(taken.max()) + 1) + np.arange(len(clashes))
    return numbers.astype(np.int32)


def encode_marks(corrections: Corrections) -> NDArray[np.int32]:
    """What to remember of corrections when the prediction they refer to is replaced.

    Returns
    -------
    int32, (*S): label + 1 where confirmed, -(label + 1) where corrected, else 0; so that a mark tells what it was made
    for, and no longer counts once the voxel is painted with another label
    """
    value = corrections.labels.astype(np.int32) + 1
    return np.select([corrections.state == CONFIRMED, corrections.state == CORRECTED], [value, -value], 0
                     ).astype(np.int32)


def _is_one_of(labels: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.bool_]:
    """Voxels of the objects named; background is no object."""
    return np.isin(labels, np.setdiff1d(wanted, [0]))


def _n_components(mask: NDArray[np.bool_]) -> int:
    from scipy import ndimage

    return int(ndimage.label(mask)[1]) if mask.any() else 0


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))

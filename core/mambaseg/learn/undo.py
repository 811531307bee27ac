"""Undo and redo of the host, told from strokes: what is taken back was no correction.

A host takes back the voxels of a stroke and says no more than that something changed. By then a prediction that learned
from the stroke may have taken its place, so that the former labels would look like a new correction. Hence each stroke
is remembered with what was known before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mambaseg.learn.corrections import CONFIRMED, NOT_LOOKED_AT
from mambaseg.learn.journal import Stroke
from mambaseg.learn.project import ProjectImage

__all__ = ["Steps"]

_MOST_KEPT_BYTES = 2**26
_AROUND_VOXELS = 2**20  # of the surroundings in which a touched object is looked for

Box = tuple[slice, ...]


@dataclass(frozen=True)
class _Step:
    """One stroke: labels before and after in a box, which of them it changed, and what was known before.

    Parameters
    ----------
    changed : the voxels of the stroke
    touched : those, and the rest of the objects that it changed
    state : of each voxel before, as in `mambaseg.learn.Corrections`
    """

    box: Box
    before: NDArray[np.int32]
    after: NDArray[np.int32]
    changed: NDArray[np.bool_]
    touched: NDArray[np.bool_]
    state: NDArray[np.uint8]

    @property
    def n_bytes(self) -> int:
        """Memory that it takes."""
        return int(self.before.nbytes + self.after.nbytes + self.changed.nbytes + self.touched.nbytes
                   + self.state.nbytes)


class Steps:
    """Strokes on one image, in the order in which a host would take them back.

    Parameters
    ----------
    image : whose journal they are in; recording its strokes here, and nowhere else, lets `follow` recognise them
    """

    def __init__(self, image: ProjectImage) -> None:
        self._image = image
        self._done: list[_Step] = []
        self._undone: list[_Step] = []

    def record(self, labels: NDArray[Any], tool: str = "paint", box: Sequence[slice] | None = None) -> Stroke | None:
        """Put what changed in the labels on the disk; arguments, result and errors as for `ProjectImage.record`."""
        step = self._step(labels, box) if labels.shape == self._image.view.shape else None
        stroke = self._image.record(labels, tool, box)
        if step is not None and stroke is not None:
            self._undone.clear()
            self._done.append(step)
            while sum(each.n_bytes for each in self._done) > _MOST_KEPT_BYTES and len(self._done) > 1:
                del self._done[0]
        return stroke

    def follow(self, labels: NDArray[Any]) -> Stroke | None:
        """Record what the host took back or did again since the last call; the last of these strokes, None: nothing.

        Parameters
        ----------
        labels : the whole array as it is now

        Raises
        ------
        JournalError : as for `ProjectImage.record`
        """
        stroke = None
        if labels.shape != self._image.view.shape:
            return stroke
        while self._done and self._shows(labels, self._done[-1], self._done[-1].before):
            step = self._done[-1]
            stroke = self._image.record(labels, "undo", step.box)
            self._restore(labels, step)
            self._undone.append(self._done.pop())
        while self._undone and self._shows(labels, self._undone[-1], self._undone[-1].after):
            stroke = self._image.record(labels, "redo", self._undone[-1].box)
            self._done.append(self._undone.pop())
        return stroke

    def _shows(self, labels: NDArray[Any], step: _Step, values: NDArray[np.int32]) -> bool:
        """Whether the voxels of a stroke have come to have these values since the last record."""
        now = np.asarray(labels[step.box])[step.changed]
        return bool((now == values[step.changed]).all()
                    and (now != self._image.view.read("labels", step.box)[step.changed]).any())

    def _restore(self, labels: NDArray[Any], step: _Step) -> None:
        """Know of the voxels what was known before; those corrected before still differ from the prediction."""
        fresh = step.touched & (step.state == NOT_LOOKED_AT)
        confirmed = step.touched & (step.state == CONFIRMED)
        self._image.unlock(labels, step.box, fresh | confirmed)
        if confirmed.any():
            self._image.confirm(labels, step.box, confirmed)

    def _step(self, labels: NDArray[Any], box: Sequence[slice] | None) -> _Step | None:
        """What is about to be recorded; None: nothing."""
        view = self._image.view
        whole = view.grid.whole_box(box)
        found = ndimage.find_objects((view.read("labels", whole) != labels[whole]).view(np.uint8))
        if not found:
            return None
        around = self._around(tuple(slice((part.start or 0) + side.start, (part.start or 0) + side.stop)
                                    for part, side in zip(whole, found[0], strict=True)))
        before, after = view.read("labels", around), np.array(labels[around], np.int32)
        changed = before != after
        touched = changed
        if self._image.kind == "instances":
            names = np.setdiff1d(np.concatenate([before[changed], after[changed]]), [0])
            touched = changed | np.isin(before, names) | np.isin(after, names)
        inner = ndimage.find_objects(touched.view(np.uint8))[0]
        place = tuple(slice(part.start + side.start, part.start + side.stop)
                      for part, side in zip(around, inner, strict=True))
        state = self._image.corrections(around).state
        return _Step(place, *(np.ascontiguousarray(values[inner])
                              for values in (before, after, changed, touched, state)))

    def _around(self, box: Box) -> Box:
        """A box grown along its spatial axes, as far as that is quick to look through."""
        if self._image.kind != "instances":
            return box
        identity = self._image.identity
        n_spatial = len(identity.shape) - identity.axes.startswith("T")
        reach = int(_AROUND_VOXELS ** (1 / n_spatial)) // 2
        return (*box[:-n_spatial], *(slice(max(0, side.start - reach), min(size, side.stop + reach)) for side, size
                                     in zip(box[-n_spatial:], identity.shape[-n_spatial:], strict=True)))

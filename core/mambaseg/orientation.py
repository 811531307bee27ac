"""How a patient lies in the axes of a volume, and turning volumes so that all lie alike.

A network that learned from volumes whose first axis runs to the right takes the left for the right in one whose first
axis runs to the left. So a plan may name an orientation (`mambaseg.plan.Plan.orientation`), and volumes that tell
theirs are turned to it: axes are exchanged and reversed, no voxel is computed anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg.image import Grid, Image
from mambaseg.progress import Preview, Progress, ProgressCallback

__all__ = ["AS_IT_IS", "Turn", "is_orientation", "orientation_of", "turn_to", "turned_image"]

_LETTERS = ("LR", "PA", "SI")  # where the world axes x, y, z of LPS lead, and the other way


@dataclass(frozen=True)
class Turn:
    """Exchanged and reversed axes. Arrays may have axes in front (channels); they are returned as views.

    Parameters
    ----------
    order : axis of the given grid that each axis of the turned one is; empty: nothing changes
    reverse : whether that axis is reversed
    """

    order: tuple[int, ...] = ()
    reverse: tuple[bool, ...] = ()

    def __call__(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array of the given grid, turned."""
        return _reversed(_ordered(array, self.order), self.reverse)

    def back(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array of the turned grid, as given."""
        return _ordered(_reversed(array, self.reverse), self._back)

    def sizes(self, sizes: tuple[float, ...] | None) -> tuple[float, ...] | None:
        """The voxel size per axis in the turned order; None where it is not known."""
        return tuple(sizes[axis] for axis in self.order) if sizes is not None and self.order else sizes

    def box(self, bounds: Sequence[tuple[int, int]], shape: Sequence[int]) -> tuple[tuple[int, int], ...]:
        """A box, (start, stop) per axis, of a given grid of that shape."""
        if not self.order:
            return tuple(bounds)
        turned = [(*bounds[axis], shape[axis]) for axis in self.order]
        return tuple((n - stop, n - start) if is_reversed else (start, stop)
                     for (start, stop, n), is_reversed in zip(turned, self.reverse, strict=True))

    def point(self, point: Sequence[float], shape: Sequence[int]) -> tuple[float, ...]:
        """A point in voxels of a given grid of that shape."""
        if not self.order:
            return tuple(point)
        return tuple(shape[axis] - 1 - point[axis] if is_reversed else point[axis]
                     for axis, is_reversed in zip(self.order, self.reverse, strict=True))

    def reports_back(self, progress: ProgressCallback, shape: Sequence[int]) -> ProgressCallback:
        """A callback that turns the previews of reports back to the given grid, which has that shape, and passes on."""
        if not self.order:
            return progress
        sides = [shape[axis] for axis in self.order]

        def tell(update: Progress) -> None:
            if update.preview is not None:
                update = replace(update, preview=self._preview_back(update.preview, sides))
            progress(update)

        return tell

    def _preview_back(self, preview: Preview, sides: Sequence[int]) -> Preview:
        """A piece of the turned grid, which has these sides, as a piece of the given one."""
        first = [n - start - size if is_reversed else start for start, size, n, is_reversed in zip(
            preview.start, preview.labels.shape, sides, self.reverse, strict=True)]
        return replace(preview, labels=self.back(preview.labels), start=tuple(first[axis] for axis in self._back))

    @property
    def _back(self) -> tuple[int, ...]:
        return tuple(self.order.index(axis) for axis in range(len(self.order)))


AS_IT_IS = Turn()


def is_orientation(text: Any) -> bool:
    """Whether a text is three letters such as "RAS", one of each pair of directions."""
    return isinstance(text, str) and len(text) == 3 and all(
        sum(letter in pair for letter in text) == 1 for pair in _LETTERS)


def orientation_of(grid: Grid) -> str:
    """Where the index axes x, y and z of a volume lead, such as "LPS"; empty where nobody knows.

    An oblique axis leads where it mostly does. The letters are those of nibabel and ITK-SNAP.
    """
    if not grid.is_of_patient or grid.ndim != 3:
        return ""
    columns = np.reshape(grid.direction, (3, 3)).T  # a row for each index axis
    best = max(permutations(range(3)), key=lambda worlds: sum(abs(columns[axis, world])
                                                              for axis, world in enumerate(worlds)))
    return "".join(_LETTERS[world][int(columns[axis, world] < 0)] for axis, world in enumerate(best))


def turn_to(orientation: str, grid: Grid) -> Turn:
    """The turn of a volume to an orientation; none where either is not known, or they are the same."""
    own = orientation_of(grid)
    if not orientation or not own or own == orientation:
        return AS_IT_IS
    pairs = [next(pair for pair in _LETTERS if letter in pair) for letter in own]
    found = [next(axis for axis, pair in enumerate(pairs) if letter in pair) for letter in orientation]
    reverse = [own[axis] != letter for axis, letter in zip(found, orientation, strict=True)]
    return Turn(tuple(2 - axis for axis in found[::-1]), tuple(reverse[::-1]))  # arrays are (z, y, x)


def turned_image(image: Image, turn: Turn) -> Image:
    """The same volume with its axes turned, in the same place."""
    if not turn.order:
        return image
    grid = image.grid
    to_given = np.zeros((4, 4))  # from an index of the turned grid to one of the given grid, x first
    to_given[3, 3] = 1
    for new, (old, is_reversed) in enumerate(zip(turn.order, turn.reverse, strict=True)):
        to_given[2 - old, 2 - new] = -1 if is_reversed else 1
        to_given[2 - old, 3] = grid.shape[old] - 1 if is_reversed else 0
    shape = tuple(grid.shape[axis] for axis in turn.order)
    return replace(image, data=turn(image.data),
                   grid=Grid.from_affine(shape, grid.affine_xyz @ to_given, grid.unit, grid.is_of_patient))


def _ordered(array: NDArray[Any], order: Sequence[int]) -> NDArray[Any]:
    n = array.ndim - len(order)
    return array.transpose(*range(n), *(n + axis for axis in order)) if order else array


def _reversed(array: NDArray[Any], reverse: Sequence[bool]) -> NDArray[Any]:
    n = array.ndim - len(reverse)
    return np.flip(array, tuple(n + axis for axis, is_reversed in enumerate(reverse) if is_reversed))

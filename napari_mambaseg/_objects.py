"""Cutting an object in two and joining two, by two clicks; napari's undo takes it back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal
from scipy import ndimage

from mambaseg import UserError
from napari_mambaseg._corrections import Picture

__all__ = ["Clicks", "merge_objects", "split_object"]

_HINTS = {"split": "Click the middles of the two cells that should be apart.",
          "merge": "Click the two cells that are one."}


def split_object(labels: NDArray[Any], seeds: Sequence[Sequence[int]]) -> tuple[tuple[NDArray[np.intp], ...], int]:
    """Which voxels of an object become another one: a watershed of its depth from two seeds.

    Parameters
    ----------
    labels : (*S)
    seeds : two voxels of the same object

    Returns
    -------
    index of the voxels around the second seed, and their new number

    Raises
    ------
    UserError : the seeds are not two voxels of one object
    """
    from skimage.segmentation import watershed

    first, second = (tuple(int(at) for at in seed) for seed in seeds)
    number = int(labels[first])
    if not number or labels[second] != number or first == second:
        raise UserError("Click two places in the same cell to cut it in two.")
    found = ndimage.find_objects((labels == number).view(np.uint8))[0]
    mask = np.pad(labels[found] == number, 1)
    depth = ndimage.distance_transform_edt(mask)
    markers = np.zeros(mask.shape, np.int32)
    for marker, seed in enumerate((first, second), 1):
        markers[tuple(at - side.start + 1 for at, side in zip(seed, found, strict=True))] = marker
    parts = watershed(-depth, markers, mask=mask)
    chosen = np.nonzero(parts == 2)
    return tuple(at - 1 + side.start for at, side in zip(chosen, found, strict=True)), int(labels.max()) + 1


def merge_objects(labels: NDArray[Any], seeds: Sequence[Sequence[int]]) -> tuple[tuple[NDArray[np.intp], ...], int]:
    """Which voxels become part of the first object; arguments and result as for `split_object`.

    Raises
    ------
    UserError : the seeds are not in two objects
    """
    first, second = (int(labels[tuple(int(at) for at in seed)]) for seed in seeds)
    if not first or not second or first == second:
        raise UserError("Click two cells, one after the other, to make them one.")
    return np.nonzero(labels == second), first


class Clicks:
    """Collects two clicks on the layer; `told` carries what to do next (empty: done), `failed` a sentence."""

    told = Signal(str)
    failed = Signal(str)

    def __init__(self) -> None:
        self._picture: Picture | None = None
        self._act = ""
        self._seeds: list[tuple[int, ...]] = []
        self._former_mode = "pan_zoom"
        self._acts: dict[str, Callable[..., Any]] = {"split": split_object, "merge": merge_objects}

    @property
    def is_on(self) -> bool:
        """Whether clicks are waited for."""
        return self._picture is not None

    def start(self, picture: Picture, act: str) -> None:
        """Wait for two clicks; `act` is split or merge. A second start ends the waiting."""
        was, was_act = self._picture, self._act
        self.end()
        if was is picture and was_act == act:
            return
        self._picture, self._act, self._seeds = picture, act, []
        self._former_mode = str(picture.layer.mode)
        picture.layer.mode = "pan_zoom"
        picture.layer.mouse_drag_callbacks.append(self._on_press)
        self.told.emit(_HINTS[act])

    def end(self) -> None:
        """Wait no longer."""
        picture, self._picture = self._picture, None
        if picture is not None:
            picture.layer.mouse_drag_callbacks.remove(self._on_press)
            picture.layer.mode = self._former_mode
            self.told.emit("")

    def _on_press(self, layer: Any, event: Any) -> Any:
        """A click counts, a drag moves the view."""
        yield
        while event.type == "mouse_move":
            return
        place = tuple(round(float(at)) for at in layer.world_to_data(event.position[-layer.ndim:]))
        if self._picture is None or not all(0 <= at < size for at, size in zip(place, layer.data.shape, strict=True)):
            return
        self._seeds.append(place)
        if len(self._seeds) == 2:
            self._do(layer)

    def _do(self, layer: Any) -> None:
        """In the time point that was clicked, and in all slices."""
        picture, act, seeds = self._picture, self._act, self._seeds
        self.end()
        if picture is None:
            return
        n_time = layer.ndim - len(picture.reading.spatial)
        frame = seeds[0][:n_time]
        try:
            index, number = self._acts[act](np.asarray(layer.data[frame]), [seed[n_time:] for seed in seeds])
        except UserError as error:
            self.failed.emit(str(error))
            return
        if act == "split":
            number = int(layer.data.max()) + 1
        layer.data_setitem((*(np.full(len(index[0]), at) for at in frame), *index), number)

"""What the user changes in a result: on the disk before the next event is handled, and never lost to a prediction.

napari's events only say that something may have changed (undo, for one, says nothing more); the journal of the core
finds out what. So fills, scripts and undo are strokes like any other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from napari.layers import Shapes
from numpy.typing import NDArray
from psygnal import Signal
from qtpy.QtCore import QTimer

from mambaseg import UserError, words
from mambaseg.learn import Project, ProjectImage, default_folder, identify, project_of
from mambaseg.learn.corrections import Counts
from mambaseg.learn.undo import Steps
from napari_mambaseg._adapt import Reading, Source, to_image
from napari_mambaseg._background import Background, timer
from napari_mambaseg._layers import n_objects, recolour
from napari_mambaseg._rims import rim_labels, rim_layer
from napari_mambaseg._segmenter import Order, Shown
from napari_mambaseg._where import part_of

__all__ = ["Box", "Corrector", "Picture", "put"]

_SOON_MS = 40  # after an event that does not tell what changed
_COUNT_MS = 150
_AT_ONCE = 2**23  # voxels that are compared within one event; more of them piece by piece
_PIECE = 2**22
_MOST_RIMMED = 2**25
_MOST_LOADED_BYTES = 2**31

Box = tuple[slice, ...]


@dataclass(eq=False)
class Picture:
    """A result that is being corrected.

    Parameters
    ----------
    layer : with the labels, as the user sees and paints them
    order : how it came about: source, model, part
    project : that its strokes are kept in
    image : its strokes
    shown : of the segmenter; None for labels that were there before
    """

    layer: Any
    order: Order
    project: Project
    image: ProjectImage
    shown: Shown | None = None
    saved_s: float | None = None
    counts: Counts = field(default_factory=Counts)
    n_objects: int | None = None  # None: of classes, and where the image is too large to count
    problem: str = ""
    rims: Any = None
    wants_rims: bool = True
    unchecked: list[Box] = field(default_factory=list)  # parts that still have to be compared
    listeners: list[tuple[Any, Any]] = field(default_factory=list)
    steps: Steps = field(init=False)

    def __post_init__(self) -> None:
        """Begin with strokes that can be taken back."""
        self.steps = Steps(self.image)

    @property
    def reading(self) -> Reading:
        """How to understand the labels."""
        reading = self.order.source.reading
        return Reading(reading.labels_axes, reading.spacing, reading.unit)

    @property
    def is_large(self) -> bool:
        """Whether comparing it whole would be felt."""
        return bool(math.prod(self.image.view.shape) > _AT_ONCE)


class Corrector:
    """Keeps what the user corrects.

    Signals: `attached` (Picture) when a result can be corrected; `detached` (Picture); `stroked` (Picture) after each
    change that was kept; `counted` (Picture) when its counts are new; `failed` (a sentence, and details for a bug
    report).
    """

    attached = Signal(object)
    detached = Signal(object)
    stroked = Signal(object)
    counted = Signal(object)
    failed = Signal(str, str)

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self.background = Background()
        self.pictures: list[Picture] = []
        self.keep_locked = True
        self._is_closed = False
        self._projects: dict[str, Project] = {}
        self._orders: weakref.WeakKeyDictionary[Any, Order] = weakref.WeakKeyDictionary()
        self._soon = timer(_SOON_MS, self._look)
        self._count = timer(_COUNT_MS, self._recount)
        viewer.layers.events.removed.connect(self._on_removed)
        viewer.layers.events.inserted.connect(self._on_inserted)

    @property
    def current(self) -> Picture | None:
        """The result that is corrected: of the active layer, else the newest one."""
        active = self._viewer.layers.selection.active
        return next((each for each in self.pictures if each.layer == active), next(reversed(self.pictures), None))

    @property
    def project(self) -> Project | None:
        """The project of the current result."""
        return self.current.project if self.current else next(reversed(self._projects.values()), None)

    # --- a result comes and goes ---

    def take(self, layer: Any, order: Order, labels: NDArray[Any], shown: Shown | None = None) -> None:
        """Have a result corrected; what was corrected in its image before is laid over it.

        Parameters
        ----------
        labels : what was found, as the layer shows it
        """
        layer = getattr(layer, "__wrapped__", layer)  # napari gives plugins its layers in a wrapping
        self._detach(layer)
        layer.editable = False  # for the moment until there is a journal
        self._orders[layer] = order
        keep_locked = self.keep_locked

        def open_journal() -> tuple[Project, ProjectImage, NDArray[np.int32]]:
            project, image = self.open(order)
            return project, image, image.show_prediction(labels, keep_locked=keep_locked)

        def failed(sentence: str, details: str) -> None:
            layer.editable = True
            self.failed.emit(sentence, details)

        self.background.do(open_journal, lambda found: self._attach(layer, order, shown, *found), failed)

    def leave(self, layer: Any) -> None:
        """Have a layer corrected no longer; what was drawn on it is kept."""
        self._detach(layer)

    def resume(self, layer: Any, order: Order, image: ProjectImage, project: Project) -> None:
        """Go on with labels as the journal has them, which the layer shows."""
        self._orders[layer] = order
        self._attach(layer, order, None, project, image, layer.data)

    def open(self, order: Order) -> tuple[Project, ProjectImage]:
        """The strokes on an image, in the project that has it, else the one at work, else a new one. For a thread."""
        identity = identify(to_image(_in_memory(order.source)))
        folder = project_of(identity)
        if folder is None:
            folder = next((each.folder for each in reversed(self._projects.values())), default_folder(identity))
        project = self._projects.get(str(folder)) or Project.open_or_create(folder, order.source.name)
        self._projects[str(folder)] = project
        return project, project.image(identity, order.model.kind)

    def _attach(self, layer: Any, order: Order, shown: Shown | None, project: Project, image: ProjectImage,
                labels: NDArray[np.int32]) -> None:
        if layer not in self._viewer.layers:
            return
        for other in [each for each in self.pictures if each.image.identity == image.identity]:
            self._detach(other.layer)  # one result of an image is the one that is corrected
        if not np.array_equal(layer.data, labels):
            put(layer, (), labels)
            if order.model.kind == "instances":
                recolour(layer)
            if shown is not None:
                shown.outcome = dataclasses.replace(shown.outcome, labels=labels, found=labels.copy())
        layer.editable = True
        stroke_s = project.saved_at_s
        picture = Picture(layer, order, project, image, shown, stroke_s)
        for event, act in ((layer.events.paint, lambda event: self._on_paint(picture)),
                           (layer.events.set_data, lambda event: self._on_change(picture)),
                           (layer.events.data, lambda event: self._on_change(picture))):
            event.connect(act)
            picture.listeners.append((event, act))
        self.pictures.append(picture)
        self._count.start()
        self.attached.emit(picture)

    def _detach(self, layer: Any) -> None:
        for picture in [each for each in self.pictures if each.layer == layer]:
            self.flush(picture)
            for event, act in picture.listeners:
                event.disconnect(act)
            self.pictures.remove(picture)
            if picture.rims is not None and picture.rims in self._viewer.layers:
                rims, picture.rims = picture.rims, None
                self._viewer.layers.remove(rims)
            self.detached.emit(picture)

    def close(self) -> None:
        """Put the last strokes on the disk and let go of the viewer."""
        self._is_closed = True
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        self._viewer.layers.events.inserted.disconnect(self._on_inserted)
        with contextlib.suppress(RuntimeError):  # Qt may have taken the timers down already, with the application
            self._soon.stop()
            self._count.stop()
        self.background.close()
        for picture in self.pictures:
            self.flush(picture)
            for event, act in picture.listeners:
                event.disconnect(act)
        self.pictures.clear()
        for project in self._projects.values():
            project.close()

    # --- strokes ---

    def flush(self, picture: Picture) -> None:
        """Have everything on the disk that the layer shows."""
        picture.unchecked.clear()
        self._record(picture, "change", None)

    def confirm(self, picture: Picture, box: Box, mask: NDArray[np.bool_] | None = None) -> None:
        """Take what is shown in a box as right; arguments as for `mambaseg.learn.ProjectImage.confirm`."""
        self._kept(picture, lambda: picture.image.confirm(picture.layer.data, box, mask))

    def place(self, picture: Picture) -> Box:
        """What is in view, or the rectangle of the Shapes layer that is active.

        Raises
        ------
        UserError : nothing of the labels lies there
        """
        active = self._viewer.layers.selection.active
        where = "region" if isinstance(active, Shapes) and len(active.data) else "view"
        return self._slices(picture, where)

    def slice_in_view(self, picture: Picture) -> Box:
        """The slice, and the time point, that the sliders are at."""
        return self._slices(picture, "slice")

    def _on_paint(self, picture: Picture) -> None:
        """A stroke has ended; of a script's the event comes before the voxels change, so look again soon."""
        tool = str(picture.layer.mode)
        tool = tool if tool in ("paint", "erase", "fill", "polygon") else "paint"
        if not picture.is_large:
            self._record(picture, tool, None)
            self._on_change(picture)
            return
        self._record(picture, tool, self._near(picture))
        self._check_later(picture)

    def _on_change(self, picture: Picture) -> None:
        """Something may have changed: undo, a script, the slider."""
        if not picture.problem:  # else there is something that could not be written yet, and is found by comparing
            self._kept(picture, lambda: picture.steps.follow(np.asarray(picture.layer.data)))
        if picture.layer.data.shape != picture.image.view.shape or not picture.is_large:
            picture.unchecked = [()]
        else:
            self._check_later(picture)
        self._soon.start()

    def _look(self) -> None:
        """Compare what is still to be compared; of large volumes one piece, then let the window live."""
        for picture in self.pictures:
            if picture.unchecked:
                self._record(picture, "change", picture.unchecked.pop(0) or None)
        if any(picture.unchecked for picture in self.pictures):
            QTimer.singleShot(1, self._look)

    def _check_later(self, picture: Picture) -> None:
        """All of a large volume, the slice in view first."""
        shape = picture.image.view.shape
        step = max(1, _PIECE // max(1, math.prod(shape[1:])))
        picture.unchecked = [self._near(picture), *((slice(first, first + step),)
                                                    for first in range(0, shape[0], step))]
        self._soon.start()

    def _near(self, picture: Picture) -> Box:
        """The slice in view, and as many on either side as the brush may reach."""
        here = self.slice_in_view(picture)
        if picture.layer.n_edit_dimensions < 3:
            return here
        reach = int(picture.layer.brush_size) + 1
        return tuple(slice(max(0, side.start - reach), side.stop + reach) for side in here)

    def _slices(self, picture: Picture, place: str) -> Box:
        part = part_of(self._viewer, picture.layer, picture.reading, place, all_frames=False)
        return part.slices(picture.order.source, (0,) * len(picture.reading.spatial))

    def _record(self, picture: Picture, tool: str, box: Box | None) -> None:
        self._kept(picture, lambda: picture.steps.record(np.asarray(picture.layer.data), tool, box))

    def _kept(self, picture: Picture, write: Any) -> None:
        """Have something written, and tell what came of it."""
        try:
            stroke = write()
        except UserError as error:
            if picture.problem != str(error) and not self._is_closed:
                picture.problem = str(error)
                self.failed.emit(*words.problem(error))
            return
        picture.problem = ""
        if stroke is not None and not self._is_closed:
            picture.saved_s = time.time()
            self._count.start()
            self.stroked.emit(picture)

    # --- counts and rims ---

    def recount(self) -> None:
        """Count anew, soon."""
        self._count.start()

    def _recount(self) -> None:
        for picture in self.pictures:
            self._recount_one(picture)

    def _recount_one(self, picture: Picture) -> None:
        image, is_small = picture.image, math.prod(picture.image.view.shape) <= _MOST_RIMMED
        is_counted = is_small and picture.order.model.kind == "instances"
        n_time = len(image.view.shape) - len(picture.reading.spatial)

        def count() -> tuple[Counts, int | None, NDArray[np.int32] | None]:
            n_found = n_objects(image.labels(), n_time) if is_counted else None
            if not is_small or not self.keep_locked:
                return image.counts(), n_found, None
            corrections = image.corrections()
            return corrections.counts(), n_found, rim_labels(corrections) if corrections.locked.any() else None

        def show(found: tuple[Counts, int | None, NDArray[np.int32] | None]) -> None:
            if picture in self.pictures:
                picture.counts, picture.n_objects, rims = found
                self._show_rims(picture, rims)
                self.counted.emit(picture)

        self.background.do(count, show, self.failed.emit)

    def _show_rims(self, picture: Picture, rims: NDArray[np.int32] | None) -> None:
        if picture.rims is None:
            if rims is None or not picture.wants_rims:
                return
            layers = self._viewer.layers
            active = layers.selection.active
            picture.rims = rim_layer(rims, f"{picture.order.source.name} kept", picture.order.source.geometry)
            layers.insert(layers.index(picture.layer) + 1, picture.rims)
            layers.selection.active = active
        elif rims is not None:
            picture.rims.data = rims
        picture.rims.visible = rims is not None

    def _on_removed(self, event: Any) -> None:
        self._detach(event.value)
        for picture in self.pictures:
            if picture.rims is not None and picture.rims == event.value:
                picture.rims, picture.wants_rims = None, False

    def _on_inserted(self, event: Any) -> None:
        """A layer that was taken away came back, as after Undo of a segmentation."""
        layer = event.value
        if layer in self._orders and all(each.layer != layer for each in self.pictures):
            self.take(layer, self._orders[layer], layer.data)


def _in_memory(source: Source) -> Source:
    """A lazy picture read once: what identifies it goes through it row by row, and each would read its chunks again.

    Raises
    ------
    UserError : it is too large for that
    """
    if not source.is_lazy:
        return source
    n_bytes = math.prod(source.array.shape) * np.dtype(source.array.dtype).itemsize
    if n_bytes > _MOST_LOADED_BYTES:
        raise UserError(f"{source.name} is too large to be corrected: its {n_bytes / 1e9:.0f} GB would have to be read "
                        "whole. Save the part that you want to correct as a picture of its own.")
    return dataclasses.replace(source, array=np.asarray(source.array))


def put(layer: Any, box: Box, labels: NDArray[np.int32]) -> None:
    """Change a part of what a layer shows, in place: napari's undo steps still fit, and no texture is made anew."""
    if int(labels.max(initial=0)) > np.iinfo(layer.data.dtype).max:
        layer.data = np.asarray(layer.data).astype(np.int32)
    layer.data[box] = labels
    layer.refresh()

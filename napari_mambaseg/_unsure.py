"""A tour of the places where the model is least sure, so that corrections are spent where they help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from napari.layers import Points
from psygnal import Signal

from mambaseg import UserError
from mambaseg.learn import Doubt, least_sure
from napari_mambaseg._corrections import Box, Corrector, Picture

__all__ = ["Stop", "Tour"]

_N_MOST = 20
_MARGIN = 1.6  # of the ring's diameter to the place's longest side
_SMALLEST_PX = 16  # a place is shown as at least so large
_PLACE_PX = 90  # side of a place on the screen, at least
_NO_PROBABILITIES = "Press Segment once more to see where it is unsure; that is known only right after it has run."
_NOWHERE = "It is sure everywhere, or you have looked at all of it."


@dataclass(frozen=True)
class Stop:
    """One place: where it lies in the labels' axes, and which object it is about."""

    box: Box
    label: int


class Tour:
    """`moved` carries the number of the place in view, from 1 (0: none), and of all; `failed` a sentence."""

    moved = Signal(int, int)
    failed = Signal(str)

    def __init__(self, viewer: Any, corrector: Corrector) -> None:
        self._viewer = viewer
        self._corrector = corrector
        self._picture: Picture | None = None
        self._stops: list[Stop] = []
        self._at = -1
        self._ring: Any = None
        corrector.detached.connect(self._on_detached)

    @property
    def is_on(self) -> bool:
        """Whether a place is shown."""
        return 0 <= self._at < len(self._stops)

    @property
    def stop(self) -> Stop | None:
        """The place in view."""
        return self._stops[self._at] if self.is_on else None

    def start(self, picture: Picture) -> None:
        """Look for places, and show the first; while one is shown, the next."""
        if self.is_on and picture is self._picture:
            self.skip()
            return
        if picture.shown is None or picture.shown.outcome.probabilities is None:
            self.failed.emit(_NO_PROBABILITIES)
            return
        self._picture = picture
        self._corrector.flush(picture)
        self._corrector.background.do(lambda: _stops(picture), lambda stops: self._begin(picture, stops),
                                      lambda sentence, details: self.failed.emit(sentence))

    def accept(self) -> None:
        """What is shown here is right, as found or as just drawn; on to the next place."""
        stop, picture = self.stop, self._picture
        if stop is None or picture is None:
            return
        inside = np.asarray(picture.layer.data[stop.box])
        is_object = stop.label > 0 and bool((inside == stop.label).any())
        self._corrector.confirm(picture, stop.box, inside == stop.label if is_object else None)
        self.skip()

    def skip(self) -> None:
        """On to the next place."""
        if self.is_on:
            self._at += 1
            self._show()
            if not self.is_on:
                self.failed.emit(_NOWHERE)

    def end(self) -> None:
        """Show no place any more."""
        self._at, self._stops = -1, []
        self._show()

    def _begin(self, picture: Picture, stops: list[Stop]) -> None:
        if picture not in self._corrector.pictures:
            return
        self._remove_ring()  # it may lie where another picture lies
        self._stops, self._at = stops, 0
        self._show()
        if not stops:
            self.failed.emit(_NOWHERE)

    def _show(self) -> None:
        """Bring the place into view, with a ring around it."""
        stop, picture = self.stop, self._picture
        if stop is None or picture is None:
            self._at = -1
            self._remove_ring()
            self.moved.emit(0, 0)
            return
        layer, viewer = picture.layer, self._viewer
        middle = np.array([(side.start + side.stop - 1) / 2 for side in stop.box])
        world = np.asarray(layer.data_to_world(middle))
        offset = viewer.dims.ndim - layer.ndim
        for axis, value in enumerate(world):
            viewer.dims.set_point(axis + offset, value)
        side = max(_SMALLEST_PX, *(side.stop - side.start for side in stop.box[-2:]))
        self._draw_ring(picture, middle, side * _MARGIN)
        camera = getattr(viewer, "scene", viewer).camera  # napari 0.9 moved it
        camera.center = tuple(np.r_[np.zeros(3), world][-3:])
        camera.zoom = max(camera.zoom, _PLACE_PX / max(1e-9, side * abs(float(layer.scale[-1]))))
        if stop.label > 0 and picture.order.model.kind == "instances":
            layer.selected_label = stop.label
        self.moved.emit(self._at + 1, len(self._stops))

    def _draw_ring(self, picture: Picture, middle: Any, size: float) -> None:
        """Put the ring there; made once, since napari needs half a second to take a layer away."""
        if self._ring is not None and self._ring in self._viewer.layers:
            self._ring.selected_data = set()
            self._ring.data, self._ring.size = [middle], size
            return
        layers = self._viewer.layers
        active = layers.selection.active
        ring = Points([middle], name="unsure", size=size, symbol="disc", face_color="transparent",
                      border_color="#f0e442", border_width=0.05, **picture.order.source.geometry)
        ring.editable = False
        self._ring = layers.append(ring) or ring
        layers.selection.active = active

    def _remove_ring(self) -> None:
        ring, self._ring = self._ring, None
        if ring is not None and ring in self._viewer.layers:
            self._viewer.layers.remove(ring)

    def _on_detached(self, picture: Picture) -> None:
        if picture is self._picture:
            self.end()
            self._picture = None


def _stops(picture: Picture) -> list[Stop]:
    """The least sure places, of a time series those of all time points; for a thread."""
    outcome = picture.shown.outcome if picture.shown else None
    if outcome is None or outcome.probabilities is None:
        raise UserError(_NO_PROBABILITIES)
    given, order = picture.order.given, picture.order
    kind = order.model.kind
    labels = picture.image.labels()[given]
    looked_at = picture.image.corrections().locked[given]
    probabilities = np.asarray(outcome.probabilities)
    if not order.source.reading.labels_axes.startswith("T"):
        return [_stop(doubt, given) for doubt in least_sure(probabilities, labels, kind, _N_MOST, looked_at)]
    probabilities = probabilities.reshape(labels.shape[0], -1, *labels.shape[1:])  # of one time point without the axis
    found = [(doubt, frame) for frame in range(len(labels))
             for doubt in least_sure(probabilities[frame], labels[frame], kind, _N_MOST, looked_at[frame])]
    found.sort(key=lambda each: -each[0].score)
    first = given[0].start or 0
    return [_stop(doubt, (slice(first + frame, first + frame + 1), *given[1:])) for doubt, frame in found[:_N_MOST]]


def _stop(doubt: Doubt, given: Box) -> Stop:
    """A place on the axes of the labels."""
    n_spatial = len(doubt.box)
    spatial = tuple(slice((part.start or 0) + start, (part.start or 0) + stop)
                    for part, (start, stop) in zip(given[-n_spatial:], doubt.box, strict=True))
    return Stop((*given[:-n_spatial], *spatial), doubt.label)

"""Adapt at once: a moment after a stroke the labels around it are what a model that has learned from it would say."""

from __future__ import annotations

import contextlib
import math
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psygnal import Signal

from mambaseg import jobs
from napari_mambaseg._adapt import to_image
from napari_mambaseg._background import timer
from napari_mambaseg._corrections import Box, Corrector, Picture, put
from napari_mambaseg._session import Check, Prepare, Run, Session
from napari_mambaseg._where import focus_point

__all__ = ["Adapter", "fit_in"]

_MOST_VOXELS = 2**20  # of what is adapted at once; around what is in view where the image is larger
_PAUSE_MS = 30
_IDLE_MS = 1500  # after which the features of the view are computed, so that the first stroke need not wait for them


class Adapter:
    """`told` carries a line on what it is doing, empty when it rests; `failed` a sentence, details for a bug report."""

    told = Signal(str)
    failed = Signal(str, str)

    def __init__(self, viewer: Any, session: Session, corrector: Corrector) -> None:
        self._viewer = viewer
        self._session = session
        self._corrector = corrector
        self._name = uuid.uuid4().hex
        self._run: Run | None = None
        self._waiting: Picture | None = None
        self._view: tuple[Picture, Box] | None = None  # what the worker looks at
        self._tries_again = True
        self.is_on = False
        self._timer = timer(_PAUSE_MS, self._next)
        self._idle = timer(_IDLE_MS, self._look_ahead)
        corrector.attached.connect(lambda picture: self._idle.start())
        corrector.stroked.connect(self._on_stroke)
        corrector.detached.connect(self._on_detached)

    @property
    def is_busy(self) -> bool:
        """Whether a stroke is being learned from."""
        return self._run is not None or self._waiting is not None

    @property
    def is_ready(self) -> bool:
        """Whether the worker knows the view, so that a stroke is learned from in a moment."""
        return self._run is None and self._view is not None and self._view[0] is self._corrector.current

    def switch(self, is_on: bool) -> None:
        """From now on, or no longer."""
        self.is_on = is_on
        self._idle.start()
        picture = self._corrector.current
        if is_on and picture is not None and not picture.image.corrections().is_empty:
            self._on_stroke(picture)

    def close(self) -> None:
        """Let go."""
        self.is_on = False
        for each in (self._timer, self._idle):
            with contextlib.suppress(RuntimeError):  # Qt may have taken it down already, with the application
                each.stop()
        if self._run is not None:
            self._run.close()

    def _on_stroke(self, picture: Picture) -> None:
        if self.is_on and picture.order.model.kind != "regions":
            self._waiting = picture
            self._timer.start()

    def _next(self) -> None:
        """Learn from what there is now, once the former stroke has been learned from."""
        picture = self._waiting
        if self._run is not None or picture is None:
            return
        self._waiting = None
        box = self._box(picture)
        is_new = self._view != (picture, box)

        def request(folder: Path, check: Check) -> dict[str, Any]:
            view = self._write_view(picture, box, folder, check) if is_new else {}
            return self._write_corrections(picture, box, folder, check) | view

        run = self._begin(picture, box, request)
        run.finished.connect(lambda found: self._on_found(picture, box, found))
        run.failed.connect(lambda sentence, details: self._on_failed(picture, sentence, details))
        self.told.emit("Looking closely…" if is_new else "Adapting…")

    def _look_ahead(self) -> None:
        """Have the worker look at the view while nothing else is wanted of it; anything else comes first."""
        picture = self._corrector.current
        if not self.is_on or self.is_busy or picture is None or picture.order.model.kind == "regions":
            return
        if self._session.is_busy:
            self._idle.start()
            return
        box = self._box(picture)
        if self._view == (picture, box):
            return
        run = self._begin(picture, box, lambda folder, check: self._write_view(picture, box, folder, check),
                          gives_way=True)
        run.finished.connect(lambda _: self._on_ready(picture, box))
        run.failed.connect(lambda sentence, details: self._over())  # a stroke will say so
        run.cancelled.connect(lambda: self._idle.start())
        self.told.emit("Getting ready…")

    def _begin(self, picture: Picture, box: Box, request: Prepare, *, gives_way: bool = False) -> Run:
        """Ask the worker for the labels in a box."""
        run = self._run = self._session.start(
            "adapt", lambda folder, check: {"model": picture.order.model_name, "session": self._name,
                                            **request(folder, check)},
            lambda answer, folder: np.load(folder / answer["labels"]), gives_way=gives_way)
        run.cancelled.connect(self._over)
        return run

    def _write_view(self, picture: Picture, box: Box, folder: Path, check: Check) -> dict[str, Any]:
        """The image around a box, for the worker to look at; for a thread."""
        given = self._given(picture, box)
        image = to_image(picture.order.source, given)
        n_time = len(given) - image.ndim
        return {"image": jobs.write_image(folder, image, progress=lambda _: check()),
                "roi": [[side.start - part.start, side.stop - part.start]
                        for side, part in zip(box[n_time:], given[n_time:], strict=True)]}

    def _write_corrections(self, picture: Picture, box: Box, folder: Path, check: Check) -> dict[str, Any]:
        """What was corrected around a box; for a thread."""
        given = self._given(picture, box)
        image = to_image(picture.order.source, given)
        n_time = len(given) - image.ndim
        corrections = picture.image.corrections(given)
        labels = corrections.labels.reshape(corrections.labels.shape[n_time:])
        examples = corrections.to_examples().reshape(labels.shape)
        if picture.order.model.kind == "classes":  # one that the model lacks can only be learned thoroughly
            examples[labels >= len(picture.order.model.classes)] = 0
        if not examples.any():
            return {"forget": True}
        axes = "ZYX"[-image.ndim:]
        return {name: jobs.write_image(folder, image.with_data(values, axes), name, lambda _: check())
                for name, values in (("corrections", examples), ("labels", labels))}

    def _given(self, picture: Picture, box: Box) -> Box:
        """The box, and around it what the network needs to see."""
        patch = picture.order.model.plan.patch_size
        n_flat = len(box) - len(patch)
        margins = (*(0,) * n_flat, *patch)
        return tuple(slice(max(0, side.start - margin), min(size, side.stop + margin))
                     for side, margin, size in zip(box, margins, picture.image.view.shape, strict=True))

    def _box(self, picture: Picture) -> Box:
        """All of a small image, else what lies around the middle of the view; the former box while that is in it."""
        reading, shape = picture.reading, picture.image.view.shape
        here = self._corrector.slice_in_view(picture)
        n_time = len(shape) - len(reading.spatial)
        spatial = shape[n_time:]
        focus = focus_point(self._viewer, picture.layer, reading)
        if self._view is not None and self._view[0] is picture:
            former = self._view[1]
            if former[:n_time] == here[:n_time] and all(
                    side.start <= at < side.stop for side, at in zip(former[n_time:], focus, strict=True)):
                return former
        if math.prod(spatial) <= _MOST_VOXELS:
            return (*here[:n_time], *(slice(0, size) for size in spatial))
        side = int(_MOST_VOXELS ** (1 / len(spatial)))
        starts = [int(np.clip(at - side / 2, 0, max(0, size - side))) for at, size in zip(focus, spatial, strict=True)]
        return (*here[:n_time], *(slice(start, min(size, start + side))
                                  for start, size in zip(starts, spatial, strict=True)))

    def _on_ready(self, picture: Picture, box: Box) -> None:
        """The worker knows the view."""
        self._view = (picture, box)
        self._over()

    def _on_found(self, picture: Picture, box: Box, found: NDArray[Any]) -> None:
        """Show it, unless the next stroke is there already: its answer will hold this one, too."""
        self._view, self._tries_again = (picture, box), True
        self._over()
        if self._waiting is None and self.is_on and picture in self._corrector.pictures:
            self._show(picture, box, found)

    def _show(self, picture: Picture, box: Box, found: NDArray[Any]) -> None:
        """Change what nobody has looked at, in place, so that napari's undo steps still fit."""
        layer = picture.layer
        self._corrector.flush(picture)
        before = np.asarray(layer.data[box])
        found = found.reshape(before.shape)
        if picture.order.model.kind == "instances":
            inner = [(side.start > 0, side.stop < size) for side, size in
                     zip(box, picture.image.view.shape, strict=True)]
            found = fit_in(found, before, inner, int(layer.data.max()) + 1)
        shown = picture.image.show_prediction(found, box=box)
        if not np.array_equal(shown, before):
            put(layer, box, shown)
        self._corrector.recount()

    def _on_failed(self, picture: Picture, sentence: str, details: str) -> None:
        """A worker that was started anew knows nothing of the view; that is told once more."""
        had_view, self._view = self._view is not None, None
        self._over()
        if had_view and self._tries_again:
            self._tries_again = False
            self._on_stroke(picture)
        else:
            self.failed.emit(sentence, details)

    def _over(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.close()
        self.told.emit("")
        if self._waiting is not None:
            self._timer.start()

    def _on_detached(self, picture: Picture) -> None:
        if self._waiting is picture:
            self._waiting = None
        if self._view is not None and self._view[0] is picture:
            self._view = None


def fit_in(found: NDArray[Any], before: NDArray[Any], inner: list[tuple[bool, bool]], first_free: int
           ) -> NDArray[np.int32]:
    """Objects of a box under the numbers that they had, with those that go on beyond the box left as they were.

    Parameters
    ----------
    found, before : object numbers in the box, (*S)
    inner : whether the labels go on before and behind the box, per axis
    first_free : number for the first object that was not there before
    """
    beyond = np.unique(np.concatenate([np.zeros(1, before.dtype), *_faces(before, inner)]))
    kept = np.where(np.isin(before, beyond), before, 0).astype(np.int32)
    cut = np.unique(np.concatenate([np.zeros(1, found.dtype), *_faces(found, inner)]))
    fresh = np.where(np.isin(found, cut) | (kept > 0), 0, found)
    names, position = np.unique(fresh, return_inverse=True)
    position = position.reshape(fresh.shape)
    former, former_position = np.unique(np.where(kept > 0, 0, before), return_inverse=True)
    both = np.bincount(position.ravel() * len(former) + former_position.ravel(),
                       minlength=len(names) * len(former)).reshape(len(names), len(former))
    both[:, former == 0] = 0
    numbers = np.zeros(len(names), np.int32)
    taken: set[int] = set()
    for place in sorted(range(len(names)), key=lambda at: -int(both[at].max(initial=0))):
        if names[place] == 0:
            continue
        best = int(both[place].argmax())
        number = int(former[best]) if both[place, best] else 0
        if not number or number in taken:
            number, first_free = first_free, first_free + 1
        taken.add(number)
        numbers[place] = number
    return np.where(kept > 0, kept, numbers[position]).astype(np.int32)


def _faces(values: NDArray[Any], inner: list[tuple[bool, bool]]) -> list[NDArray[Any]]:
    """The outermost voxels on the sides where the labels go on."""
    return [values.take(end, axis=axis).ravel() for axis, ends in enumerate(inner)
            for end, goes_on in zip((0, -1), ends, strict=True) if goes_on]

"""What happens between the button and the result: runs in order, previews, the layer, undo, decoding again."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from psygnal import Signal

from mambaseg import Image, Progress, UserError, jobs, words
from mambaseg.models import Model
from mambaseg.progress import Preview
from napari_mambaseg._adapt import Source, to_image
from napari_mambaseg._entrance import Entrance
from napari_mambaseg._layers import (
    Outcome,
    finish_layer,
    outcome_of,
    paint_preview,
    preview_layer,
    probability_layer,
)
from napari_mambaseg._session import Check, Run, Session
from napari_mambaseg._where import Part

__all__ = ["Order", "Segmenter", "Shown"]

_MOST_KEPT_BYTES = 2**30  # of probabilities, for the sliders
_CORRECTED = ("You have painted on this result, so the sliders leave it as it is; press Segment to start anew, or "
              "Undo to take the result away.")
_MOST_COPIED_BYTES = 2**27  # for a mere estimate
_REDRAW_EVERY_S = 0.2  # drawing a large layer takes longer than receiving a window of it


@dataclass(frozen=True)
class Order:
    """What the user asked for, as it was at that moment.

    Parameters
    ----------
    model : the description; `model_name` is what the worker process finds it by
    focus : what the user looks at, in voxels per spatial axis
    options : further keyword arguments of `mambaseg.segment`: tta, device, precision
    with_probabilities : also as a layer
    replaces : the result that the new one takes the place of, or None
    """

    source: Source
    part: Part
    model: Model
    model_name: str
    focus: tuple[float, ...]
    options: dict[str, Any] = field(default_factory=dict)
    with_probabilities: bool = False
    replaces: Any = None

    @property
    def result_name(self) -> str:
        """What its labels are called in the layer list."""
        return f"{self.source.name} {words.things(self.model)}"

    @property
    def given(self) -> tuple[slice, ...]:
        """The part of the layer's labels that the model gets to see.

        Of an array in memory that is everything, so that a part comes out as it would in the whole. Of a lazy one it is
        the part and a window's width around it: the rest is never loaded.
        """
        margin = None
        if self.source.is_lazy:
            patch = self.model.plan.patch_size
            margin = (*(0,) * (len(self.source.reading.spatial) - len(patch)), *patch)
        return self.part.slices(self.source, margin)

    def write_request(self, folder: Path, check: Check) -> dict[str, Any]:
        """Copy the image to where the worker process can read it; what to ask of that process. For a thread."""
        image = to_image(self.source, self.given)
        keeps = 4 * self.model.n_outputs * math.prod(image.data.shape) / image.n_channels < _MOST_KEPT_BYTES
        focus = [point - part.start for point, part in zip(self.focus, self.given[-image.ndim:], strict=True)]
        return {**self._request(image), "image": jobs.write_image(folder, image, progress=lambda _: check()),
                "focus": focus, "keep_probabilities": keeps}

    def write_question(self, folder: Path, check: Check) -> dict[str, Any]:
        """The same for an estimate, which makes do with a sample where the image is large. For a thread."""
        image = to_image(self.source, self.given)
        is_small = not self.source.is_lazy and image.data.nbytes < _MOST_COPIED_BYTES
        name = (jobs.write_image(folder, image, progress=lambda _: check()) if is_small
                else jobs.write_stand_in(folder, image))
        return {**self._request(image), "image": name}

    def _request(self, image: Image) -> dict[str, Any]:
        """What both ask for."""
        spatial = self.given[-image.ndim:]
        box = self.part.box and [[start - part.start, stop - part.start]
                                 for (start, stop), part in zip(self.part.box, spatial, strict=True)]
        return {"model": self.model_name, "roi": box, **self.options}


@dataclass
class Shown:
    """A result that lies in the viewer.

    Parameters
    ----------
    run : keeps the files that decoding again needs
    extra : further layers that belong to it
    """

    layer: Any
    order: Order
    outcome: Outcome
    run: Run
    extra: list[Any] = field(default_factory=list)


class Segmenter:
    """Runs orders one after the other and shows what they find.

    Signals: `began` (Order), `progressed` (Progress, number of orders that wait), `shown` (Shown), `ended` (a sentence,
    details for a bug report, whether undo makes sense) after the last order. `failed` (a sentence, details)
    comes after that `ended` where something went wrong. `changing` (Shown) comes before the sliders change a result,
    `changed` after.
    """

    began = Signal(object)
    progressed = Signal(object, int)
    shown = Signal(object)
    ended = Signal(str, str, bool)
    failed = Signal(str, str)
    changing = Signal(object)
    changed = Signal(object)

    def __init__(self, viewer: Any, session: Session) -> None:
        self._viewer = viewer
        self._session = session
        self._entrance = Entrance(viewer)
        self._waiting: list[Order] = []
        self._order: Order | None = None
        self._run: Run | None = None
        self._decoding: Run | None = None
        self._preview: Any = None
        self._drawn_s = 0.0
        self.latest: Shown | None = None
        viewer.layers.events.removed.connect(self._on_removed)
        viewer.dims.events.point.connect(self._on_step)

    @property
    def is_busy(self) -> bool:
        """Whether an order is being carried out."""
        return self._run is not None

    def start(self, order: Order) -> None:
        """Carry out an order, after those that were given before."""
        self._waiting.append(order)
        if self._run is None:
            self._next()

    def cancel(self) -> None:
        """Stop what runs and forget what waits."""
        self._waiting.clear()
        if self._run is not None:
            self._run.cancel()

    def undo(self) -> None:
        """Take the latest result away, and bring back what it replaced."""
        if self.latest is None:
            return
        shown, self.latest = self.latest, None
        index = self._remove(shown.layer)
        for layer in shown.extra:
            self._remove(layer)
        if shown.order.replaces is not None:
            self._viewer.layers.insert(index, shown.order.replaces)
        shown.run.close()
        self.ended.emit("", "", False)

    def decode(self, settings: Mapping[str, float]) -> bool:
        """Cut the latest result into objects anew, if there is one; the network is not asked again."""
        shown = self.latest
        if shown is None or shown.outcome.probabilities is None or self.is_busy:
            return False
        if self._decoding is not None:
            self._decoding.close()
        former = shown.outcome

        def request(folder: Path, check: Check) -> dict[str, Any]:
            if not np.array_equal(shown.layer.data, shown.outcome.found):
                raise UserError(_CORRECTED)
            return {"image": "image", "model": shown.order.model_name, "decoder": dict(settings)}

        def finish(answer: dict[str, Any], folder: Path) -> Outcome:
            return outcome_of(answer, folder, shown.order.source, shown.order.given).after(former)

        run = self._decoding = self._session.start("decode", request, finish, shown.run.folder)
        run.finished.connect(lambda outcome: self._redecoded(shown, outcome))
        run.failed.connect(self._on_decoding_failed)
        return True

    def close(self) -> None:
        """Let go of the viewer."""
        self._entrance.close()
        self._viewer.layers.events.removed.disconnect(self._on_removed)
        self._viewer.dims.events.point.disconnect(self._on_step)

    def _next(self) -> None:
        """Begin the next order."""
        order = self._order = self._waiting.pop(0)
        run = self._run = self._session.start(
            "segment", order.write_request,
            lambda answer, folder: outcome_of(answer, folder, order.source, order.given))
        run.progressed.connect(self._on_progress)
        run.finished.connect(self._on_finished)
        run.failed.connect(self._on_failed)
        run.cancelled.connect(self._on_cancelled)
        self.began.emit(order)

    def _on_progress(self, update: Progress) -> None:
        self.progressed.emit(update, len(self._waiting))
        if not isinstance(update.preview, Preview) or self._order is None:
            return
        order, is_new = self._order, self._preview is None
        if is_new:
            self._preview = preview_layer(order.source, order.result_name)
        paint_preview(self._preview, update.preview, order.given)
        if is_new:
            self._entrance.add(self._preview)
        elif time.monotonic() - self._drawn_s > _REDRAW_EVERY_S:
            self._preview.refresh(extent=False, thumbnail=False, highlight=False)
            self._drawn_s = time.monotonic()

    def _on_finished(self, outcome: Outcome) -> None:
        order, run, layer = self._order, self._run, self._preview
        if order is None or run is None:
            return
        if layer is None:
            layer = preview_layer(order.source, order.result_name)
            self._entrance.add(layer)
        finish_layer(layer, outcome, order.model)
        if order.replaces is not None and order.replaces in self._viewer.layers:
            self._remove(order.replaces)
            layer.name = order.result_name  # which was taken so far
        shown = Shown(layer, order, outcome, run)
        probabilities = probability_layer(outcome, order.source, order.given) if order.with_probabilities else None
        if probabilities is not None:
            shown.extra.append(self._viewer.add_layer(probabilities))
        if self.latest is not None:
            self.latest.run.close()
        self.latest = shown
        self._preview = None
        self._over(_told(outcome.record), "", keep=True)
        self._on_step()
        self.shown.emit(shown)

    def _on_failed(self, sentence: str, details: str) -> None:
        self._waiting.clear()
        self._over(sentence, details)
        self.failed.emit(sentence, details)

    def _on_cancelled(self) -> None:
        self._over("Stopped.", "")

    def _over(self, sentence: str, details: str, *, keep: bool = False) -> None:
        """An order has ended in one way or the other."""
        run, self._run, self._order = self._run, None, None
        if not keep:
            if run is not None:
                run.close()
            if self._preview is not None:
                preview, self._preview = self._preview, None
                self._remove(preview)
        if self._waiting:
            self._next()
        else:
            self.ended.emit(sentence, details, keep)

    def _redecoded(self, shown: Shown, outcome: Outcome) -> None:
        """The sliders' result has come."""
        if shown is not self.latest:
            return
        self.changing.emit(shown)
        finish_layer(shown.layer, outcome, shown.order.model)
        shown.outcome = outcome
        self.changed.emit(shown)
        self._on_step()
        self.ended.emit(words.found(outcome.record), "", True)

    def _on_decoding_failed(self, sentence: str, details: str) -> None:
        """The sliders' result cannot be; the one there is stays."""
        self.ended.emit(sentence, details, True)
        self.failed.emit(sentence, details)

    def _remove(self, layer: Any) -> int:
        """Take a layer out of the viewer; where it was."""
        if layer not in self._viewer.layers:
            return len(self._viewer.layers)
        index = int(self._viewer.layers.index(layer))
        self._viewer.layers.remove(layer)
        return index

    def _on_removed(self, event: Any) -> None:
        """The user threw a layer away: an unfinished result means stop, the image does not matter any more."""
        if self._preview is not None and event.value is self._preview:
            self._preview = None
            self.cancel()
        elif self.latest is not None and event.value is self.latest.layer:
            shown, self.latest = self.latest, None
            shown.run.close()
            self.ended.emit("", "", False)

    def _on_step(self, event: Any = None) -> None:
        """Bring the objects of the time point in view to the table's end: napari shows the last row of a number."""
        if self.latest is None:
            return
        layer, features = self.latest.layer, self.latest.outcome.features
        if features is None or "frame" not in features.columns:
            return
        frame = round(float(layer.world_to_data(self._viewer.dims.point[-layer.ndim:])[0]))
        order = np.argsort(features["frame"].to_numpy() == frame, kind="stable")
        layer.features = features.iloc[order].reset_index(drop=True)


def _told(record: Mapping[str, Any]) -> str:
    """What came of a run, and what had to be decided for it, a sentence a line."""
    return "\n".join([f"{words.found(record)} in {words.duration(record['seconds'])}", *record["notes"]])

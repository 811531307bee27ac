"""The panel in napari's window: the three cards, and the wires between them and the work."""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from napari.layers import Shapes
from qtpy.QtCore import Qt, QTimer
from qtpy.QtGui import QKeyEvent, QShowEvent
from qtpy.QtWidgets import QDockWidget, QLabel, QLineEdit, QPushButton, QVBoxLayout, QWidget

from mambaseg import UserError, words
from mambaseg.jobs import Worker
from mambaseg.models import read_model
from napari_mambaseg._adapt import (
    Reading,
    Source,
    axes_choices,
    guess,
    source_of,
    source_of_channels,
    to_image,
    with_axes,
)
from napari_mambaseg._estimator import Estimator
from napari_mambaseg._keys import bind_keys
from napari_mambaseg._layers import warm_up
from napari_mambaseg._notify import show_problem
from napari_mambaseg._recent import models_folder, remember_model
from napari_mambaseg._segmenter import Order, Segmenter, Shown
from napari_mambaseg._session import Run, Session
from napari_mambaseg._teaching import Teaching
from napari_mambaseg._where import focus_point, part_of
from napari_mambaseg._widgets.column import Column
from napari_mambaseg._widgets.correct_card import CorrectCard
from napari_mambaseg._widgets.image_choice import ImageChoice
from napari_mambaseg._widgets.learn_card import LearnCard
from napari_mambaseg._widgets.segment_card import SegmentCard

__all__ = ["LearnPanel", "Panel"]

_WAITS = "Segment something first."
_REGION = "Region"
_ESTIMATING = "Estimating time and memory…"
_PLUGIN_NAMES = ("mambaseg", "MambaSeg")  # in a dock's title, as a script or a menu opens it


class Panel(QWidget):
    """Segment, Correct, Learn.

    Parameters
    ----------
    napari_viewer : given by napari
    worker : the process that computes; None: an own one, which ends with the panel
    """

    def __init__(self, napari_viewer: Any, worker: Worker | None = None) -> None:
        super().__init__()
        self.setObjectName("mambaseg")
        self._viewer = napari_viewer
        self._readings: weakref.WeakKeyDictionary[Any, Reading] = weakref.WeakKeyDictionary()
        self.session = Session(worker)
        self.segmenter = Segmenter(napari_viewer, self.session)
        self.estimator = Estimator(self.session)
        self.segment = SegmentCard(napari_viewer)
        self.correct = CorrectCard(_WAITS)
        self.learn = LearnCard(_WAITS)
        self.teaching = Teaching(napari_viewer, self.session, self.correct, self.learn, self._chosen_order,
                                 self._work_with)
        self._importing: Run | None = None
        self._followed: list[tuple[Any, Callable[..., None]]] = []
        self._lay_out()
        self._wire()
        bind_keys(napari_viewer, self)
        self.destroyed.connect(functools.partial(_close, self.session, self.segmenter, self.teaching,
                                                 self.segment.image, self._followed))
        self.session.in_background(warm_up)
        self._on_image()

    def run(self) -> None:
        """Segment what is chosen; while something runs, after it."""
        card = self.segment
        try:
            orders = [self._order(layers) for layers in self._meant()]
        except UserError as error:
            self._fail(str(error), "")
            return
        self.estimator.cancel()
        for order in orders:
            self.segmenter.start(order)
        remember_model(card.model.name)

    def keyPressEvent(self, event: QKeyEvent) -> None:  # noqa: N802 - Qt's name
        """Return presses the button that has the focus, else the one that segments, as in a dialog."""
        focused = self.focusWidget()
        if event.key() not in (Qt.Key.Key_Return, Qt.Key.Key_Enter) or isinstance(focused, QLineEdit):
            super().keyPressEvent(event)
        elif isinstance(focused, QPushButton):
            focused.click()
        elif not self.segmenter.is_busy:
            self.segment.run_bar.run.click()

    def showEvent(self, event: QShowEvent) -> None:  # noqa: N802 - Qt's name
        """In the dock; its title need not name the plugin, for which a narrow dock has no room."""
        super().showEvent(event)
        dock: QWidget | None = self
        while dock is not None and not isinstance(dock, QDockWidget):
            dock = dock.parentWidget()
        bar = dock.titleBarWidget() if dock is not None else None
        for title in bar.findChildren(QLabel) if bar is not None else ():
            for name in _PLUGIN_NAMES:
                title.setText(title.text().removesuffix(f" ({name})"))

    def _lay_out(self) -> None:
        self.column = Column((self.segment, self.correct, self.learn))
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.column)
        self.setMinimumWidth(260)

    def _wire(self) -> None:
        card, segmenter = self.segment, self.segmenter
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(300)
        self._soon.timeout.connect(self._estimate)
        card.image.chosen.connect(self._on_image)
        card.read_as.changed.connect(self._on_reading)
        card.model.chosen.connect(self._on_model)
        card.model.folder_chosen.connect(self._on_folder)
        card.place.chosen.connect(self._on_place)
        card.mirror.toggled.connect(lambda _: self._estimate_soon())
        card.open_sample.clicked.connect(lambda: self._viewer.open_sample("mambaseg", "tissue"))
        card.run_bar.run_wanted.connect(self.run)
        card.run_bar.cancel_wanted.connect(self._on_cancel)
        card.run_bar.undo_wanted.connect(segmenter.undo)
        card.table.clicked.connect(self._show_table)
        card.decoding.changed.connect(self._on_decoding)
        segmenter.began.connect(self._on_began)
        segmenter.progressed.connect(card.run_bar.show_progress)
        segmenter.shown.connect(self._on_shown)
        segmenter.shown.connect(self.teaching.on_shown)
        segmenter.changing.connect(lambda shown: self.teaching.corrector.leave(shown.layer))
        segmenter.changed.connect(self.teaching.on_shown)
        segmenter.ended.connect(self._on_ended)
        segmenter.failed.connect(show_problem)
        segmenter.failed.connect(lambda *_: card.read_as.offer_channels())
        self.estimator.told.connect(self._on_estimate)
        learner = self.teaching.learner
        for news in (learner.began, learner.learned, learner.ended):
            news.connect(lambda *_: self.column.bring(self.learn))

    def _meant(self) -> list[list[Any]]:
        """The chosen layers, image by image: each alone, or the channels of one."""
        layers = self.segment.image.layers
        return [layers] if self.segment.image.is_one else [[layer] for layer in layers]

    def _source(self, layers: list[Any]) -> Source:
        """An image as it is now."""
        reading = self._reading(layers[0])
        if len(layers) > 1:
            return source_of_channels(layers, reading, self.segment.model.model.channels)
        return source_of(layers[0], reading)

    def _order(self, layers: list[Any]) -> Order:
        """What the fields say about one image."""
        card, layer = self.segment, layers[0]
        reading = self._reading(layer)
        latest = self.segmenter.latest
        is_again = self._has_result([layers]) and card.again.currentData()
        return Order(self._source(layers),
                     part_of(self._viewer, layer, reading, card.place.place,
                             all_frames=card.place.all_frames.isChecked()),
                     card.model.model, card.model.name, focus_point(self._viewer, layer, reading), card.settings,
                     card.probabilities.isChecked(), latest.layer if latest and is_again else None)

    def _chosen_order(self) -> Order | None:
        """What would be segmented; None where no image is chosen, or not one that can be."""
        meant = self._meant()
        try:
            return self._order(meant[0]) if meant else None
        except UserError:
            return None

    def _work_with(self, folder: str, again: bool) -> None:
        """Use another model from now on, at once where `again`."""
        self._use_model(folder)
        if again:
            self.run()

    def _reading(self, layer: Any) -> Reading:
        """How a layer is read: as the user said, else as guessed."""
        return self._readings.get(layer) or guess(layer)

    def _on_image(self) -> None:
        """Another image is meant, or it is another than it was."""
        card = self.segment
        meant = self._meant()
        card.hint.setVisible(not meant)
        card.run_bar.run.setEnabled(bool(meant))
        card.again.setVisible(self._has_result(meant))
        self._follow(card.image.layers)
        self.teaching.going_on.look()
        if not meant:
            card.read_as.show_reading(None, (), 1, "")
            card.show_estimate("")
            return
        try:
            self._show_reading(meant[0])
        except UserError as error:
            card.read_as.show_reading(None, (), 1, str(error))
            card.show_estimate("")
            return
        self._estimate_soon()

    def _show_reading(self, layers: list[Any]) -> None:
        """Say how an image is read, and offer what suits it."""
        card, layer = self.segment, layers[0]
        reading, source = self._reading(layer), self._source(layers)
        line = f"Read as {words.read_as(to_image(source))}"
        if len(layers) > 1:
            line += f"\nChannels in this order: {', '.join(source.channels)}"
            card.read_as.show_reading(reading, (reading.axes,), 1, line)
        else:
            whole = to_image(source_of(layer, Reading(reading.axes, reading.spacing, reading.unit)))
            card.read_as.show_reading(reading, axes_choices(layer), 1 if whole.is_rgb else whole.n_channels, line)
        card.place.suit(n_spatial=len(reading.spatial), has_time="T" in reading.axes)

    def _follow(self, layers: list[Any]) -> None:
        """Listen to what becomes of the chosen layers, and no longer to others."""
        _forget(self._followed)
        for layer in layers:
            for event in (layer.events.scale, layer.events.units, layer.events.axis_labels, layer.events.data):
                event.connect(self._on_layer)
                self._followed.append((event, self._on_layer))
            layer.events.name.connect(self.segment.image.refill)
            self._followed.append((layer.events.name, self.segment.image.refill))

    def _on_layer(self, event: Any = None) -> None:
        """Voxel size, axes or pixels of the image have changed: its axes stay as the user said, if they can."""
        for layer in self.segment.image.layers:
            former = self._readings.pop(layer, None)
            if former is not None and former.axes in axes_choices(layer):
                self._readings[layer] = dataclasses.replace(with_axes(layer, former.axes), channel=former.channel)
        self._on_image()

    def _on_reading(self) -> None:
        """The user said how the image is to be read."""
        reading, layers = self.segment.read_as.reading, self.segment.image.layers
        if reading is None:
            return
        for layer in layers:
            former = self._reading(layer)
            self._readings[layer] = reading if former.axes == reading.axes else with_axes(layer, reading.axes)
        self._on_image()

    def _on_model(self) -> None:
        """Another model is meant; it may want the channels in another order."""
        if self.segment.image.is_one:
            self._on_image()
        self._estimate_soon()

    def _on_folder(self, folder: str) -> None:
        """The user pointed at a folder: a model package, or one that has to become a package first."""
        if (Path(folder) / "model.json").is_file():
            self._use_model(folder)
            return
        output = models_folder() / Path(folder).name
        run = self.session.start("import", lambda _, check: {"source": folder, "output": str(output)},
                                 lambda answer, _: str(answer["model"]))
        self.segment.run_bar.show_busy("Reading the model…")
        run.finished.connect(self._use_model)
        run.failed.connect(self._fail)
        run.cancelled.connect(lambda: self.segment.run_bar.show_idle("Stopped."))
        for end in (run.finished, run.failed, run.cancelled):
            end.connect(lambda *_: run.close())
        self._importing = run

    def _use_model(self, folder: str) -> None:
        """A model package is there."""
        try:
            read_model(Path(folder))
        except UserError as error:
            self._fail(str(error), "")
            return
        remember_model(folder)
        self.segment.model.fill(folder)
        if not self.segmenter.is_busy:
            self.segment.run_bar.show_idle()

    def _on_place(self) -> None:
        """Another part is meant; a region has to be drawn somewhere."""
        if self.segment.place.place == "region" and not any(
                isinstance(layer, Shapes) for layer in self._viewer.layers):
            shapes = self._viewer.add_shapes(name=_REGION, face_color="transparent", edge_color="yellow", edge_width=2)
            shapes.mode = "add_rectangle"
        self._estimate_soon()

    def _on_cancel(self) -> None:
        self.segment.run_bar.show_cancelling()
        self.segmenter.cancel()
        if self._importing is not None:
            self._importing.cancel()

    def _on_began(self, order: Order) -> None:
        self.segment.run_bar.show_busy(f"Copying {order.source.name}…")
        self.segment.show_estimate("")

    def _on_shown(self, shown: Shown) -> None:
        """A result lies in the viewer."""
        card, model = self.segment, shown.order.model
        card.show_result(has_table=shown.outcome.features is not None,
                         can_decode=shown.outcome.probabilities is not None and model.kind == "instances")
        card.decoding.start_from(shown.outcome.record["settings"].get("decoder") or {}, words.size_unit(model))
        card.again.setVisible(self._has_result(self._meant()))

    def _on_decoding(self, settings: Mapping[str, float]) -> None:
        """The sliders were moved; they do not wait for an estimate."""
        self.estimator.cancel()
        if self.segmenter.decode(settings):
            self.segment.run_bar.show_idle("Cutting into objects anew…", can_undo=True)

    def _on_ended(self, sentence: str, details: str, can_undo: bool) -> None:
        """Nothing runs any more."""
        card = self.segment
        card.run_bar.show_idle(sentence, details, can_undo=can_undo and self.segmenter.latest is not None)
        if self.segmenter.latest is None:
            card.show_result(has_table=False, can_decode=False)
            card.again.hide()
        self._soon.start()

    def _fail(self, sentence: str, details: str) -> None:
        """Something that was asked for cannot be."""
        self.segment.run_bar.show_idle(sentence, details)
        show_problem(sentence, details)

    def _estimate_soon(self) -> None:
        """Something else is meant, of which the former estimate says nothing."""
        if not self.segmenter.is_busy:
            self.segment.show_estimate(_ESTIMATING)
        self._soon.start()

    def _estimate(self) -> None:
        """Ask what the chosen work would take; not while the process that knows is busy."""
        if self.segmenter.is_busy or not self.segment.image.layers:
            return
        try:
            self.estimator.ask(self._order(self._meant()[0]))
        except UserError as error:
            self._on_estimate(str(error), False)

    def _on_estimate(self, line: str, is_fine: bool) -> None:
        """Show what the work will take, in red where it cannot be done."""
        if not self.segmenter.is_busy:
            self.segment.show_estimate(line, "" if is_fine else _warning(self._viewer))
            if not is_fine:
                self.segment.read_as.offer_channels()

    def _has_result(self, meant: list[list[Any]]) -> bool:
        """Whether the latest result is the one of the only image that is meant."""
        latest = self.segmenter.latest
        if latest is None or len(meant) != 1:
            return False
        source = latest.order.source
        return {layer.name for layer in meant[0]} == set(source.channels or (source.name,))

    def _show_table(self) -> None:
        """Open napari's own table of the result's features."""
        if self.segmenter.latest is not None:
            self._viewer.layers.selection.active = self.segmenter.latest.layer
            self._viewer.window.add_plugin_dock_widget("napari", "Features table widget")


class LearnPanel(Panel):
    """The same three cards, for those who come with labels to correct: the card Segment is folded."""

    def __init__(self, napari_viewer: Any, worker: Worker | None = None) -> None:
        super().__init__(napari_viewer, worker)
        self.segment.head.setChecked(False)


def _warning(viewer: Any) -> str:
    """A red that can be read on the theme's background."""
    return "#b3261e" if viewer.theme == "light" else "#ff9a8b"


def _forget(followed: list[tuple[Any, Callable[..., None]]]) -> None:
    """Listen no longer."""
    for event, act in followed:
        event.disconnect(act)
    followed.clear()


def _close(session: Session, segmenter: Segmenter, teaching: Teaching, image: ImageChoice,
           followed: list[tuple[Any, Callable[..., None]]], *_: object) -> None:
    """The panel is gone, with its window or alone."""
    _forget(followed)
    image.disconnect_viewer()
    teaching.close()
    segmenter.close()
    session.close()

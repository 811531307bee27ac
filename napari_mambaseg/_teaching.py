"""The wires between the cards Correct and Learn and the work behind them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from napari.layers import Labels
from qtpy.QtWidgets import QWidget

from mambaseg import UserError, words
from mambaseg.learn import Project, ProjectImage, identify, project_of, recent_projects
from mambaseg.models import read_model, resolve
from napari_mambaseg._adapt import labels_shape, to_image
from napari_mambaseg._adapting import Adapter
from napari_mambaseg._corrections import Corrector, Picture
from napari_mambaseg._layers import labels_layer
from napari_mambaseg._learning import Learner, Lesson, new_labels
from napari_mambaseg._notify import show_problem
from napari_mambaseg._objects import Clicks
from napari_mambaseg._segmenter import Order, Shown
from napari_mambaseg._session import Session
from napari_mambaseg._unsure import Tour
from napari_mambaseg._widgets.correct_card import CorrectCard
from napari_mambaseg._widgets.learn_card import LearnCard

__all__ = ["Teaching"]

_WAITS = "Segment something first."
_MOST_LOOKED_UP_BYTES = 2**28  # of an image, to see whether it was corrected before


class Teaching:
    """Corrections, instant and thorough learning of one panel.

    Parameters
    ----------
    order_of : what the panel's fields say about the chosen image; None where there is none
    use_model : have the panel work with a model package, and segment with it where the second argument is true
    """

    def __init__(self, viewer: Any, session: Session, correct: CorrectCard, learn: LearnCard,
                 order_of: Callable[[], Order | None], use_model: Callable[[str, bool], None]) -> None:
        self._viewer = viewer
        self._correct = correct
        self._learn = learn
        self._order_of = order_of
        self._use_model = use_model
        self._found: tuple[Order, Project, ProjectImage] | None = None  # what could be gone on with
        self._recent: Path | None = None  # an image of the last project, while none is open
        self._goes_on = False
        self._lesson: Lesson | None = None
        self.corrector = Corrector(viewer)
        self.tour = Tour(viewer, self.corrector)
        self.clicks = Clicks()
        self.adapter = Adapter(viewer, session, self.corrector)
        self.learner = Learner(viewer, session, self.corrector)
        self._wire_correcting()
        self._wire_learning()
        viewer.layers.selection.events.active.connect(self._on_active)

    def close(self) -> None:
        """Put the last strokes on the disk and end everything."""
        self._viewer.layers.selection.events.active.disconnect(self._on_active)
        self.adapter.close()
        self.learner.close()
        self.corrector.close()

    # --- what the panel tells ---

    def on_shown(self, shown: Shown) -> None:
        """A segmentation has come."""
        self.corrector.take(shown.layer, shown.order, shown.outcome.labels, shown)

    def on_image(self) -> None:
        """Another image is chosen: it may have been corrected before."""
        self._found = None
        self._offer()
        order = self._order_of()
        if order is None:
            self._offer_recent()
            return
        is_open = any(each.order.source.name == order.source.name for each in self.corrector.pictures)
        if is_open or order.source.is_lazy or order.source.array.nbytes > _MOST_LOOKED_UP_BYTES:
            return

        def look() -> tuple[Project, ProjectImage] | None:
            if project_of(identify(to_image(order.source))) is None:
                return None
            return self.corrector.open(order)

        self.corrector.background.do(look, lambda found: self._on_looked(order, found), lambda *_: None)

    def confirm(self) -> None:
        """Key C: what is in view is right."""
        picture = self.corrector.current
        if picture is None:
            return
        try:
            self.corrector.confirm(picture, self.corrector.place(picture))
        except UserError as error:
            self._fail(str(error))

    def show_unsure(self) -> None:
        """Key U: the least sure place, or the next one."""
        if self.corrector.current is not None:
            self.tour.start(self.corrector.current)

    def learn(self) -> None:
        """Ctrl+L: learn from all that was corrected."""
        picture = self.corrector.current
        if picture is None or self.learner.is_busy:
            return
        self.corrector.flush(picture)
        self.corrector.background.do(lambda: new_labels([picture]), lambda labels: self._learn_with(picture, labels),
                                     lambda sentence, details: self._fail(sentence))

    # --- correcting ---

    def _wire_correcting(self) -> None:
        card, corrector = self._correct, self.corrector
        corrector.attached.connect(self._on_attached)
        corrector.detached.connect(self._on_detached)
        corrector.stroked.connect(lambda picture: card.show_saved(picture.saved_s))
        corrector.counted.connect(self._on_counted)
        corrector.failed.connect(self._on_not_kept)
        self.tour.moved.connect(self._on_moved)
        self.tour.failed.connect(card.show_message)
        self.clicks.told.connect(self._on_clicks)
        self.clicks.failed.connect(self._fail)
        self.adapter.told.connect(lambda line: card.adapt_line.setText(line))
        self.adapter.failed.connect(self._fail)
        card.confirm.clicked.connect(lambda: self.confirm())
        card.unsure.clicked.connect(lambda: self.show_unsure())
        card.split.clicked.connect(lambda: self._click("split"))
        card.merge.clicked.connect(lambda: self._click("merge"))
        card.locked.toggled.connect(self._on_locked)
        card.adapt.toggled.connect(self._on_adapt)
        card.go_on.clicked.connect(lambda: self.go_on())
        card.adopt.clicked.connect(lambda: self._adopt())

    def _on_attached(self, picture: Picture) -> None:
        """A result can be corrected."""
        model, card = picture.order.model, self._correct
        self._found, self._recent = None, None
        self._offer()
        card.wait_for("")
        self._learn.wait_for("")
        card.show_found(words.found(picture.shown.outcome.record) if picture.shown is not None else "")
        card.show_message("")
        can_adapt = model.kind != "regions"
        card.show_kind(is_instances=model.kind == "instances", can_adapt=can_adapt)
        wants = bool(picture.project.settings.get("adapt", True)) and can_adapt
        card.adapt.blockSignals(True)
        card.adapt.setChecked(wants)
        card.adapt.blockSignals(False)
        self.adapter.is_on = wants
        card.show_saved(picture.saved_s)
        self._remember(picture)
        self._bind(picture.layer)
        self._show_models()
        for notice in picture.project.notices:
            self._fail(notice)

    def _on_detached(self, picture: Picture) -> None:
        self.clicks.end()
        if not self.corrector.pictures:
            self._correct.wait_for(_WAITS)
            if not self.learner.is_busy:
                self._learn.wait_for(_WAITS)

    def _remember(self, picture: Picture) -> None:
        """What the next start needs to go on here."""
        path = picture.order.source.path
        self.corrector.background.do(
            lambda: picture.project.save_settings(model=picture.order.model_name, path=str(path) if path else ""),
            lambda _: None, lambda sentence, details: self._fail(sentence))

    def _on_counted(self, picture: Picture) -> None:
        if picture is self.corrector.current:
            self._correct.show_counts(picture.counts)

    def _on_not_kept(self, sentence: str) -> None:
        picture = self.corrector.current
        if picture is not None and picture.problem:
            self._correct.show_saved(picture.saved_s, picture.problem)
        self._fail(sentence)

    def _fail(self, sentence: str) -> None:
        """Say what cannot be, in the card and in napari's corner."""
        self._correct.show_message(sentence)
        show_problem(sentence)

    def _click(self, act: str) -> None:
        if self.corrector.current is not None:
            self._viewer.layers.selection.active = self.corrector.current.layer
            self.clicks.start(self.corrector.current, act)

    def _on_clicks(self, hint: str) -> None:
        self._correct.show_message(hint)
        if not hint:
            self._correct.split.setChecked(False)
            self._correct.merge.setChecked(False)

    def _on_locked(self, is_locked: bool) -> None:
        self.corrector.keep_locked = is_locked
        self.corrector.recount()

    def _on_adapt(self, is_on: bool) -> None:
        project = self.corrector.project
        if project is not None:
            project.save_settings(adapt=is_on)
        self.adapter.switch(is_on)

    def _on_moved(self, number: int, n: int) -> None:
        """Another unsure place is in view; Enter and Escape are about it as long as there is one."""
        self._correct.show_place(number, n)
        self._correct.show_message("Enter: it is right. Draw: correct it. Esc: skip." if number else "")
        picture = self.corrector.current
        if picture is None:
            return
        picture.layer.bind_key("Enter", (lambda _: self.tour.accept()) if number else None, overwrite=True)
        picture.layer.bind_key("Escape", (lambda _: self.tour.skip()) if number else None, overwrite=True)
        if number:
            self._viewer.layers.selection.active = picture.layer
            _focus_canvas(self._correct)

    def _bind(self, layer: Any) -> None:
        """Keys of the layer come before napari's own; B compares as long as there is something to compare."""
        def hold(pressed: Any) -> Iterator[None]:
            if not self.learner.can_compare:
                pressed.preserve_labels = not pressed.preserve_labels
                yield
                return
            self.learner.hold(True)
            yield
            self.learner.hold(False)

        layer.bind_key("B", hold, overwrite=True)
        layer.bind_key("C", lambda _: self.confirm(), overwrite=True)

    # --- going on, and labels that were there before ---

    def go_on(self) -> None:
        """Show the labels as they were left."""
        if self._found is None:
            if self._recent is not None:
                self._goes_on = True
                self._viewer.open(self._recent)
            return
        order, project, image = self._found
        self._found = None
        name = str(project.settings.get("model") or order.model_name)
        try:
            order = Order(order.source, order.part, read_model(resolve(name)), name, order.focus)
        except UserError:  # that model has gone; the chosen one will do
            name = order.model_name
        image.kind = order.model.kind
        layer = labels_layer(image.labels(), order.source, f"{order.source.name} {words.things(order.model)}",
                             order.model.kind)
        self._viewer.add_layer(layer)
        self.corrector.resume(layer, order, image, project)
        self._use_model(name, False)

    def _on_looked(self, order: Order, found: tuple[Project, ProjectImage] | None) -> None:
        if found is None or any(each.image.identity == found[1].identity for each in self.corrector.pictures):
            self._goes_on = False
            return
        self._found = (order, *found)
        if self._goes_on:
            self._goes_on = False
            self.go_on()
            return
        self._offer()

    def _offer_recent(self) -> None:
        """With no image open: the one that was corrected last, if its file is still there."""
        self._recent = None
        for recent in recent_projects()[:1]:
            try:
                project = Project.open(recent.folder)
            except UserError:
                continue
            path = str(project.settings.get("path") or "")
            project.close()
            self._recent = Path(path) if path and Path(path).exists() else None
        self._offer()

    def _offer(self) -> None:
        """Show what can be gone on with, or taken over."""
        card, stray = self._correct, self._stray_layer()
        is_idle = not self.corrector.pictures
        line = ""
        if self._found is not None:
            line = f"You have corrected this picture before{_when(self._found[1])}."
        elif self._recent is not None and is_idle:
            line = f"Last time you corrected {self._recent.name}."
        card.resume_line.setText(line)
        card.resume_line.setVisible(bool(line))
        card.go_on.setVisible(bool(line))
        card.adopt.setVisible(stray is not None)
        card.resume.setVisible(bool(line) or stray is not None)

    def _on_active(self, event: Any = None) -> None:
        self._offer()
        picture = self.corrector.current
        if picture is not None:
            self._correct.show_counts(picture.counts)
            self._correct.show_saved(picture.saved_s, picture.problem)

    def _stray_layer(self) -> Any:
        """The active layer, where it holds labels that nobody keeps."""
        active = self._viewer.layers.selection.active
        if not isinstance(active, Labels) or not active.editable or self._order_of() is None:
            return None
        return None if active in [each.layer for each in self.corrector.pictures] else active

    def _adopt(self) -> None:
        """Have labels corrected that did not come from the panel."""
        layer, order = self._stray_layer(), self._order_of()
        if layer is None or order is None:
            return
        shape = labels_shape(order.source)
        if layer.data.shape != shape:
            self._fail(f"{layer.name} is {_times(layer.data.shape)} voxels, but {order.source.name} is "
                       f"{_times(shape)}; choose the labels that belong to the image.")
            return
        self.corrector.take(layer, order, layer.data)

    # --- learning ---

    def _wire_learning(self) -> None:
        card, learner = self._learn, self.learner
        card.learn_wanted.connect(self.learn)
        card.stop_wanted.connect(self._on_stop)
        card.keep_wanted.connect(self._on_keep)
        card.discard_wanted.connect(self._on_discard)
        card.chosen.connect(self._on_chosen)
        learner.began.connect(card.show_busy)
        learner.progressed.connect(card.show_progress)
        learner.learned.connect(self._on_learned)
        learner.ended.connect(self._on_ended)
        learner.compared.connect(card.show_compare)

    def _learn_with(self, picture: Picture, labels: list[int]) -> None:
        """Begin, once every class has a name."""
        names = [name.strip() for name in self._learn.names.text().split(",") if name.strip()]
        if len(names) != len(labels):
            self._learn.ask_names(labels)
            said = ", ".join(map(str, labels))
            new = f"Label {said} is" if len(labels) == 1 else f"Labels {said} are"
            self._learn.show_idle(f"{new} new to {picture.order.model.title}: give a name for each, then press Learn "
                                  "once more.")
            self._learn.names.setFocus()
            return
        self._learn.ask_names([])
        self._drop_lesson()
        self.learner.start(picture, new_classes=names)

    def _on_stop(self) -> None:
        self._learn.show_stopping()
        self.learner.stop()

    def _on_ended(self, sentence: str, details: str) -> None:
        self._learn.show_idle(sentence)
        if details:
            show_problem(sentence)

    def _on_learned(self, lesson: Lesson) -> None:
        self._lesson = lesson
        *scores, verdict = lesson.lines
        self._learn.show_result(scores, "\n".join([verdict, *lesson.notes]), is_better=lesson.is_better)

    def _on_keep(self) -> None:
        lesson, self._lesson = self._lesson, None
        if lesson is not None:
            folder = self.learner.keep(lesson)
            self._learn.show_idle("Kept: from now on the new model is used.")
            self._use_model(str(folder), lesson.picture.layer in self._viewer.layers)
            self._show_models()

    def _on_discard(self) -> None:
        self._drop_lesson()
        self._learn.show_idle("The old model stays.")
        self._show_models()

    def _drop_lesson(self) -> None:
        lesson, self._lesson = self._lesson, None
        if lesson is not None:
            self.learner.discard(lesson)

    def _on_chosen(self, number: int) -> None:
        """Another model of the project is to be used."""
        project = self.corrector.project
        if project is not None:
            version = project.lineage.go_back(number)
            self._use_model(str(project.lineage.path(version)), True)

    def _show_models(self) -> None:
        picture = self.corrector.current
        if picture is None:
            return
        kept = [version for version in picture.project.lineage.versions() if version.state == "kept"]
        current = next((version.number for version in kept if version.checksum == picture.order.model.checksum), None)
        self._learn.show_models(kept, current)


def _focus_canvas(inside: QWidget) -> None:
    """Let the picture have the keys, so that Enter does not press a button of the panel."""
    for widget in inside.window().findChildren(QWidget):
        if type(widget).__name__.startswith("CanvasBackend"):
            widget.setFocus()


def _when(project: Project) -> str:
    """When a project was last worked on, as " on 20 Nov"."""
    if project.saved_at_s is None:
        return ""
    day = time.localtime(project.saved_at_s)
    return f" on {day.tm_mday}.{day.tm_mon}.{day.tm_year}"


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))

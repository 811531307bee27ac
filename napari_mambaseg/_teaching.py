"""The wires between the cards Correct and Learn and the work behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from qtpy.QtWidgets import QWidget

from mambaseg import UserError, words
from napari_mambaseg._adapting import Adapter
from napari_mambaseg._corrections import Corrector, Picture
from napari_mambaseg._going_on import GoingOn, record_setting
from napari_mambaseg._learning import Learner, Lesson, new_labels
from napari_mambaseg._notify import show_problem
from napari_mambaseg._objects import Clicks
from napari_mambaseg._saving import ask_where, save_labels
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
        self._use_model = use_model
        self._lesson: Lesson | None = None
        self.corrector = Corrector(viewer)
        self.going_on = GoingOn(viewer, correct, self.corrector, order_of, use_model)
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
        if not self.corrector.pictures:
            self._correct.wait_for("Getting ready to keep what you correct…")

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
        pictures = self.learner.pictures(picture)
        for each in pictures:
            self.corrector.flush(each)
        self.corrector.background.do(lambda: new_labels(pictures, picture.order.model),
                                     lambda labels: self._learn_with(picture, labels), self._fail)

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
        card.save.clicked.connect(lambda: self._save())
        card.split.clicked.connect(lambda: self._click("split"))
        card.merge.clicked.connect(lambda: self._click("merge"))
        card.locked.toggled.connect(self._on_locked)
        card.adapt.toggled.connect(self._on_adapt)
        self.going_on.failed.connect(self._fail)

    def _on_attached(self, picture: Picture) -> None:
        """A result can be corrected."""
        model, card = picture.order.model, self._correct
        self.going_on.forget()
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
        settings: dict[str, Any] = {"model": picture.order.model_name, "path": str(path) if path else ""}
        if picture.shown is not None:
            settings[record_setting(picture.image)] = picture.shown.outcome.record
        self.corrector.background.do(lambda: picture.project.save_settings(**settings), lambda _: None, self._fail)

    def _save(self) -> None:
        """Write what is corrected where the user says."""
        picture = self.corrector.current
        path = None if picture is None else ask_where(self._correct, picture)
        if picture is None or path is None:
            return
        self.corrector.flush(picture)
        data, meta, _ = picture.layer.as_layer_data_tuple()
        labels = np.array(data)
        self._correct.show_message("Saving…")
        self.corrector.background.do(lambda: save_labels(path, labels, meta, picture), self._on_saved, self._fail)

    def _on_saved(self, files: list[str]) -> None:
        names = [Path(file).name for file in files]
        said = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
        self._correct.show_message(f"Saved {said}.")

    def _on_counted(self, picture: Picture) -> None:
        if picture is self.corrector.current:
            self._correct.show_counts(picture.counts)
            if picture.n_objects is not None:
                self._correct.show_found(words.found({"n_objects": picture.n_objects}))

    def _on_not_kept(self, sentence: str, details: str) -> None:
        picture = self.corrector.current
        if picture is None:
            self._correct.wait_for(sentence)
        elif picture.problem:
            self._correct.show_saved(picture.saved_s, picture.problem)
        self._fail(sentence, details)

    def _fail(self, sentence: str, details: str = "") -> None:
        """Say what cannot be, in the card and in napari's corner."""
        self._correct.show_message(sentence)
        show_problem(sentence, details)

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

    def _on_active(self, event: Any = None) -> None:
        self.going_on.offer()
        picture = self.corrector.current
        if picture is not None:
            self._correct.show_counts(picture.counts)
            self._correct.show_saved(picture.saved_s, picture.problem)

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
            show_problem(sentence, details)

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

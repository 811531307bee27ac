"""The card Learn: train on the corrections, see before and after, keep it or go back."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import numpy as np
import qt
from numpy.typing import NDArray

from mambaseg import Progress, UserError, words
from mambaseg.learn.lineage import Version
from MambaSegLib._corrections import Correcting, State
from MambaSegLib._details import Details
from MambaSegLib._learning import Comparing, Learning, Lesson
from MambaSegLib._runs import Listener, Run
from MambaSegLib.Logic import MambaSegLogic

__all__ = ["LearnCard"]

_WAITS = "Correct or confirm something first."
_ENDED = ("Learning was ended, because another result is corrected now. The corrections are kept; press Learn to learn "
          "anew.")
_UNDECIDED = ("The new model was neither kept nor thrown away before another result came to be corrected, so the old "
              "one stays. The corrections are kept; press Learn to learn anew.")
MINUTES = 2.0
_CURVE_PX = (200, 44)
_RIM_PX = 3


class LearnCard:
    """Runs a lesson, and carries out what the user decides about it.

    Parameters
    ----------
    ui, logic, track : as for `SegmentCard`
    on_model : called with what the model to use from now on is found by, and with what it finds in the volume at work
        where that is known already
    """

    def __init__(self, ui: Any, logic: MambaSegLogic, track: Callable[[Run], None],
                 on_model: Callable[[str, NDArray[Any] | None], None]) -> None:
        self._ui = ui
        self._logic = logic
        self._track = track
        self._on_model = on_model
        self._learning: Learning | None = None
        self._comparing: Comparing | None = None
        self._correcting: Correcting | None = None
        self._lesson: Lesson | None = None
        self._run: Run | None = None
        self._look: Run | None = None
        self._losses: list[float] = []
        self._ended = ""  # what became of a lesson that nobody saw the end of
        self._details = Details(ui.learn_details, ui.learned)
        self.options: dict[str, Any] = {"minutes": MINUTES}
        ui.learn.connect("clicked(bool)", self.learn)
        ui.learn_stop.connect("clicked(bool)", self.stop)
        ui.keep.connect("clicked(bool)", self.keep)
        ui.discard.connect("clicked(bool)", self.discard)
        ui.compare.connect("pressed()", lambda: self.hold(True))
        ui.compare.connect("released()", lambda: self.hold(False))
        ui.lineage.connect("linkActivated(QString)", self.go_back)
        ui.learn_time.setText(f"about {words.duration(60 * MINUTES)}")
        self.use(None, State())

    @property
    def is_busy(self) -> bool:
        """Whether it is learning."""
        return self._run is not None

    def use(self, correcting: Correcting | None, state: State) -> None:
        """Learn from the corrections of a result; None: of none."""
        if correcting is not self._correcting:
            self._ended = _ENDED if self.is_busy else _UNDECIDED if self._lesson is not None else self._ended
            self.close()
            self._correcting = correcting
            self._learning = None if correcting is None else Learning(self._logic, correcting)
            self._comparing = None if correcting is None else Comparing(self._logic, correcting)
            self._show(self._ended)
        waits = "" if state.is_touched or self.is_busy or self._lesson is not None else self._ended or _WAITS
        self._ui.learn_waits.setText(waits)
        self._ui.learn_waits.setVisible(bool(waits))
        self._ui.learn_body.setVisible(not waits)
        self._show_models(state.versions)

    def learn(self, *_: object) -> None:
        """Train on all corrections, in the background."""
        if self._learning is None or self.is_busy:
            return
        self._ended = ""
        if self._lesson is not None:  # nobody decided to keep it
            self._learning.throw_away(self._lesson)
        self._forget_lesson()
        self._losses.clear()
        self._ui.curve.clear()
        self._begin(is_end=False)

    def stop(self, *_: object) -> None:
        """Learn no longer; the best so far is judged."""
        if self._run is not None:
            self._ui.learn_line.setText("Stopping…")
            self._run.cancel()

    def keep(self, *_: object) -> None:
        """Use the new model from now on."""
        if self._learning is not None and self._lesson is not None:
            found = None if self._comparing is None else self._comparing.found
            self._decide(self._learning.keep(self._lesson), "Kept: from now on the new model is used.", found)

    def discard(self, *_: object) -> None:
        """Throw the new model away."""
        if self._learning is not None and self._lesson is not None:
            self._decide(self._learning.throw_away(self._lesson), "The old model stays.", None)

    def go_back(self, number: str) -> None:
        """Work with any model of the project again."""
        if self._learning is not None and not self.is_busy:
            if self._lesson is not None:
                self._learning.throw_away(self._lesson)
            self._decide(self._learning.go_back(int(number)), "That model is used from now on; press Segment to see "
                                                              "what it finds.", None)

    def hold(self, is_held: bool) -> None:
        """Show what the new model finds in place of what there is, as long as a key is held."""
        if self._comparing is not None:
            self._comparing.hold(is_held)

    def close(self) -> None:
        """Forget what runs."""
        if self._run is not None:
            self._run.close()
        self._run = None
        self._forget_lesson()

    # --- the lesson ---

    def _begin(self, *, is_end: bool) -> None:
        try:
            self._run = self._learning.start(
                Listener(self._on_progress, self._on_finished, self._over,
                         lambda: self._on_stopped(has_judged=is_end)), is_end=is_end, **self.options)
        except UserError as error:
            self._show(str(error))
            return
        self._track(self._run)
        self._show("")
        self._ui.learn_progress.setRange(0, 0)
        self._ui.learn_line.setText("Comparing before and after…" if is_end else "Preparing…")

    def _on_stopped(self, *, has_judged: bool) -> None:
        self._over("Stopped before anything was learned.")
        if not has_judged and self._learning is not None and self._learning.is_stopped_half_way:
            self._begin(is_end=True)

    def _decide(self, model_name: str, line: str, found: NDArray[Any] | None) -> None:
        self._forget_lesson()
        self._show(line)
        self._on_model(model_name, found)

    def _on_progress(self, update: Progress) -> None:
        ui = self._ui
        ui.learn_line.setText(words.learning_sentence(update, bool(self._losses)))
        if update.stage != "Training":
            ui.learn_progress.setRange(0, 0)
            return
        if update.total:
            ui.learn_progress.setRange(0, update.total)
            ui.learn_progress.setValue(update.done)
        loss = words.loss(update)
        if loss is not None:
            self._losses.append(loss)
            _draw_curve(ui.curve, self._losses)

    def _on_finished(self, lesson: Lesson) -> None:
        self._lesson = lesson
        self._over(lesson.line)
        better = self._ui.keep if lesson.is_better else self._ui.discard
        for button in (self._ui.keep, self._ui.discard):
            button.setDefault(button is better)
        if self._learning is not None and self._comparing is not None:
            self._look = self._comparing.start(self._learning.path(lesson), Listener(
                finished=lambda _: self._end_look(can_compare=True), failed=lambda *_: self._end_look(),
                cancelled=self._end_look))
            self._track(self._look)

    def _end_look(self, *, can_compare: bool = False) -> None:
        """What the new model finds is there, or will not be."""
        if self._look is not None:
            self._look.close()
            self._look = None
        self._ui.compare.setVisible(can_compare)

    def _over(self, line: str, details: str = "") -> None:
        run, self._run = self._run, None
        if run is not None:
            run.close()
        self._show(line, details)

    def _forget_lesson(self) -> None:
        self._lesson = None
        self._end_look()
        if self._comparing is not None:
            self._comparing.forget()

    # --- what is shown ---

    def _show(self, line: str, details: str = "") -> None:
        ui = self._ui
        self._details.show(details)
        for control in (ui.learn, ui.learn_time):
            control.setVisible(not self.is_busy)
        for control in (ui.learn_stop, ui.learn_progress, ui.learn_line, ui.curve):
            control.setVisible(self.is_busy)
        for control in (ui.keep, ui.discard):
            control.setVisible(self._lesson is not None)
        ui.compare.setVisible(self._comparing is not None and self._comparing.can_compare)
        ui.learned.setText(line)
        ui.learned.setVisible(bool(line))

    def _show_models(self, versions: tuple[Version, ...]) -> None:
        """The models of the project, each a link to work with it again but the one in use."""
        used = "" if self._correcting is None else self._correcting.model.checksum
        parts = [f"<b>{html.escape(version.title)}</b>" if version.checksum == used else
                 f'<a href="{version.number}">{html.escape(version.title)}</a>' for version in versions]
        self._ui.lineage.setText(f"Models: {' &gt; '.join(parts)}" if len(parts) > 1 else "")


def _draw_curve(label: Any, losses: list[float]) -> None:
    """A line through the losses so far, the newest at the right end, in the label's own colours."""
    width, height = _CURVE_PX
    pixmap = qt.QPixmap(width, height)
    pixmap.fill(label.palette.color(qt.QPalette.Window))
    if len(losses) > 1:
        values = np.array(losses)
        at = np.linspace(_RIM_PX, width - _RIM_PX, len(values)).astype(int).tolist()
        span = float(np.ptp(values)) or 1.0
        up = (_RIM_PX + (height - 2 * _RIM_PX) * (values.max() - values) / span).astype(int).tolist()
        painter = qt.QPainter(pixmap)
        painter.setPen(label.palette.color(qt.QPalette.WindowText))
        for index in range(1, len(at)):
            painter.drawLine(at[index - 1], up[index - 1], at[index], up[index])
        painter.end()
    label.setPixmap(pixmap)

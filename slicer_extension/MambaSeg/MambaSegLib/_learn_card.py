"""The card Learn: train on the corrections, see before and after, keep it or go back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mambaseg import Progress, UserError, words
from MambaSegLib._corrections import Correcting
from MambaSegLib._learning import Learning, Lesson
from MambaSegLib._runs import Listener, Run
from MambaSegLib.Logic import MambaSegLogic

__all__ = ["LearnCard"]

_WAITS = "Correct or confirm something first."
MINUTES = 2.0


class LearnCard:
    """Runs a lesson, and carries out what the user decides about it.

    Parameters
    ----------
    ui, logic, track : as for `SegmentCard`
    on_model : called with what the model to use from now on is found by
    """

    def __init__(self, ui: Any, logic: MambaSegLogic, track: Callable[[Run], None],
                 on_model: Callable[[str], None]) -> None:
        self._ui = ui
        self._logic = logic
        self._track = track
        self._on_model = on_model
        self._learning: Learning | None = None
        self._correcting: Correcting | None = None
        self._lesson: Lesson | None = None
        self._run: Run | None = None
        self.options: dict[str, Any] = {"minutes": MINUTES}
        ui.learn.connect("clicked(bool)", self.learn)
        ui.learn_stop.connect("clicked(bool)", self.stop)
        ui.keep.connect("clicked(bool)", self.keep)
        ui.discard.connect("clicked(bool)", self.discard)
        ui.learn_time.setText(f"about {words.duration(60 * MINUTES)}")
        self.use(None)

    @property
    def is_busy(self) -> bool:
        """Whether it is learning."""
        return self._run is not None

    def use(self, correcting: Correcting | None) -> None:
        """Learn from the corrections of a result; None: of none."""
        if correcting is not self._correcting:
            self.close()
            self._correcting = correcting
            self._learning = None if correcting is None else Learning(self._logic, correcting)
            self._show("")
        is_ready = correcting is not None and any(True for _ in correcting.image.view.blocks_touched())
        waits = "" if is_ready or self.is_busy or self._lesson is not None else _WAITS
        self._ui.learn_waits.setText(waits)
        self._ui.learn_waits.setVisible(bool(waits))
        self._ui.learn_body.setVisible(not waits)
        self._ui.lineage.setText(f"Models: {self._learning.line}" if self._learning and self._learning.line else "")

    def learn(self, *_: object) -> None:
        """Train on all corrections, in the background."""
        if self._learning is None or self.is_busy:
            return
        self._lesson = None
        self._begin(is_end=False)

    def stop(self, *_: object) -> None:
        """Learn no longer; the best so far is judged."""
        if self._run is not None:
            self._ui.learn_line.setText("Stopping…")
            self._run.cancel()

    def keep(self, *_: object) -> None:
        """Use the new model from now on."""
        if self._learning is not None and self._lesson is not None:
            self._decide(self._learning.keep(self._lesson), "The new model is used from now on; press Segment to see "
                                                            "what it finds.")

    def discard(self, *_: object) -> None:
        """Throw the new model away."""
        if self._learning is not None and self._lesson is not None:
            self._decide(self._learning.go_back(self._lesson), "The new model is gone, the one before is in use.")

    def close(self) -> None:
        """Forget what runs."""
        if self._run is not None:
            self._run.close()
        self._run = self._lesson = None

    def _begin(self, *, is_end: bool) -> None:
        try:
            self._run = self._learning.start(
                Listener(self._on_progress, self._on_finished, lambda sentence, _: self._over(sentence),
                         lambda: self._on_stopped(has_judged=is_end)), is_end=is_end, **self.options)
        except UserError as error:
            self._show(str(error))
            return
        self._track(self._run)
        self._show("")
        self._ui.learn_progress.setRange(0, 0)
        self._ui.learn_line.setText("Judging" if is_end else "Preparing")

    def _on_stopped(self, *, has_judged: bool) -> None:
        self._over("Stopped before anything was learned.")
        if not has_judged and self._learning is not None and self._learning.is_stopped_half_way:
            self._begin(is_end=True)

    def _decide(self, model_name: str, line: str) -> None:
        self._lesson = None
        self._show(line)
        self._on_model(model_name)
        self.use(self._correcting)

    def _on_progress(self, update: Progress) -> None:
        if update.total:
            self._ui.learn_progress.setRange(0, update.total)
            self._ui.learn_progress.setValue(update.done)
        self._ui.learn_line.setText(words.progress_sentence(update))

    def _on_finished(self, lesson: Lesson) -> None:
        self._lesson = lesson
        self._over(lesson.line)
        better = self._ui.keep if lesson.is_better else self._ui.discard
        for button in (self._ui.keep, self._ui.discard):
            button.setDefault(button is better)

    def _over(self, line: str) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.close()
        self._show(line)
        self.use(self._correcting)

    def _show(self, line: str) -> None:
        ui = self._ui
        ui.learn.setVisible(not self.is_busy)
        for control in (ui.learn_stop, ui.learn_progress, ui.learn_line):
            control.setVisible(self.is_busy)
        for control in (ui.keep, ui.discard):
            control.setVisible(self._lesson is not None)
        ui.learned.setText(line)
        ui.learned.setVisible(bool(line))

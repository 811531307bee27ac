"""The panel: the three cards, one timer that asks how far the work is, and the scene that they follow."""

from __future__ import annotations

from typing import Any

import qt
from numpy.typing import NDArray

from MambaSegLib._correct_card import CorrectCard
from MambaSegLib._keys import HoldKey, shortcut
from MambaSegLib._learn_card import LearnCard
from MambaSegLib._runs import Run
from MambaSegLib._segment_card import SegmentCard
from MambaSegLib.Logic import MambaSegLogic, Outcome
from MambaSegLib.Parameter import parameters

__all__ = ["Panel"]

_POLL_MS = 50


class Panel:
    """Puts the cards together.

    Parameters
    ----------
    ui : controls of MambaSeg.ui by name
    logic : does the work; None: a new one
    """

    def __init__(self, ui: Any, logic: MambaSegLogic | None = None) -> None:
        self._ui = ui
        self._runs: list[Run] = []
        self._parameters: Any = None
        self._gui_tag: Any = None
        self.logic = MambaSegLogic() if logic is None else logic
        self.timer = qt.QTimer()
        self.timer.setInterval(_POLL_MS)
        self.timer.connect("timeout()", self.poll)
        self.learn = LearnCard(ui, self.logic, self.track, self._on_model)
        self.correct = CorrectCard(ui, self.logic, self.track, self._wake, self._on_corrections)
        self.segment = SegmentCard(ui, self.logic, self.track, self._on_result, self.correct.begin_frames,
                                   self.correct.choose)
        self._keys = [shortcut(ui.MambaSeg, keys, act) for keys, act in (
            ("Ctrl+Return", ui.run.click), ("Ctrl+L", ui.learn.click), ("U", ui.unsure.click), ("C", ui.confirm.click),
            ("O", self.correct.toggle_outline))]
        self._compare = HoldKey(ui.MambaSeg, "B", self.learn.hold)

    def open(self) -> None:
        """Follow the current scene."""
        if self._parameters is not None:
            return
        self._parameters = parameters()
        self._gui_tag = self._parameters.connectGui(self._ui)
        self.segment.set_parameters(self._parameters)
        self.correct.set_parameters(self._parameters)

    def close_scene(self) -> None:
        """Let go of the scene, before it is closed or another module is shown; what was drawn is kept."""
        self.correct.set_parameters(None)
        self.segment.set_parameters(None)
        if self._parameters is not None:
            self._parameters.disconnectGui(self._gui_tag)
            self._parameters = self._gui_tag = None

    def close(self) -> None:
        """End everything; the process that computes, too."""
        self.timer.stop()
        self.segment.close()
        self.close_scene()
        self.correct.close()
        for run in self._runs:
            run.close()
        self._runs.clear()
        self.logic.close()

    def track(self, run: Run) -> None:
        """Poll a run until it has ended."""
        self._runs.append(run)
        self.timer.start()

    def poll(self) -> None:
        """Ask how far things are; the timer does."""
        for run in list(self._runs):
            run.poll()
        self._runs = [run for run in self._runs if not run.is_over]
        self.correct.tick()
        if not self._runs and not self.correct.is_waiting:
            self.timer.stop()

    def _wake(self) -> None:
        self.timer.start()

    def _on_result(self, outcome: Outcome, n_waiting: int) -> None:
        # of several volumes the last one can be corrected here, the others by choosing them again
        self.correct.begin(outcome, is_shown=n_waiting == 0)

    def _on_corrections(self) -> None:
        self.learn.use(self.correct.correcting, self.correct.state)

    def _on_model(self, name: str, found: NDArray[Any] | None) -> None:
        self.segment.choose_model(name)
        if found is not None:
            self.correct.lay(found)
        self.correct.look_again()

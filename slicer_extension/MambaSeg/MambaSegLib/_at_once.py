"""Adapt at once, in the card Correct: a moment after a stroke, what lies around it is what the stroke taught."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from MambaSegLib._adapt import Box
from MambaSegLib._corrections import Correcting
from MambaSegLib._learning import Adapting
from MambaSegLib._runs import Listener, Run
from MambaSegLib.Logic import MambaSegLogic

__all__ = ["AtOnce"]


class AtOnce:
    """Learns from one stroke after the other, as long as the box is ticked.

    Parameters
    ----------
    ui, logic, track : as for `SegmentCard`
    lay : called with labels and their box, to be laid around what was corrected
    """

    def __init__(self, ui: Any, logic: MambaSegLogic, track: Callable[[Run], None],
                 lay: Callable[[NDArray[Any], Box | None], None]) -> None:
        self._ui = ui
        self._logic = logic
        self._track = track
        self._lay = lay
        self._adapting: Adapting | None = None
        self._run: Run | None = None

    def use(self, correcting: Correcting | None) -> None:
        """Learn from the strokes in a result; None: of none."""
        self._end()
        self._adapting = None if correcting is None else Adapting(self._logic, correcting)

    def learn(self) -> None:
        """Learn from the last stroke, where that is wanted and nothing like it runs."""
        if self._adapting is None or not self._ui.adapt.checked or self._run is not None:
            return
        self._run = self._adapting.start(Listener(finished=lambda learned: self._on_learned(*learned),
                                                  failed=self._on_failed, cancelled=self._end))
        self._ui.adapt_line.setText("Learning from it…")
        self._track(self._run)

    def _on_learned(self, found: NDArray[Any], box: Box) -> None:
        self._end()
        self._lay(found, box)

    def _on_failed(self, sentence: str, _: str) -> None:
        self._end()
        if self._adapting is not None:
            self._adapting.forget_view()
        self._ui.adapt_line.setText(sentence)

    def _end(self) -> None:
        self._ui.adapt_line.setText("")
        if self._run is not None:
            self._run.close()
            self._run = None

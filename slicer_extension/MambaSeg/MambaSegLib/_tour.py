"""The places that the model is least sure of, one after the other, so that corrections are spent where they help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import slicer
from MambaSegLib._corrections import Correcting
from MambaSegLib._keys import shortcut

__all__ = ["Tour"]

_NOT_KNOWN = "Tick “Show how certain it is” and segment again."
_NOWHERE = "It is sure everywhere, or you have looked at all of it."


class Tour:
    """Jumps from place to place; Enter takes what is shown for right, Esc goes on.

    Parameters
    ----------
    ui : controls by name
    accept : takes the place in view for right
    """

    def __init__(self, ui: Any, accept: Callable[[Any], None]) -> None:
        self._ui = ui
        self._accept = accept
        self._correcting: Correcting | None = None
        self._doubts: dict[str, list[Any]] = {}  # by the volume's checksum, so that those of other time points wait
        self._at = -1
        self._keys = [shortcut(ui.MambaSeg, keys, act) for keys, act in (
            ("Return", self.accept), ("Enter", self.accept), ("Esc", self.next))]
        ui.unsure.connect("clicked(bool)", self.next)

    @property
    def doubts(self) -> list[Any]:
        """The places in the result at work, the least sure first."""
        return [] if self._correcting is None else self._doubts.get(self._correcting.image.identity.checksum, [])

    def learn_of(self, checksum: str, doubts: list[Any]) -> None:
        """Where the model is unsure in a volume."""
        self._doubts[checksum] = doubts

    def use(self, correcting: Correcting | None) -> None:
        """Go through another result; None: through none."""
        self._correcting = correcting
        self.end()

    def next(self, *_: object) -> None:
        """Let the slice views jump to the next place; after the last one the tour is over."""
        doubts = self.doubts
        self._at += 1
        if self._correcting is None or self._at >= len(doubts):
            said = _NOWHERE if doubts else _NOT_KNOWN
            self.end()
            self._ui.unsure_at.setText(said)
            return
        ras = (self._correcting.source.ijk_to_world @ [*np.array(doubts[self._at].centre)[::-1], 1])[:3]
        slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *ras)
        self._ui.unsure.setText("Next")
        self._ui.unsure_at.setText(f"{self._at + 1} of {len(doubts)}. Enter: it is right. Draw: correct it. Esc: skip.")
        self._listen()

    def accept(self) -> None:
        """What is shown here is right, as found or as just drawn; on to the next place."""
        if 0 <= self._at < len(self.doubts):
            self._accept(self.doubts[self._at])
            self.next()

    def end(self) -> None:
        """Show no place any more."""
        self._at = -1
        self._ui.unsure.setText("Show me where it is unsure")
        self._ui.unsure_at.setText("")
        self._listen()

    def _listen(self) -> None:
        """Enter and Esc are Slicer's own as long as there is no place to be decided on."""
        for key in self._keys:
            key.setEnabled(self._at >= 0)

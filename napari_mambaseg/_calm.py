"""No full garbage collection while work runs.

One walks through every object of the process, of which napari has very many: half a second in which the window stands
still, the longest pause that was found in a run. Young objects are collected as ever; the old ones are, afterwards.
"""

from __future__ import annotations

import gc

__all__ = ["Calm"]

_NEVER = 2**30


class Calm:
    """Asked for by each one that works; the first `begin` changes Python's threshold, the last `end` puts it back."""

    _n_wanted = 0
    _usual = 0

    def __init__(self) -> None:
        self._is_wanted = False

    def begin(self) -> None:
        """From now on; nothing the second time."""
        if self._is_wanted:
            return
        self._is_wanted = True
        Calm._n_wanted += 1
        if Calm._n_wanted == 1:
            young, middle, Calm._usual = gc.get_threshold()
            gc.set_threshold(young, middle, _NEVER)

    def end(self) -> None:
        """No longer; nothing the second time."""
        if not self._is_wanted:
            return
        self._is_wanted = False
        Calm._n_wanted -= 1
        if not Calm._n_wanted:
            young, middle, _ = gc.get_threshold()
            gc.set_threshold(young, middle, Calm._usual)

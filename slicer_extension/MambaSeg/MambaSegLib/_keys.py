"""Keys that work as long as the panel is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt

__all__ = ["HoldKey", "shortcut"]


def shortcut(parent: Any, keys: str, act: Callable[[], Any]) -> Any:
    """Keys that do something once when they are pressed."""
    made = qt.QShortcut(parent)
    made.setKey(qt.QKeySequence(keys))
    made.setAutoRepeat(False)
    made.connect("activated()", act)
    return made


class HoldKey:
    """A key that does something as long as it is held.

    Qt's shortcuts tell when a key goes down, never when it comes up; so all events are watched while it is down.

    Parameters
    ----------
    hold : called with whether the key is down
    """

    def __init__(self, parent: Any, letter: str, hold: Callable[[bool], None]) -> None:
        self._hold = hold
        self._watch = _Watch(getattr(qt.Qt, f"Key_{letter}"), self._release)
        self._shortcut = shortcut(parent, letter, self._press)

    def _press(self) -> None:
        qt.QApplication.instance().installEventFilter(self._watch)
        self._hold(True)

    def _release(self) -> None:
        qt.QApplication.instance().removeEventFilter(self._watch)
        self._hold(False)


class _Watch(qt.QObject):
    """Waits for a key to come up, or for the window to lose the keys."""

    def __init__(self, key: Any, released: Callable[[], None]) -> None:
        qt.QObject.__init__(self)
        self._key = key
        self._released = released

    def eventFilter(self, watched: Any, event: Any) -> bool:
        kind = event.type()
        is_up = kind == qt.QEvent.KeyRelease and event.key() == self._key and not event.isAutoRepeat()
        if is_up or kind == qt.QEvent.ApplicationDeactivate:
            self._released()
        return False

"""A button that copies what a bug report needs, shown while a line tells of something that should not happen."""

from __future__ import annotations

from typing import Any

import qt

from mambaseg import words

__all__ = ["Details"]


class Details:
    """Belongs to one line of a card, or to two that are shown in turn.

    Parameters
    ----------
    button, lines : Qt widgets; the button is hidden until there are details
    """

    def __init__(self, button: Any, *lines: Any) -> None:
        self._button = button
        self._lines = lines
        self._details = ""
        button.connect("clicked(bool)", self.copy)
        self.show("")

    def show(self, details: str) -> None:
        """Offer these; nothing where they are empty."""
        self._details = details
        self._button.setVisible(bool(details))

    def copy(self, *_: object) -> None:
        """Put sentence, details and versions on the clipboard."""
        said = " ".join(line.text for line in self._lines if line.text)
        qt.QApplication.clipboard().setText(words.bug_report(said, self._details))

"""The cards below one another, with a bar where the window is too low for them."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import QFrame, QScrollArea, QVBoxLayout, QWidget

__all__ = ["Column"]

_PAUSE_MS = 50  # until what was shown or hidden has been laid out


class Column(QScrollArea):
    """Scrolls by itself only to a card that has news."""

    def __init__(self, cards: Sequence[QWidget]) -> None:
        super().__init__()
        inner = QWidget()
        layout = QVBoxLayout(inner)
        layout.setContentsMargins(4, 4, 4, 4)
        for card in cards:
            layout.addWidget(card)
        layout.addStretch()
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setWidget(inner)
        self._wanted: QWidget | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(_PAUSE_MS)
        self._timer.timeout.connect(self._scroll)

    def bring(self, card: QWidget) -> None:
        """Have a card in view, once it has been laid out."""
        self._wanted = card
        self._timer.start()

    def _scroll(self) -> None:
        if self._wanted is not None:
            self.ensureWidgetVisible(self._wanted)

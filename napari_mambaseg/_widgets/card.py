"""A card: a title that folds what is below it, and a line that says what it waits for."""

from __future__ import annotations

from typing import TypeVar

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QCheckBox, QFrame, QLabel, QPushButton, QSizePolicy, QToolButton, QVBoxLayout, QWidget

__all__ = ["Card", "check_box", "label", "named", "push_button"]

Control = TypeVar("Control", bound=QWidget)


def label(text: str = "", name: str = "") -> QLabel:
    """A text that wraps where the dock is narrow, and that can be copied."""
    widget = QLabel(text)
    widget.setWordWrap(True)
    widget.setObjectName(name)
    widget.setTextFormat(Qt.TextFormat.PlainText)
    widget.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    widget.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    return widget


def named(widget: Control, name: str, tip: str) -> Control:
    """A control with its object name and its tooltip."""
    widget.setObjectName(name)
    widget.setToolTip(tip)
    return widget


def push_button(text: str, name: str, tip: str) -> QPushButton:
    """A button that Return presses while it has the focus."""
    widget = named(QPushButton(text), name, tip)
    widget.setAutoDefault(True)
    return widget


def check_box(text: str, name: str, tip: str) -> QCheckBox:
    """A box to tick."""
    return named(QCheckBox(text), name, tip)


class Card(QFrame):
    """One of the panel's steps.

    Parameters
    ----------
    title : shown on its head
    name : object name of the card; its head is `<name>_head`
    waits_for : what has to be done before it can be used, shown in grey; empty: it can be used
    """

    def __init__(self, title: str, name: str, waits_for: str = "") -> None:
        super().__init__()
        self.setObjectName(name)
        self.head = QToolButton()
        self.head.setObjectName(f"{name}_head")
        self.head.setText(title)
        self.head.setCheckable(True)
        self.head.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.head.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.head.toggled.connect(self._fold)
        self._waiting = label(name=f"{name}_waits")
        self._waiting.setEnabled(False)
        self.body = QWidget()
        self.content = QVBoxLayout(self.body)
        self.content.setContentsMargins(6, 2, 6, 6)
        self.content.setSpacing(4)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        for widget in (self.head, self._waiting, self.body):
            layout.addWidget(widget)
        self.wait_for(waits_for)

    def wait_for(self, what: str) -> None:
        """Fold the card and say what it waits for; an empty text opens it."""
        self._waiting.setText(what)
        self._waiting.setVisible(bool(what))
        self.head.setEnabled(not what)
        self.head.setChecked(not what)
        self._fold(not what)

    def _fold(self, is_open: bool) -> None:
        self.head.setArrowType(Qt.ArrowType.DownArrow if is_open else Qt.ArrowType.RightArrow)
        self.body.setVisible(is_open)

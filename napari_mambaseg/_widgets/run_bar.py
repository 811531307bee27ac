"""The button that starts, which becomes the one that cancels; how far the work is; what came of it."""

from __future__ import annotations

from psygnal import Signal
from qtpy.QtWidgets import QHBoxLayout, QProgressBar, QVBoxLayout, QWidget

from mambaseg import Progress, words
from napari_mambaseg._notify import copy_report
from napari_mambaseg._widgets.card import label, push_button

__all__ = ["RunBar"]


class RunBar(QWidget):
    """Tells that the user wants to `run`, to `cancel` or to `undo`.

    Parameters
    ----------
    text : on the button
    tip : what it does, with its shortcut
    """

    run_wanted = Signal()
    cancel_wanted = Signal()
    undo_wanted = Signal()

    def __init__(self, text: str, tip: str) -> None:
        super().__init__()
        self.run = push_button(text, "run", tip)
        self.run.setDefault(True)
        self.cancel = push_button("Cancel", "cancel", "Stops at once; what is there already goes, too.")
        self.progress = QProgressBar()
        self.progress.setObjectName("progress")
        self.progress.setTextVisible(False)
        self.progress_line = label(name="progress_line")
        self.message = label(name="message")
        self.details = push_button("Copy details", "details", "Puts what a bug report needs on the clipboard.")
        self.undo = push_button("Undo", "undo", "Takes the result away again, and brings back what it replaced.")
        self._details = ""
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(4)
        ends = QHBoxLayout()
        ends.addWidget(self.details)
        ends.addWidget(self.undo)
        ends.addStretch()
        for widget in (self.run, self.cancel, self.progress, self.progress_line, self.message):
            layout.addWidget(widget)
        layout.addLayout(ends)
        self.run.clicked.connect(lambda: self.run_wanted.emit())
        self.cancel.clicked.connect(lambda: self.cancel_wanted.emit())
        self.undo.clicked.connect(lambda: self.undo_wanted.emit())
        self.details.clicked.connect(lambda: copy_report(self.message.text(), self._details))
        self.show_idle()

    @property
    def is_busy(self) -> bool:
        """Whether the button is the one that cancels."""
        return not self.cancel.isHidden()

    def show_busy(self, line: str) -> None:
        """Work has begun; at this moment nothing is known of its length."""
        had_focus = self.run.hasFocus()
        self._show(is_busy=True)
        if had_focus:
            self.cancel.setFocus()
        self.cancel.setEnabled(True)
        self.progress.setRange(0, 0)
        self.progress_line.setText(line)
        self.message.hide()
        self.details.hide()
        self.undo.hide()

    def show_progress(self, update: Progress, n_waiting: int = 0) -> None:
        """How far it is; `n_waiting` runs come after this one."""
        if update.total:
            self.progress.setRange(0, update.total)
            self.progress.setValue(update.done)
        more = f"; {n_waiting} more waiting" if n_waiting else ""
        self.progress_line.setText(words.progress_sentence(update) + more)

    def show_cancelling(self) -> None:
        """The click has been heard."""
        self.cancel.setEnabled(False)
        self.progress_line.setText("Stopping…")

    def show_idle(self, message: str = "", details: str = "", *, can_undo: bool = False) -> None:
        """Work has ended.

        Parameters
        ----------
        message : what came of it; empty hides the line
        details : for a bug report, after a failure
        """
        had_focus = self.cancel.hasFocus()
        self._show(is_busy=False)
        if had_focus:
            self.run.setFocus()
        self._details = details
        self.message.setText(message)
        self.message.setVisible(bool(message))
        self.details.setVisible(bool(details))
        self.undo.setVisible(can_undo)

    def _show(self, *, is_busy: bool) -> None:
        self.run.setVisible(not is_busy)
        for widget in (self.cancel, self.progress, self.progress_line):
            widget.setVisible(is_busy)

"""Messages in napari's own corner, with a way to copy what a bug report needs."""

from __future__ import annotations

from napari.utils.notifications import Notification, notification_manager
from qtpy.QtWidgets import QApplication

from mambaseg import words

__all__ = ["copy_report", "show_problem"]


def show_problem(sentence: str, details: str = "") -> None:
    """Show a sentence as napari shows errors, but never a traceback.

    Parameters
    ----------
    details : for a bug report, which a button puts on the clipboard; empty: there is nothing more to know
    """
    actions = [("Copy details", lambda *_: copy_report(sentence, details))] if details else []
    notification_manager.dispatch(Notification(sentence, "error", actions))


def copy_report(sentence: str, details: str) -> None:
    """Put message, details and versions on the clipboard."""
    QApplication.clipboard().setText(words.bug_report(sentence, details))

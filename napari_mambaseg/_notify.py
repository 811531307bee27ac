"""Messages in napari's own corner, with a way to copy what a bug report needs."""

from __future__ import annotations

from collections.abc import Callable

from napari.utils.notifications import Notification, notification_manager

__all__ = ["show_problem"]


def show_problem(sentence: str, copy_details: Callable[[], None] | None = None) -> None:
    """Show a sentence as napari shows errors, but never a traceback.

    Parameters
    ----------
    copy_details : offered as a button; None: there is nothing more to know
    """
    actions = [] if copy_details is None else [("Copy details", lambda *_: copy_details())]
    notification_manager.dispatch(Notification(sentence, "error", actions))

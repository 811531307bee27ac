"""Short work off the window's thread, one piece after the other; what comes of it is handed over in that thread."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from qtpy.QtCore import QTimer

from mambaseg import words

__all__ = ["Background", "timer"]

_POLL_MS = 20


class Background:
    """A thread for what would make the window stutter."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="mambaseg-corrections")
        self._waiting: list[tuple[Future[Any], Callable[[Any], None], Callable[[str, str], None]]] = []
        self._timer = QTimer()
        self._timer.setInterval(_POLL_MS)
        self._timer.timeout.connect(self._poll)

    @property
    def is_busy(self) -> bool:
        """Whether something is still to be handed over."""
        return bool(self._waiting)

    def do(self, work: Callable[[], Any], then: Callable[[Any], None], failed: Callable[[str, str], None]) -> None:
        """Have work done.

        Parameters
        ----------
        then : gets what the work returned
        failed : gets a sentence, and details for a bug report
        """
        self._waiting.append((self._threads.submit(work), then, failed))
        self._timer.start()

    def close(self) -> None:
        """Hand nothing over any more; returns when the piece at work is done."""
        with contextlib.suppress(RuntimeError):  # Qt may have taken the timer down already, with the application
            self._timer.stop()
        self._waiting.clear()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _poll(self) -> None:
        while self._waiting and self._waiting[0][0].done():
            future, then, failed = self._waiting.pop(0)
            error = future.exception()
            if error is None:
                then(future.result())
            else:
                failed(*words.problem(error))
        if not self._waiting:
            self._timer.stop()


def timer(interval_ms: int, act: Callable[[], None]) -> QTimer:
    """A timer that calls a function once, so long after the last `start`."""
    made = QTimer()
    made.setSingleShot(True)
    made.setInterval(interval_ms)
    made.timeout.connect(act)
    return made

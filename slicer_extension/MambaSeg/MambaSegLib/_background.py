"""Short work off Slicer's thread, one piece after the other; what comes of it is handed over in Slicer's thread.

No Qt here: `tick` is called from the panel's timer.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from mambaseg import words
from MambaSegLib._runs import YIELD_S

__all__ = ["Background"]

Then = Callable[[Any], None]


class Background:
    """A thread for what would make Slicer stutter.

    Parameters
    ----------
    wake : called when there is something to do, so that `tick` is called until `is_busy` is False
    failed : gets a sentence for people, and details for a bug report
    """

    def __init__(self, wake: Callable[[], None], failed: Callable[[str, str], None]) -> None:
        self._wake = wake
        self._failed = failed
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="mambaseg")
        self._waiting: list[tuple[Future[Any], Then]] = []

    @property
    def is_busy(self) -> bool:
        """Whether something is still to be handed over."""
        return bool(self._waiting)

    def do(self, work: Callable[[], Any], then: Then) -> None:
        """Have work done that does not touch the scene; `then` gets what it returned."""
        self._waiting.append((self._thread.submit(work), then))
        self._wake()

    def tick(self) -> None:
        """Hand over what is done."""
        if self._waiting:
            wait([self._waiting[0][0]], YIELD_S)  # the thread's turn, see `Run.poll`
        while self._waiting and self._waiting[0][0].done():
            self._hand_over()

    def finish(self) -> None:
        """Wait for everything, and hand it over."""
        while self._waiting:
            wait([self._waiting[0][0]])
            self._hand_over()

    def close(self) -> None:
        """Hand nothing over any more."""
        self._waiting.clear()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _hand_over(self) -> None:
        future, then = self._waiting.pop(0)
        error = future.exception()
        if error is None:
            then(future.result())
        else:
            self._failed(*words.problem(error))

"""What long work tells its caller while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Clock", "Progress", "ProgressCallback", "report"]


@dataclass(frozen=True)
class Progress:
    """One report from long work.

    Parameters
    ----------
    stage : what is going on, one plain word or two ("Segmenting", "Training")
    done, total : units of work finished and planned (windows, iterations); ``total`` 0 means not known yet
    message : a sentence for people, without numbers that `done` and `total` already hold
    preview : stage-specific partial result (labels so far, the latest losses) or None; not to be changed
    seconds_left : estimate in seconds, None while there is no basis for one (the first two seconds)
    """

    stage: str
    done: int
    total: int
    message: str = ""
    preview: Any = None
    seconds_left: float | None = None


ProgressCallback = Callable[[Progress], None]


@dataclass
class Clock:
    """Estimates the time left of work in equal units; silent in the first two seconds."""

    total: int
    started_s: float = field(default_factory=time.monotonic)

    def seconds_left(self, done: int) -> float | None:
        """Seconds until `total` units are done, None while it is too early to say."""
        elapsed_s = time.monotonic() - self.started_s
        if done <= 0 or elapsed_s < 2.0:
            return None
        return elapsed_s / done * max(0, self.total - done)


def report(progress: ProgressCallback | None, update: Progress) -> None:
    """Pass `update` to the callback if there is one; whatever it raises (`Cancelled`) goes through."""
    if progress is not None:
        progress(update)

"""What long work tells its caller while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Clock", "Preview", "Progress", "ProgressCallback", "always", "report"]


@dataclass(frozen=True)
class Preview:
    """Provisional classes of the part of an image that was just segmented.

    Parameters
    ----------
    labels : uint8, one axis a spatial axis of the image, in its order; class numbers, for objects 1 inside one and 0
        outside. Later pieces overlap earlier ones and are the better guess
    start : voxel of the image where ``labels[0, ...]`` lies, one number an axis
    frame : time point, None where the image has no time axis
    """

    labels: NDArray[np.uint8]
    start: tuple[int, ...]
    frame: int | None = None


@dataclass(frozen=True)
class Progress:
    """One report from long work.

    Parameters
    ----------
    stage : what is going on, one plain word or two ("Segmenting", "Training")
    done, total : units of work finished and planned (windows, iterations); ``total`` 0 means not known yet
    message : a sentence for people, without numbers that `done` and `total` already hold
    preview : stage-specific partial result (a `Preview` while segmenting, the latest losses while training) or None;
        not to be changed
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


def always(progress: ProgressCallback | None, update: Progress) -> ProgressCallback:
    """A callback that passes `update` on whatever it is given: for work whose windows are no unit of its own.

    So it can still be cancelled at each window.
    """
    return lambda _: report(progress, update)

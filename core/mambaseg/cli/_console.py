"""How the shell talks: one-line errors, numbers for people, and progress as a bar or as plain lines."""

from __future__ import annotations

import re
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

from mambaseg._errors import Cancelled
from mambaseg.progress import Progress
from mambaseg.words import how_far

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

__all__ = ["ProgressLine", "one_line", "say", "say_error"]

_SECONDS_BETWEEN_LINES = 5.0


def one_line(text: str) -> str:
    """Text without line breaks and control characters, which a file's name may hold."""
    return "".join(letter if letter.isprintable() else "?" for letter in re.sub(r"\s+", " ", text)).strip()


def say(text: str) -> None:
    """A line on stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say_error(text: str) -> None:
    """A line on stderr."""
    sys.stderr.write(f"mambaseg: {one_line(text)}\n")
    sys.stderr.flush()


class ProgressLine:
    """Shows `Progress` on stderr: a bar on a terminal, else a plain line every few seconds; nothing if quiet.

    Use it as a context manager and pass it as the `progress` of long work. Within it Ctrl-C stops the work at the next
    report, so that what must be finished is; a second Ctrl-C stops it at once.
    """

    def __init__(self, label: str = "", *, is_quiet: bool = False) -> None:
        self.label = label
        self.is_quiet = is_quiet
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self._last_line_s = time.monotonic()
        self._is_cancelled = False
        self._former: Any = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty() and not self.is_quiet:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[detail]}"),
                            console=Console(stderr=True), transient=True)
            self._bar.start()
        if threading.current_thread() is threading.main_thread():  # only there can Python take signals
            self._former = signal.signal(signal.SIGINT, self._cancel)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        if self._former is not None:
            signal.signal(signal.SIGINT, self._former)
        if self._is_cancelled and error is None:
            raise Cancelled

    def _cancel(self, number: int, frame: FrameType | None) -> None:
        if self._is_cancelled:
            raise KeyboardInterrupt
        self._is_cancelled = True

    def __call__(self, update: Progress) -> None:
        """Show one report; raises `Cancelled` after Ctrl-C."""
        if self._is_cancelled:
            raise Cancelled
        if self._bar is not None:
            total = update.total or None
            if self._task is None:
                self._task = self._bar.add_task("", total=total, detail="")
            self._bar.update(self._task, completed=update.done, total=total, detail=one_line(how_far(update)),
                             description=one_line(self._title(update)))
        elif not self.is_quiet and time.monotonic() - self._last_line_s >= _SECONDS_BETWEEN_LINES:
            self._last_line_s = time.monotonic()
            sys.stderr.write(one_line(f"{self._title(update)}: {how_far(update)}") + "\n")
            sys.stderr.flush()

    def _title(self, update: Progress) -> str:
        return f"{update.stage} {self.label}".strip()

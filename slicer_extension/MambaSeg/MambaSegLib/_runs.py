"""One piece of long work: files are prepared in a thread, the child process computes, the host only polls.

No Qt here: the panel polls from a `qt.QTimer`, scripts from a loop.
"""

from __future__ import annotations

import shutil
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambaseg import Cancelled, Progress, UserError
from mambaseg.jobs import Job, Worker, new_folder
from mambaseg.progress import ProgressCallback

__all__ = ["Listener", "Run"]

_YIELD_S = 0.002


def _ignore(*_: object) -> None:
    """What a listener does that does not care."""


@dataclass(frozen=True)
class Listener:
    """Who is told, always in the thread that polls: `progressed` any number of times, then one of the others."""

    progressed: Callable[[Progress], None] = _ignore
    finished: Callable[[Any], None] = _ignore
    failed: Callable[[str, str], None] = _ignore
    cancelled: Callable[[], None] = _ignore


class Run:
    """Work from the moment that it is asked for until it has ended in one of three ways.

    Parameters
    ----------
    prepare : called in a thread with the job's folder and a progress callback, which raises where the run was
        cancelled; returns the request. It must not touch the scene
    finish : called in the polling thread with the answer and the folder; what `Listener.finished` gets
    reason_to_stop : asked at each poll; a sentence ends the run as failed
    folder : of an earlier job whose files are wanted; None: a new one
    """

    def __init__(self, worker: Worker, task: str, prepare: Callable[[Path, ProgressCallback], dict[str, Any]],
                 finish: Callable[[dict[str, Any], Path], Any], listener: Listener,
                 reason_to_stop: Callable[[], str] = str, folder: Path | None = None) -> None:
        self._worker = worker
        self._task = task
        self._finish = finish
        self._listener = listener
        self._reason_to_stop = reason_to_stop
        self._stop = threading.Event()
        self._job: Job | None = None
        self._request: dict[str, Any] | None = None
        self._error: Exception | None = None
        self.folder = new_folder() if folder is None else folder
        self._owns_folder = folder is None
        self.is_over = False
        self._thread = threading.Thread(target=self._prepare, args=(prepare,), daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Ask the work to stop; returns at once, the listener hears when it has."""
        self._stop.set()
        if self._job is not None:
            self._job.cancel()

    def close(self) -> None:
        """Be done with the run and its files, whatever state it is in; nobody is told."""
        self.is_over = True
        self._stop.set()
        if self._job is not None:
            self._job.close()  # removes the folder with the last job that uses it
        elif self._owns_folder:
            threading.Thread(target=self._sweep, daemon=True).start()

    def poll(self) -> None:
        """Look how far the work is and tell it; returns within milliseconds."""
        # Slicer's main thread keeps Python's lock while it waits for the user, so that threads get no turn but here
        time.sleep(_YIELD_S)
        reason = "" if self.is_over else self._reason_to_stop()
        if reason:
            self.close()
            self._listener.failed(reason, "")
        elif self.is_over:
            return
        elif self._job is not None:
            self._listen(self._job)
        elif not self._thread.is_alive():
            self._begin()

    def _prepare(self, prepare: Callable[[Path, ProgressCallback], dict[str, Any]]) -> None:
        try:
            self._request = prepare(self.folder, self._check)
        except Exception as error:  # noqa: BLE001 - told in the polling thread, whatever it is
            self._error = error

    def _sweep(self) -> None:
        self._thread.join()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _check(self, _: Progress) -> None:
        if self._stop.is_set():
            raise Cancelled

    def _begin(self) -> None:
        """After the files were written."""
        if self._stop.is_set() or isinstance(self._error, Cancelled):
            self._end(self._listener.cancelled)
        elif self._error is not None or self._request is None:
            self._end(self._listener.failed, *_told(self._error))
        else:
            self._job = self._worker.start(self._task, self._request, self.folder)

    def _listen(self, job: Job) -> None:
        """Pass on what the child reports."""
        for event in job.poll():
            if event.kind == "progress" and event.progress is not None:
                self._listener.progressed(event.progress)
            elif event.kind == "result":
                self._deliver(event.result or {})
            elif event.kind == "failed":
                self._end(self._listener.failed, event.message, event.details)
            elif event.kind == "cancelled":
                self._end(self._listener.cancelled)

    def _deliver(self, answer: dict[str, Any]) -> None:
        try:
            value = self._finish(answer, self.folder)
        except Exception as error:  # noqa: BLE001 - whatever it is, the host goes on
            self._end(self._listener.failed, *_told(error))
        else:
            self._end(self._listener.finished, value)

    def _end(self, tell: Callable[..., None], *values: Any) -> None:
        self.is_over = True
        tell(*values)


def _told(error: Exception | None) -> tuple[str, str]:
    """A sentence for people, and details for a bug report."""
    details = "" if error is None else "".join(traceback.format_exception(error))
    if isinstance(error, UserError):
        return str(error), details
    if isinstance(error, MemoryError):
        return "There is not enough memory for this volume; choose a region of it.", details
    return "Something went wrong inside MambaSeg; please report it with what “Copy details” gives.", details

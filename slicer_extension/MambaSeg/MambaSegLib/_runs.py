"""One piece of long work: files are prepared in a thread, the child process computes, the host only polls.

No Qt here: the panel polls from a `qt.QTimer`, scripts from a loop.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambaseg import Cancelled, Progress, words
from mambaseg.jobs import Job, Worker, new_folder
from mambaseg.progress import ProgressCallback

__all__ = ["YIELD_S", "Listener", "Run"]

YIELD_S = 0.025  # what the window can miss without anybody feeling it, see `Run.poll`


def _ignore(*_: object) -> None:
    """What a listener does that does not care."""


def _same(value: Any) -> Any:
    return value


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
    collect : called in a thread with the answer and the folder: all that takes time. It must not touch the scene
    show : called in the polling thread with what `collect` returned; what `Listener.finished` gets
    reason_to_stop : asked at each poll; a sentence ends the run as failed
    folder : of an earlier job whose files are wanted; None: a new one
    """

    def __init__(self, worker: Worker, task: str, prepare: Callable[[Path, ProgressCallback], dict[str, Any]],
                 collect: Callable[[dict[str, Any], Path], Any], listener: Listener,
                 reason_to_stop: Callable[[], str] = str, show: Callable[[Any], Any] = _same) -> None:
        self._worker = worker
        self._task = task
        self._collect = collect
        self._show = show
        self._listener = listener
        self._reason_to_stop = reason_to_stop
        self._stop = threading.Event()
        self._job: Job | None = None
        self._made: Any = None  # by the thread: the request, then what `collect` returns
        self._error: Exception | None = None
        self._is_collecting = False
        self._is_cleared = False
        self.folder = new_folder()
        self.is_over = False
        self._thread = self._start_thread(lambda: prepare(self.folder, self._check))

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
            self._job.cancel()
        if self._is_cleared:
            return
        self._is_cleared = True
        if self._thread.is_alive():
            threading.Thread(target=self._clear, daemon=True).start()
        else:
            self._clear()

    def poll(self) -> None:
        """Look how far the work is and tell it; returns within milliseconds."""
        # Slicer's main thread keeps Python's lock while it waits for the user, so that threads get no turn but here
        self._thread.join(YIELD_S)
        reason = "" if self.is_over else self._reason_to_stop()
        if reason:
            self.close()
            self._listener.failed(reason, "")
        elif self.is_over or self._thread.is_alive():
            return
        elif self._is_collecting:
            self._deliver()
        elif self._job is not None:
            self._listen(self._job)
        else:
            self._begin()

    def _start_thread(self, work: Callable[[], Any]) -> threading.Thread:
        def run() -> None:
            try:
                self._made = work()
            except Exception as error:  # noqa: BLE001 - told in the polling thread, whatever it is
                self._error = error

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def _clear(self) -> None:
        """Remove the files once no thread uses them."""
        self._thread.join()
        if self._job is not None:
            self._job.close()  # removes the folder
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _check(self, _: Progress) -> None:
        if self._stop.is_set():
            raise Cancelled

    def _begin(self) -> None:
        """After the files were written."""
        if self._stop.is_set() or isinstance(self._error, Cancelled):
            self._end(self._listener.cancelled)
        elif self._error is not None:
            self._end(self._listener.failed, *words.problem(self._error))
        else:
            self._job = self._worker.start(self._task, self._made, self.folder)

    def _listen(self, job: Job) -> None:
        """Pass on what the child reports."""
        for event in job.poll():
            if event.kind == "progress" and event.progress is not None:
                self._listener.progressed(event.progress)
            elif event.kind == "result":
                answer = event.result or {}
                self._is_collecting = True
                self._thread = self._start_thread(lambda answer=answer: self._collect(answer, self.folder))
            elif event.kind == "failed":
                self._end(self._listener.failed, event.message, event.details)
            elif event.kind == "cancelled":
                self._end(self._listener.cancelled)

    def _deliver(self) -> None:
        """After what the child made was collected."""
        try:
            value = None if self._error is not None else self._show(self._made)
        except Exception as error:  # noqa: BLE001 - whatever it is, the host goes on
            self._error = error
        if self._error is not None:
            self._end(self._listener.failed, *words.problem(self._error))
        else:
            self._end(self._listener.finished, value)

    def _end(self, tell: Callable[..., None], *values: Any) -> None:
        self.is_over = True
        tell(*values)

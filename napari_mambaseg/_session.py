"""Long work as a window sees it: files are prepared in a thread, the computing is done by the worker process.

The window's own thread only asks from time to time how far things are, so it never waits.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from psygnal import Signal
from qtpy.QtCore import QTimer

from mambaseg import Cancelled, Progress, words
from mambaseg.jobs import Job, Worker, new_folder
from napari_mambaseg._calm import Calm

__all__ = ["Check", "Prepare", "Run", "Session"]

POLL_MS = 40

Check = Callable[[], None]
Prepare = Callable[[Path, Check], dict[str, Any]]
Finish = Callable[[dict[str, Any], Path], Any]


class Run:
    """One piece of work, from the moment that it is asked for until it has ended in one of three ways.

    Signals, all emitted in the window's thread: `progressed` (Progress) any number of times, then once `finished` (what
    the finishing function returned), `failed` (a sentence, and details for a bug report) or `cancelled`.
    """

    progressed = Signal(Progress)
    finished = Signal(object)
    failed = Signal(str, str)
    cancelled = Signal()

    def __init__(self, worker: Worker, threads: ThreadPoolExecutor, task: str, prepare: Prepare,
                 finish: Finish, folder: Path | None = None, *, gives_way: bool = False) -> None:
        self.gives_way = gives_way
        self._worker = worker
        self._threads = threads
        self._task = task
        self._finish = finish
        self._stop = threading.Event()
        self._job: Job | None = None
        self.folder = new_folder() if folder is None else folder
        self._owns_folder = folder is None
        self.is_over = False
        self.is_closed = False
        self._future: Future[Any] | None = threads.submit(prepare, self.folder, self._check)

    def cancel(self) -> None:
        """Ask the work to stop; `cancelled` comes when it has."""
        self._stop.set()
        if self._job is not None:
            self._job.cancel()

    def advance(self) -> None:
        """Look how far the work is, tell it, and go on to the next step; returns at once."""
        if self._future is not None:
            if self._future.done():
                future, self._future = self._future, None
                self._step(future)
        elif self._job is not None:
            self._listen(self._job)

    def close(self) -> None:
        """Forget the work and remove its files, whatever state it is in; nothing is emitted."""
        self.is_over = self.is_closed = True
        self._stop.set()
        if self._job is not None:
            self._job.close()  # cancels it, and removes the folder where no other job uses it
        elif self._owns_folder:
            self._threads.submit(shutil.rmtree, self.folder, ignore_errors=True)

    def _check(self) -> None:
        """Raise where the work was cancelled; for loops in the preparing function."""
        if self._stop.is_set():
            raise Cancelled

    def _step(self, future: Future[Any]) -> None:
        """After a function in the thread has ended."""
        error = future.exception()
        if error is None and self._job is None and not self._stop.is_set():
            self._job = self._worker.start(self._task, future.result(), self.folder)
        elif isinstance(error, Cancelled) or self._stop.is_set():
            self._end(self.cancelled)
        elif error is not None:
            self._end(self.failed, *words.problem(error))
        else:
            self._end(self.finished, future.result())

    def _listen(self, job: Job) -> None:
        """Pass on what the worker process reports."""
        for event in job.poll():
            if event.kind == "progress" and event.progress is not None:
                self.progressed.emit(event.progress)
            elif event.kind == "result":
                self._future = self._threads.submit(self._finish, event.result or {}, self.folder)
            elif event.kind == "failed":
                self._end(self.failed, event.message, event.details)
            elif event.kind == "cancelled":
                self._end(self.cancelled)

    def _end(self, signal: Any, *values: Any) -> None:
        self.is_over = True
        signal.emit(*values)


class Session:
    """All work of one window; one piece is computed after the other.

    Parameters
    ----------
    worker : the process that computes; None: an own one, which ends with the session
    """

    def __init__(self, worker: Worker | None = None) -> None:
        self._is_owner = worker is None
        self._worker = Worker() if worker is None else worker
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="mambaseg")
        self._runs: list[Run] = []
        self._calm = Calm()
        self._timer = QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.timeout.connect(self._poll)

    @property
    def is_busy(self) -> bool:
        """Whether something is computed that does not give way."""
        return any(not run.is_over and not run.gives_way for run in self._runs)

    def start(self, task: str, prepare: Prepare, finish: Finish, folder: Path | None = None, *,
              gives_way: bool = False) -> Run:
        """Begin a piece of work.

        Parameters
        ----------
        task : of the worker process
        prepare : called in a thread with a fresh folder, and with a function that raises where the work was cancelled;
            returns the request
        finish : called in a thread with the answer and the folder, which is removed when the run is closed; returns
            what the signal `finished` carries
        folder : of an earlier run whose files are wanted; None: a fresh one
        gives_way : is cancelled as soon as any other piece of work is asked for
        """
        for run in self._runs:
            if run.gives_way and not run.is_over:
                run.cancel()
        run = Run(self._worker, self._threads, task, prepare, finish, folder, gives_way=gives_way)
        self._runs.append(run)
        self._calm.begin()
        self._timer.start()
        return run

    def in_background(self, function: Callable[[], object]) -> None:
        """Call a function in the thread; nobody waits for it."""
        self._threads.submit(function)

    def close(self) -> None:
        """End everything at once and without a word."""
        with contextlib.suppress(RuntimeError):  # Qt may have taken the timer down already, with the application
            self._timer.stop()
        self._calm.end()
        for run in self._runs:
            run.close()
        self._runs.clear()
        self._threads.shutdown(wait=False)
        if self._is_owner:
            self._worker.close()

    def _poll(self) -> None:
        for run in [run for run in self._runs if not run.is_over]:
            run.advance()
        self._runs = [run for run in self._runs if not run.is_closed]  # the files of the others are still wanted
        if all(run.is_over for run in self._runs):
            self._timer.stop()
            self._calm.end()

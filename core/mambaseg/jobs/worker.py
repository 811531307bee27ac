"""Worker: a warm child process that serves jobs one after the other. Job: one of them, to be polled."""

from __future__ import annotations

import itertools
import signal
import sys
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mambaseg.jobs import folders
from mambaseg.jobs.messages import Event, event_of
from mambaseg.jobs.process import ChildProcess
from mambaseg.jobs.tasks import TASKS
from mambaseg.words import WENT_WRONG

__all__ = ["Job", "Worker"]

PATIENCE_S = 3.0  # how long a child may take to answer a cancel before it is killed
STARTING_S = 60.0  # the same while it loads torch, which a new child would have to do all over again

_ENDS = ("result", "failed", "cancelled")


class Job:
    """One piece of work, made by `Worker.start`.

    Parameters
    ----------
    folder : where its files lie
    """

    def __init__(self, worker: Worker, number: int, task: str, request: dict[str, Any], folder: Path) -> None:
        self.task = task
        self.folder = folder
        self._worker = worker
        self._number = number
        self._request = request
        self._events: deque[Event] = deque()
        self._is_cancelling = False
        self._has_ended = False
        self._is_closed = False
        folders.use(folder)

    @property
    def is_running(self) -> bool:
        """Whether it waits or runs; False once its last event has arrived, also before that is polled."""
        return not self._has_ended

    def poll(self) -> list[Event]:
        """All events since the last call; returns at once."""
        return [self._events.popleft() for _ in range(len(self._events))]

    def cancel(self) -> None:
        """Ask the job to stop; returns at once. The event "cancelled" follows, within seconds in any case."""
        self._worker._cancel(self)

    def close(self) -> None:
        """Be done with the job: cancel it if it still runs; its temporary folder goes with its last job."""
        if not self._is_closed:
            self._is_closed = True
            self.cancel()
            folders.release(self.folder)

    def _tell(self, event: Event) -> None:
        """Put an event where `poll` finds it; nothing comes after the last one, and a result not after a cancel."""
        if self._has_ended:
            return
        if event.kind in _ENDS:
            self._has_ended = True
            event = Event("cancelled") if self._is_cancelling else event
        self._events.append(event)


class Worker:
    """A child process that computes, so that a window stays alive whatever happens there.

    It starts with the first job and stays, with torch and the models loaded, until `close` or the end of this process.
    If it crashes or is killed, the running job fails and the next one gets a new child. All methods return at once.

    Parameters
    ----------
    python : command that runs a Python with mambaseg; None: this one. In 3D Slicer: ["PythonSlicer"]
    """

    def __init__(self, python: Sequence[str] | None = None) -> None:
        self._python = [sys.executable] if python is None else list(python)
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._process: ChildProcess | None = None
        self._has_started = False  # whether the child has loaded what it needs
        self._current: Job | None = None
        self._waiting: deque[Job] = deque()
        self._is_closed = False
        folders.sweep()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def start(self, task: str, request: dict[str, Any], folder: Path | None = None) -> Job:
        """Have a task done; it waits its turn behind the worker's other jobs.

        Parameters
        ----------
        task : a name in `mambaseg.jobs.tasks.TASKS`; its function says what `request` holds
        request : plain JSON values; arrays go through files in `folder`
        folder : of the job; None: a new temporary one. One made by `new_folder` is removed when its last job is
            closed, any other stays

        Raises
        ------
        ValueError : there is no such task, or the worker is closed (a caller's bug)
        """
        if task not in TASKS:
            raise ValueError(f"there is no task {task!r}, only {', '.join(TASKS)}")
        with self._lock:
            if self._is_closed:
                raise ValueError("this worker is closed")
            job = Job(self, next(self._numbers), task, request, folders.new_folder() if folder is None else folder)
            self._waiting.append(job)
            self._begin_next()
        return job

    def close(self) -> None:
        """Cancel all jobs and end the child; waits until it is gone, well below a second."""
        with self._lock:
            self._is_closed = True
            jobs = [*self._waiting, *([self._current] if self._current else [])]
            self._waiting.clear()
            process, self._process, self._current = self._process, None, None
        for job in jobs:
            job._tell(Event("cancelled"))
        if process is not None:
            process.close()

    def _begin_next(self) -> None:
        """Hand the next job to the child, which is started if there is none."""
        while self._current is None and self._waiting:
            job = self._waiting.popleft()
            try:
                if self._process is None or not self._process.is_alive:
                    self._process = ChildProcess(self._python, self._on_message, self._on_log, self._on_end)
                    self._has_started = False
            except OSError as error:
                job._tell(Event("failed", message=f"{self._python[0]} cannot be started ({error.strerror}); install "
                                                  "mambaseg again, or repair this Python.", details=str(error)))
                continue
            self._current = job
            self._process.send({"job": job._number, "task": job.task, "request": job._request,
                                "folder": str(job.folder)})

    def _cancel(self, job: Job) -> None:
        with self._lock:
            if job in self._waiting:
                self._waiting.remove(job)
                job._tell(Event("cancelled"))
            if job is not self._current or job._is_cancelling or self._process is None:
                return
            job._is_cancelling = True
            self._process.send({"cancel": job._number})
        patience_s = PATIENCE_S if self._has_started else STARTING_S
        timer = threading.Timer(patience_s, self._kill_if_running, (job,))
        timer.daemon = True
        timer.start()

    def _kill_if_running(self, job: Job) -> None:
        with self._lock:
            if job is self._current and self._process is not None:
                self._process.kill()  # `_on_end` follows

    def _on_message(self, message: dict[str, Any]) -> None:
        event = event_of(message)
        with self._lock:
            job = self._current
            if event is None or job is None or message.get("job") != job._number:
                self._on_log(f"(not understood: {str(message)[:200]})")
                return
            job._tell(event)
            self._has_started |= event.kind in _ENDS or (event.progress is not None and event.progress.total > 0)
            if event.kind in _ENDS:
                self._current = None
                self._begin_next()

    def _on_log(self, text: str) -> None:
        with self._lock:
            if self._current is not None:
                self._current._tell(Event("log", message=text))

    def _on_end(self, process: ChildProcess, status: int) -> None:
        with self._lock:
            if process is not self._process:
                return
            job, self._process, self._current = self._current, None, None
            if job is not None:
                job._tell(Event("failed", message=_farewell(status), details="\n".join(process.last_lines)))
            self._begin_next()


def _farewell(status: int) -> str:
    """Why a child is gone, for people."""
    if sys.platform != "win32" and status == -signal.SIGKILL:
        return ("The process that computes was ended by the system, most likely because the memory ran out; choose a "
                "smaller part of the image or close other programs, and try again.")
    if status < 0:
        return (f"The process that computes crashed (signal {-status}); try again, and please report it with what "
                "“Copy details” gives if it happens once more.")
    return f"{WENT_WRONG} Your image is as it was."

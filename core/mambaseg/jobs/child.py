"""The child's side: read jobs from the parent, do them, tell how it goes; leave when the parent does.

It opens nothing but the pipes to its parent and the files that a request names.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import traceback
from pathlib import Path
from typing import Any

import psutil

from mambaseg._courtesy import give_way, wait_quietly
from mambaseg._errors import Cancelled, UserError
from mambaseg.jobs.messages import decode, encode, progress_message
from mambaseg.jobs.tasks import TASKS
from mambaseg.progress import Progress
from mambaseg.words import NO_MEMORY

__all__ = ["main"]

_PARENT_GONE = 3


def main() -> None:
    """Serve jobs until the parent goes away."""
    give_way()
    wait_quietly()
    wire = os.dup(1)
    os.dup2(2, 1)  # what libraries print must not get between the messages
    child = _Child(wire)
    threading.Thread(target=child.listen, daemon=True).start()
    child.tell({"event": "start", "pid": os.getpid()})
    while True:
        child.serve(child.inbox.get())
        from mambaseg.machine import release_freed_memory  # brings torch, as every task does

        release_freed_memory()  # a worker that waits is not to hold what its largest job needed


class _Child:
    """Messages in and out."""

    def __init__(self, wire: int) -> None:
        self.inbox: queue.Queue[dict[str, Any]] = queue.Queue()
        self._wire = wire
        self._cancelled: set[int] = set()

    def tell(self, message: dict[str, Any]) -> None:
        """Say something to the parent."""
        line = memoryview(encode(message))
        while line:
            line = line[os.write(self._wire, line):]

    def listen(self) -> None:
        """Sort what the parent says, in a thread; ends the process when the parent is gone."""
        rest = b""
        try:
            while chunk := os.read(0, 65536):  # not sys.stdin: its lock can abort the interpreter at exit
                *lines, rest = (rest + chunk).split(b"\n")
                for message in filter(None, map(decode, lines)):
                    if "cancel" in message:
                        self._cancelled.add(message["cancel"])
                    else:
                        self.inbox.put(message)
        finally:
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    process.kill()
            os._exit(_PARENT_GONE)

    def serve(self, job: dict[str, Any]) -> None:
        """Do one job. An error that is not the user's ends the process, with its traceback in the log."""
        number = job["job"]

        def progress(update: Progress) -> None:
            if number in self._cancelled:
                raise Cancelled
            self.tell(progress_message(number, update))

        try:
            result = TASKS[job["task"]](job["request"], Path(job["folder"]), progress)
        except Cancelled:
            self.tell({"event": "cancelled", "job": number})
        except (UserError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not _is_out_of_memory(error):
                raise
            message = str(error) if isinstance(error, UserError) else NO_MEMORY
            self.tell({"event": "failed", "job": number, "message": message, "details": traceback.format_exc()})
        else:
            self.tell({"event": "result", "job": number, "result": result})


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether this is how torch says that memory ran out, on a GPU or on the CPU."""
    return type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)

"""A child process that talks in lines, and the certainty that it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import IO, Any

import psutil

from mambaseg.jobs.messages import decode, encode

__all__ = ["ChildProcess"]

_MAX_LINE_BYTES = 2**28  # a longer line is cut, so that a child gone wild cannot fill the host's memory
_N_LINES_KEPT = 200
_DRAIN_S = 1.0  # how long what a dead child said last may take to arrive


class ChildProcess:
    """`python -m mambaseg.jobs`, started; its output is read by threads of its own.

    Parameters
    ----------
    python : command that runs Python; may be a launcher that starts the real one (3D Slicer's PythonSlicer)
    on_message : called with each message of the child, from a thread
    on_log : called with each other line, from a thread
    on_end : called once with the exit status (negative: the signal) after the last line, from a thread

    Raises
    ------
    OSError : the command cannot be started
    """

    def __init__(self, python: Sequence[str], on_message: Callable[[dict[str, Any]], None],
                 on_log: Callable[[str], None], on_end: Callable[[ChildProcess, int], None]) -> None:
        self._on_message = on_message
        self._on_log = on_log
        self._on_end = on_end
        self._real: psutil.Process | None = None
        self.last_lines: deque[str] = deque(maxlen=_N_LINES_KEPT)
        # Without the safe path Python would import what happens to lie in the host's working folder
        self._process = subprocess.Popen(  # noqa: S603 - the command is the host's own Python
            [*python, "-m", "mambaseg.jobs"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONSAFEPATH": "1"}, **_own_group())
        self._readers = [threading.Thread(target=self._read, args=(stream,), daemon=True, name="mambaseg-job")
                         for stream in (self._process.stdout, self._process.stderr)]
        self._waiter = threading.Thread(target=self._wait, daemon=True, name="mambaseg-job")
        for thread in (*self._readers, self._waiter):
            thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def send(self, message: dict[str, Any]) -> None:
        """Say something to the child; if it is dead, `on_end` tells."""
        with contextlib.suppress(OSError, ValueError):  # broken or closed pipe
            assert self._process.stdin is not None  # noqa: S101 - it was asked for
            self._process.stdin.write(encode(message))
            self._process.stdin.flush()

    def kill(self) -> None:
        """End the child and everything that it started."""
        victims = _with_children(psutil.Process(self._process.pid)) if self.is_alive else []
        if self._real is not None:
            victims += _with_children(self._real)
        for victim in victims:
            with contextlib.suppress(psutil.Error):
                victim.kill()
        if sys.platform != "win32":  # also those whose parent is gone: the group outlives its first member
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the child and wait until it is gone."""
        self.kill()
        self._waiter.join(2 * _DRAIN_S + 1)

    def _read(self, stream: IO[bytes] | None) -> None:
        assert stream is not None  # noqa: S101 - it was asked for
        is_wire = stream is self._process.stdout
        while line := stream.readline(_MAX_LINE_BYTES):
            message = decode(line) if is_wire else None
            if message is not None and message.get("event") == "start" and self._real is None:
                self._real = self._find(message.get("pid"))
            elif message is not None and "event" in message:
                self._on_message(message)
            else:
                self.log(line.decode("utf-8", "replace").rstrip())

    def log(self, text: str) -> None:
        """Keep a line that is no message, and pass it on."""
        self.last_lines.append(text)
        self._on_log(text)

    def _find(self, pid: Any) -> psutil.Process | None:
        """The process that computes, if it is what was started or a child of it."""
        with contextlib.suppress(psutil.Error):
            family = _with_children(psutil.Process(self._process.pid))
            return next((member for member in family if member.pid == pid), None)
        return None

    def _wait(self) -> None:
        status = self._process.wait()
        for reader in self._readers:
            reader.join(_DRAIN_S)
        self.kill()  # what it started and left behind may still hold the pipes
        for reader in self._readers:
            reader.join(_DRAIN_S)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()
        self._on_end(self, status)


def _own_group() -> dict[str, Any]:
    """Options that keep the host's Ctrl-C from the child, and let all of its descendants be killed together.

    The group stays in the host's session, since Linux weighs priorities only within one, and the child gives way.
    """
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NO_WINDOW}
    return {"process_group": 0}


def _with_children(process: psutil.Process) -> list[psutil.Process]:
    """A process and all that came from it, as far as they are still there."""
    with contextlib.suppress(psutil.Error):
        return [*process.children(recursive=True), process]
    return []

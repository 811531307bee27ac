"""What a command that computes sets up first, before it reads anything large."""

from __future__ import annotations

import threading

from mambaseg.cli._console import say_error

__all__ = ["start_engine", "stop_talking"]

_is_over = threading.Event()


def start_engine(*, training: bool = False, is_quiet: bool = False) -> None:
    """Let the process keep freed memory, and compile the scan in the background (seconds, the first time only)."""
    from mambaseg.machine import keep_freed_memory  # brings torch, which commands that fail early need not wait for
    from mambaseg.ops import warm_up

    keep_freed_memory()
    warm_up(background=True, on_message=None if is_quiet else _say, training=training)


def stop_talking() -> None:
    """The command has said its last word: what still compiles does so silently."""
    _is_over.set()


def _say(message: str) -> None:
    if not _is_over.is_set():
        say_error(message)

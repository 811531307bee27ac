"""How the processes that are ours behave on a machine that does other things, too; nothing here brings torch."""

from __future__ import annotations

import contextlib
import os
import sys

import psutil

__all__ = ["give_way", "wait_quietly"]

_NICENESS = 10  # half way to the most that Unix knows


def wait_quietly() -> None:
    """Let OpenMP's threads sleep while they wait for each other; before torch is imported, or without effect.

    Else they spin. Where another program has one of the cores, a thread then burns the other one while it waits for its
    sibling to get a turn: with two cores busy, finding nuclei took seven times as long as with sleeping threads. On a
    quiet machine sleeping costs about a twentieth. Who sets `OMP_WAIT_POLICY` decides.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def give_way() -> None:
    """Let the windows of the machine go first, so that they stay quick while this process computes."""
    with contextlib.suppress(psutil.Error, OSError):  # a machine may forbid it
        psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS if sys.platform == "win32" else _NICENESS)

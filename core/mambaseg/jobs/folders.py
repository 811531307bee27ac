"""Temporary folders of jobs: one goes when the last job that uses it is closed, and none outlives the next start."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
from pathlib import Path

import psutil

__all__ = ["new_folder", "release", "sweep", "use"]

_PREFIX = "mambaseg-job-"

_lock = threading.Lock()
_n_users: dict[Path, int] = {}  # of the temporary folders that this process made


def new_folder() -> Path:
    """A temporary folder that only this user can read.

    It is removed when the last job on it is closed, when this process ends, or, if the process was killed, when the
    next one starts a worker.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    with _lock:
        _n_users[folder] = 0
    return folder


def use(folder: Path) -> None:
    """Note that a job uses a folder; those that `new_folder` did not make are none of our business."""
    with _lock:
        if folder in _n_users:
            _n_users[folder] += 1


def release(folder: Path) -> None:
    """Note that a job is done with a folder; the last one removes it."""
    with _lock:
        if folder not in _n_users:
            return
        _n_users[folder] -= 1
        if _n_users[folder] > 0:
            return
        del _n_users[folder]
    shutil.rmtree(folder, ignore_errors=True)  # Windows keeps files that are still open; the next start sweeps them


def sweep() -> None:
    """Remove the folders of processes that are no longer there; only this user's."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        process = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if process.isdigit() and not psutil.pid_exists(int(process)) and _is_ours(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    """Whether it is a real folder of this user, not a link that someone put there."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    return not folder.is_symlink() and (os.name == "nt" or status.st_uid == os.getuid())


@atexit.register
def _remove_all() -> None:
    """Leave nothing behind when the host ends in the ordinary way."""
    for folder in list(_n_users):
        shutil.rmtree(folder, ignore_errors=True)

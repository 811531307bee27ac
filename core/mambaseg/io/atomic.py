"""Files and folders that appear whole or not at all, whatever happens in between."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from mambaseg._errors import UserError
from mambaseg.io._guard import printable

__all__ = ["atomic_folder", "atomic_path", "sync_folder"]

_PREFIX = ".mambaseg-"


@contextmanager
def atomic_path(path: str | Path, n_bytes: int | None = None) -> Iterator[Path]:
    """A temporary path beside `path`; when the block ends, what was written there takes its place in one step.

    The temporary file has the suffix of `path`, for writers that look at it. It is brought to the disk (fsync) before
    the rename, and the folder after it. If the block raises, the temporary file is removed and `path` is as before. A
    process that is killed leaves its temporary file behind; the next write of the same `path` removes it.

    Parameters
    ----------
    path : file to write; its folder is made where it is missing
    n_bytes : about how much will be written, for the message when there is no room

    Raises
    ------
    UserError : the file cannot be written (no room, no permission, name too long, a folder in its place)
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(0, "a folder of this name is in its place")
        _remove_left_over(target)
        temporary = target.with_name(f"{_stem(target)}{os.getpid()}-{secrets.token_hex(4)}{_suffix(target)}")
        try:
            yield temporary
            _sync(temporary)
            temporary.replace(target)
            sync_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        needed = "" if n_bytes is None else f" (about {_size(n_bytes)} are needed)"
        reason = error.strerror or str(error) or type(error).__name__
        name = printable(str(target))
        raise UserError(f"{name} cannot be written: {reason}{needed}. Make room or choose another place.") from error


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside `path`; when the block ends, it takes its place in one step.

    Everything in it is brought to the disk before the rename. If the block raises, the temporary folder is removed. A
    process that is killed leaves it behind; the next write of the same `path` removes it.

    Parameters
    ----------
    path : folder to make; the folders above it are made where they are missing

    Raises
    ------
    UserError : there is something already, or the folder cannot be written (no room, no permission)
    """
    target = Path(path).absolute()
    try:
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise UserError(f"{printable(str(target))} exists already; choose a new folder, or remove it first.")
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(target)
        temporary = target.with_name(f"{_stem(target)}{os.getpid()}-{secrets.token_hex(4)}")
        try:
            temporary.mkdir()
            yield temporary
            for made in (temporary, *temporary.rglob("*")):
                (sync_folder if made.is_dir() else _sync)(made)
            if target.is_dir():
                target.rmdir()  # empty
            temporary.rename(target)
            sync_folder(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{printable(str(target))} cannot be written: {error.strerror or error}. Make room or choose "
                        "another place.") from error


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk (fsync); Windows cannot and need not."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stem(target: Path) -> str:
    """Begin the temporary file's name: short, told by target and machine, hidden from listings."""
    name = hashlib.sha256(target.name.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    host = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]
    return f"{_PREFIX}{name}-{host}-"


def _suffix(target: Path) -> str:
    """The last two suffixes where the name ends like .nii.gz or .ome.tif, else the last."""
    suffixes = target.suffixes[-2:]
    return "".join(suffixes) if sum(map(len, suffixes)) <= 12 and len(suffixes) == 2 else target.suffix


def _remove_left_over(target: Path) -> None:
    """Remove what a killed process of this machine left of an earlier try."""
    stem = _stem(target)
    for path in target.parent.glob(f"{stem}*"):
        process = path.name[len(stem) :].partition("-")[0]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Bring a file's bytes to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _size(n_bytes: int) -> str:
    """A size for people."""
    return f"{n_bytes / 2**20:.1f} MB" if n_bytes >= 2**20 else f"{n_bytes / 2**10:.0f} KB"

"""Prepared cases: in memory, or kept on the disk so that an interrupted or repeated training finds them."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from mambaseg._errors import UserError
from mambaseg.io.atomic import atomic_path
from mambaseg.io.npy_lock import NPY_LOCK
from mambaseg.orientation import turn_to
from mambaseg.plan import Plan
from mambaseg.prepare import prepare
from mambaseg.progress import ProgressCallback
from mambaseg.train.check import Look, in_parallel
from mambaseg.train.dataset import CaseFiles, Dataset, frame_of
from mambaseg.train.sample import UNLABELLED, Case
from mambaseg.words import size

__all__ = ["check_room", "identity", "plain_name", "prepare_cases"]

_VERSION = 1  # of the files; another number, and all are made anew
_SUFFIX = ".case"
_RULES = ("ndim", "transpose", "spacing", "usual_spacing", "unit", "normalisation", "use_mask_for_norm", "intensities",
          "crop_to_nonzero", "fit", "orientation")  # of a plan, what preparing depends on
_SPARE_BYTES = 64 * 2**20  # room left for checkpoints and the model
_COPIES = 6  # of a case while it is prepared: as read, single precision, and double while it is resampled


def prepare_cases(data: Dataset, files: Sequence[CaseFiles], plan: Plan, progress: ProgressCallback | None = None,
                  folder: Path | None = None, previous: Mapping[str, Path] | None = None) -> list[Case]:
    """Training cases, prepared as the plan says, several at a time.

    Parameters
    ----------
    data, files : the data set and its cases that are wanted
    plan : decides how they are prepared
    progress : called after each case
    folder : where they are kept, one file a case; those that are there already, made by the same plan from unchanged
        files, are taken as they are, others are removed. Their arrays stay on the disk and are read where patches are
        cut, so that memory does not bound the data set. None: keep all in memory
    previous : files of labels that the previous stage of a cascade found, by case; see `mambaseg.train.cascade`

    Raises
    ------
    UserError : an image cannot be prepared, or the disk has too little room (told before work begins)
    """
    found_before = previous or {}
    sizes = {case.name: _bytes(data.looks[case.name], plan, data, bool(previous)) for case in files
             if case.name in data.looks}
    needed = _COPIES * max(sizes.values(), default=0)

    def made(case: CaseFiles) -> Case:
        return _prepared(data, case, plan, found_before.get(case.name))

    if folder is None:
        return in_parallel(made, files, "Preparing", progress, needed)
    paths = {case.name: folder / f"{plain_name(case.name)}-{_key(data, case, plan, found_before.get(case.name))}"
             f"{_SUFFIX}" for case in files}
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob(f"*{_SUFFIX}"):
        if path not in paths.values():
            path.unlink()
    check_room(sum(size for name, size in sizes.items() if not paths[name].is_file()), folder)

    def kept(case: CaseFiles) -> Case:
        path = paths[case.name]
        found = _load(path, case.name, bool(previous))
        if found is None:
            _save(path, made(case))
            found = _load(path, case.name, bool(previous))
        if found is None:
            raise UserError(f"{path} cannot be read after it was written; choose another place with -o.")
        return found

    return in_parallel(kept, files, "Preparing", progress, needed)


def _prepared(data: Dataset, files: CaseFiles, plan: Plan, previous: Path | None) -> Case:
    """One case, from its files."""
    image, labels = files.read()
    turn = turn_to(plan.orientation, image.grid)
    spacing = turn.sizes(plan.spacing_of(image.grid.spacing, image.grid.unit))
    before = None if previous is None else turn(np.load(previous, allow_pickle=False))
    found = prepare(turn(frame_of(image, data.n_channels)), spacing, plan, turn(data.to_classes(labels)), before)
    truth = found.labels if found.labels is not None else np.zeros(found.array.shape[1:], np.int8)
    if data.ignore_class is not None:
        truth[truth == data.ignore_class] = UNLABELLED
    case = Case(files.name, found.array, truth, previous=found.previous)
    case.find_foreground(data.instances)
    return case


def _key(data: Dataset, files: CaseFiles, plan: Plan, previous: Path | None) -> str:
    """What a prepared case depends on, in 16 letters."""
    paths = (*files.images, files.labels, *([] if previous is None else [previous]))
    seen = [(str(path.resolve()), *identity(path)) for path in paths]
    meaning = (data.n_channels, data.label_values, data.instances, data.ignore_value, data.regions)
    rules = {name: getattr(plan, name) for name in _RULES}
    patch = None if plan.fit == "windows" else plan.patch_size
    text = json.dumps([_VERSION, rules, patch, meaning, seen], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def identity(path: Path) -> tuple[int, int]:
    """Size and time of change of a file, or of the files in a folder."""
    parts = [path] if path.is_file() else sorted(path.rglob("*"))
    stats = [part.stat() for part in parts]
    return sum(stat.st_size for stat in stats), max((stat.st_mtime_ns for stat in stats), default=0)


def plain_name(name: str) -> str:
    """A case's name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:40]


# --- files ------------------------------------------------------------------------------------------------------------

def _save(path: Path, case: Case) -> None:
    """Write a case as arrays in one file: image, labels, a row (class, voxel) for each location, and labels before."""
    rows = [np.column_stack([np.full(len(voxels), number), voxels]) for number, voxels in case.locations.items()]
    where = np.concatenate(rows) if rows else np.zeros((0, 1 + case.labels.ndim), np.int64)
    arrays = [case.image, case.labels, where, *([] if case.previous is None else [case.previous])]
    with atomic_path(path, sum(array.nbytes for array in arrays)) as temporary, temporary.open("wb") as file:
        for array in arrays:
            npy.write_array(file, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)


def _load(path: Path, name: str, has_previous: bool) -> Case | None:
    """The case in a file, image and labels left on the disk; None where there is none or it is damaged."""
    try:
        with path.open("rb") as file:
            image, labels, where = (_mapped(path, file) for _ in range(3))
            previous = _mapped(path, file) if has_previous else None
    except (OSError, ValueError):
        return None
    rows = np.array(where)
    return Case(name, image, labels, locations={
        int(number): rows[rows[:, 0] == number, 1:] for number in np.unique(rows[:, 0])}, previous=previous)


def _mapped(path: Path, file: Any) -> NDArray[Any]:
    """The array at the file's position, which moves behind it."""
    if npy.read_magic(file) != (1, 0):
        raise ValueError("another version")
    with NPY_LOCK:
        shape, _, dtype = npy.read_array_header_1_0(file)
    start = file.tell()
    file.seek(start + math.prod(shape) * dtype.itemsize)
    if not math.prod(shape):
        return np.zeros(shape, dtype)  # nothing can be mapped
    return np.memmap(path, dtype, mode="r", offset=start, shape=shape)


# --- room -------------------------------------------------------------------------------------------------------------

def check_room(needed: int, folder: Path) -> None:
    """Raise UserError unless the disk has room for so many bytes of cases that are yet to be prepared."""
    free = shutil.disk_usage(folder).free
    if needed and needed + _SPARE_BYTES > free:
        raise UserError(f"The prepared cases need about {size(needed)} in {folder}, but only {size(free)} are free; "
                        "make room, or choose another place with -o.")


def _bytes(look: Look, plan: Plan, data: Dataset, has_previous: bool = False) -> int:
    """Size of a case after it is prepared; where the check did not crop, at most."""
    shape, spacing = look.measure.shape, look.measure.spacing
    if len(plan.transpose) == len(shape):
        shape, spacing = tuple(shape[axis] for axis in plan.transpose), tuple(spacing[axis] for axis in plan.transpose)
    n_voxels = float(math.prod(shape))
    if plan.fit != "windows":
        n_voxels = float(math.prod((*shape[: len(shape) - plan.ndim], *plan.patch_size)))
    elif plan.spacing is not None:
        n_voxels *= math.prod(spacing[-plan.ndim:]) / math.prod(plan.spacing)
    return int(n_voxels) * (4 * data.n_channels + (4 if data.instances else 1) + has_previous)

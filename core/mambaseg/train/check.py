"""Looking through a data set before work starts: what each case is like, and everything that is wrong with it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
from numpy.typing import NDArray

from mambaseg import io
from mambaseg._errors import Cancelled, UserError
from mambaseg.image import Grid, Image
from mambaseg.orientation import turn_to
from mambaseg.plan.fingerprint import N_SAMPLES, CaseMeasure, measure_case
from mambaseg.progress import Clock, Progress, ProgressCallback, report
from mambaseg.train.files import CaseFiles

__all__ = ["Look", "in_parallel", "look_through", "problems_between"]

MOST_CLASSES = 256  # more outputs than any data set of organs asks for
_LEAST_PX_AN_OBJECT = 4  # label images with more values than that are pictures
_MOST_NAMED = 5  # values listed in one message
_MEMORY_A_FILE_BYTE = 40  # a case in work, for each byte on the disk: packed files, float32, masks
_SAME_SPACING = 1e-3
_LARGEST_TABLE = 2**24

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True)
class Look:
    """What one case is like.

    Parameters
    ----------
    channels : names
    ndim : spatial axes
    unit : of the spacing
    values : that occur in the labels
    shape : voxels per spatial axis
    measure : its part of the fingerprint
    grid : where its voxels lie
    """

    channels: tuple[str, ...]
    ndim: int
    unit: str
    values: frozenset[int]
    shape: tuple[int, ...]
    measure: CaseMeasure
    grid: Grid

    def turned_measure(self, orientation: str) -> CaseMeasure:
        """The measure of the volume after its axes are turned; see `mambaseg.orientation`."""
        order = turn_to(orientation, self.grid).order or range(self.ndim)
        shape, spacing = self.measure.shape, self.measure.spacing
        return replace(self.measure, shape=tuple(shape[axis] for axis in order),
                       spacing=tuple(spacing[axis] for axis in order))


def look_through(cases: Sequence[CaseFiles], names: Mapping[int, str], crop: bool | None = None,
                 progress: ProgressCallback | None = None) -> tuple[dict[str, Look], list[str]]:
    """Read every case once, several at a time.

    Parameters
    ----------
    cases : to read
    names : of the label values that may occur; empty: all may
    crop : measure what is left after cropping to nonzero; None: only where the unit is mm, as training does
    progress : called after each case

    Returns
    -------
    What the usable cases are like, by name; and a sentence for each problem of the others, in the order of `cases`
    """
    n_samples = N_SAMPLES // max(len(cases), 1)
    found = in_parallel(lambda case: _look(case, names, n_samples, crop), cases, "Reading", progress,
                        _MEMORY_A_FILE_BYTE * _largest(cases))
    looks = {case.name: look for case, (look, _) in zip(cases, found, strict=True) if look is not None}
    return looks, [problem for _, problems in found for problem in problems]


def problems_between(looks: Mapping[str, Look], cases: Mapping[str, CaseFiles]) -> list[str]:
    """What is wrong with cases only beside the others: 3-D among 2-D, other channels, no labels, a single case."""
    if not looks:
        return []
    problems = []
    files = {name: short(cases[name].images[0]) for name in looks}
    ndim = _usual(look.ndim for look in looks.values())
    problems += [f"{files[name]} is {look.ndim}-D among {ndim}-D images; convert or remove it"
                 for name, look in looks.items() if look.ndim != ndim]
    n_channels = max(len(look.channels) for look in looks.values())
    problems += [f"{files[name]} has {len(look.channels)} channels, others have {n_channels}; convert or remove it"
                 for name, look in looks.items() if len(look.channels) not in (1, n_channels)]
    if all(look.values <= {0} for look in looks.values()):
        problems.append("all labels are 0; label some objects")
    if len(looks) == 1 and len(cases) == 1:
        problems.append(f"{next(iter(files.values()))} is the only case; give at least two, one to learn from and one "
                        "to judge by")
    return problems


def in_parallel(work: Callable[[In], Out], items: Sequence[In], stage: str, progress: ProgressCallback | None = None,
                bytes_an_item: int = 0) -> list[Out]:
    """Results of `work` for each item, in their order; several threads, as many as cores and memory allow.

    NumPy, SciPy and the readers let other threads run while they compute.

    Raises
    ------
    Cancelled : from `progress`; items that have not begun are dropped
    """
    memory = int(psutil.virtual_memory().available * 0.5) // max(bytes_an_item, 1)
    n_workers = max(1, min(len(items), _n_cores(), memory))
    clock = Clock(len(items))
    results = []
    with ThreadPoolExecutor(n_workers, thread_name_prefix="mambaseg-cases") as pool:
        waiting = [pool.submit(work, item) for item in items]
        try:
            report(progress, Progress(stage, 0, len(items)))
            for done, future in enumerate(waiting, 1):
                results.append(future.result())
                report(progress, Progress(stage, done, len(items), seconds_left=clock.seconds_left(done)))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def _n_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _largest(cases: Iterable[CaseFiles]) -> int:
    """Bytes on the disk of the largest case."""
    return max((sum(_bytes(path) for path in case.images) for case in cases), default=0)


def _bytes(path: Path) -> int:
    """Size of a file, or of all in a folder; 0 where it is gone."""
    try:
        return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    except OSError:
        return 0


def _look(case: CaseFiles, names: Mapping[int, str], n_samples: int,
          crop: bool | None) -> tuple[Look | None, list[str]]:
    """One case: what it is like, or its problems."""
    problems: list[str] = []
    image = _tried(case.read_image, short(case.images[0]), problems)
    labels = _tried(lambda: io.read_labels(case.labels), short(case.labels), problems)
    if image is None or labels is None:
        return None, problems
    problems += _grid_problems(case, image, labels.grid)
    values = _values(labels.data)
    problems += _value_problems(case, labels.data, values, names)
    if case.channels and image.n_channels != len(case.channels):
        problems.append(f"{case.name} has {image.n_channels} channel{'s' * (image.n_channels > 1)}, but dataset.json "
                        f"names {len(case.channels)} ({', '.join(case.channels)}); add or remove some")
    frame = next(image.frames())
    if frame.dtype.kind == "f" and not np.isfinite(frame).any():
        problems.append(f"{short(case.images[0])} has no finite value; write it again")
    if problems:
        return None, problems
    n = image.n_channels
    channels = image.known_channels or tuple(f"channel {i + 1}" for i in range(n))
    measured = measure_case(frame, labels.data, image.grid.spacing, n_samples=n_samples, evenly=True,
                            crop=image.grid.unit == "mm" if crop is None else crop)
    return Look(channels, image.ndim, image.grid.unit, frozenset(values.tolist()), image.grid.shape, measured,
                image.grid), []


def _values(labels: NDArray[Any]) -> NDArray[Any]:
    """The different values, ascending; by a table where it is small, for sorting a volume takes seconds."""
    if labels.min() < 0 or labels.max() > _LARGEST_TABLE:
        return np.unique(labels)
    is_there = np.zeros(int(labels.max()) + 1, bool)
    is_there[labels.ravel()] = True
    return np.flatnonzero(is_there)


def _tried(read: Callable[[], Image], name: str, problems: list[str]) -> Image | None:
    """What `read` gives; its error becomes a problem."""
    try:
        return read()
    except Cancelled:
        raise
    except UserError as error:
        said = str(error).rstrip(".")
        problems.append(f"{name}: {said}")
    return None


def _grid_problems(case: CaseFiles, image: Image, labels: Grid) -> list[str]:
    """Whether image and labels lie on one grid."""
    if image.has_time:
        return [f"{short(case.images[0])} is a time series, but training takes single time points; split it"]
    own, told = image.grid, f"{short(case.labels)} and {short(case.images[0])}"
    if labels.shape != own.shape:
        return [f"{told} have different shapes, {_times(labels.shape)} and {_times(own.shape)}; both must lie on one "
                "grid"]
    if "px" in (own.unit, labels.unit) or own.unit != labels.unit:
        return []
    if not np.allclose(labels.spacing, own.spacing, rtol=_SAME_SPACING):
        return [f"{told} have different spacings, {_times(labels.spacing)} and {_times(own.spacing)} {own.unit}; write "
                "both on one grid"]
    return []


def _value_problems(case: CaseFiles, labels: NDArray[Any], values: NDArray[Any], names: Mapping[int, str]) -> list[str]:
    """Whether the label values can be what they are said to be."""
    if values[0] < 0:
        return [f"{short(case.labels)} has the value {values[0]}; labels are 0 for background and numbers above it"]
    unknown = [int(value) for value in values if value and value not in names] if names else []
    if unknown:
        known = ", ".join(f"{value} ({name})" for value, name in sorted(names.items())[:_MOST_NAMED])
        return [f"{short(case.labels)} has the label{'s' * (len(unknown) > 1)} {_listed(unknown)}, but dataset.json "
                f"knows {known}{', ...' * (len(names) > _MOST_NAMED)}; correct one of them"]
    if len(values) > MOST_CLASSES and len(values) * _LEAST_PX_AN_OBJECT > np.count_nonzero(labels):
        return [f"{short(case.labels)} has {len(values):,} different values, as many as a picture; give the labels, "
                "whole numbers for classes or objects"]
    return []


def short(path: Path) -> str:
    """Name of a file with its folder's, for images and labels often have the same."""
    return f"{path.parent.name}/{path.name}"


def _listed(values: Sequence[int]) -> str:
    """The first few of many numbers."""
    return ", ".join(map(str, values[:_MOST_NAMED])) + (", ..." if len(values) > _MOST_NAMED else "")


def _times(numbers: Iterable[float]) -> str:
    """A shape or spacing for people: 3 x 4."""
    return " x ".join(f"{number:.6g}" for number in numbers)


def _usual(values: Iterable[int]) -> int:
    """The most frequent value, the smaller of equally frequent ones."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))

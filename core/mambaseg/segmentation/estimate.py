"""What a segmentation will cost, before it runs."""

from __future__ import annotations

import math
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from mambaseg.image import Grid, Image
from mambaseg.instances import features
from mambaseg.machine import choose_device, precision_name
from mambaseg.models import Model, load_model
from mambaseg.ops import warm_up
from mambaseg.orientation import turn_to
from mambaseg.predict.run import Box, count_windows, roi_bounds, to_frame
from mambaseg.prepare import Prepared, outline, prepare
from mambaseg.segmentation.calibrate import Calibration, calibrate
from mambaseg.segmentation.match import check_values, match_axes, match_channels, stage_spacing
from mambaseg.segmentation.run import as_image, labels_from
from mambaseg.words import size

__all__ = ["Estimate", "estimate"]

_SAMPLE_VOXELS = 2**17
_OBJECT_PITCH_PX, _OBJECT_RADIUS_PX = 16, 6
_SPARE = 0.95  # of the free memory; the last of it is never worth having


@dataclass(frozen=True)
class Estimate:
    """What a segmentation will cost.

    Parameters
    ----------
    seconds : until the result is there, on this machine as busy as it is now
    memory_bytes : most memory that this process will hold, with what it holds already
    n_windows : windows that the network will look at, over all time points; mirror images not counted
    fits : whether there is that much memory
    advice : what to do where there is not, a sentence; else empty
    """

    seconds: float
    memory_bytes: int
    n_windows: int
    fits: bool
    advice: str


@dataclass(frozen=True)
class _Rates:
    """Seconds and bytes a voxel of the frame, of the steps around the network."""

    prepare: tuple[float, float]
    back: tuple[float, float]
    finish: tuple[float, float]


@dataclass
class _Sum:
    """What adds up over time points, groups of networks and stages."""

    seconds: float = 0.0
    n_windows: int = 0
    peak_bytes: float = 0.0
    device_bytes: float = 0.0
    engine_bytes: int = 0


def estimate(image: Image | NDArray[Any] | str | Path, model: Model | str | Path, device: str = "auto",
             precision: str = "auto", tta: bool = False, roi: Box | None = None) -> Estimate:
    """Seconds and bytes that `segment` will take with the same arguments.

    The first time with a model, a device and a number of threads a few windows are computed (seconds); after that a
    picture takes well below a second.

    Raises
    ------
    UserError : as `segment` does, as far as it can be told without computing
    """
    start = time.perf_counter()
    model = model if isinstance(model, Model) else load_model(model)
    given = as_image(image)
    matched = match_channels(given, model, [])
    check_values(given, [])
    match_axes(given, model, [])
    bounds = None if roi is None else roi_bounds(roi, given.grid.shape)
    stages = [(stage, stage.built_groups) for stage in model.stages]
    _load_libraries(model)
    total = _Sum(seconds=time.perf_counter() - start)  # the run would have had to do all this
    where = choose_device(device)
    dtype = precision_name(precision, where)
    for stage, groups in stages:
        for part, networks in groups:
            spacing, turn = stage_spacing(given, part, model, []), turn_to(part.plan.orientation, given.grid)
            cost, is_warm = calibrate(part, networks, where, dtype)
            total.engine_bytes = max(total.engine_bytes, 0 if is_warm else cost.engine_bytes)
            total.device_bytes = max(total.device_bytes, cost.device_bytes)
            rates = _rates(part, given, matched, spacing, is_last=part is groups[-1][0])
            n_looks = 2 ** len(part.mirror_axes) if tta else 1
            for frame in matched.frames():
                _add(total, outline(turn(frame), turn.sizes(spacing), part.plan), part, rates, cost,
                     turn.box(bounds, frame.shape[1:]) if stage is model and bounds is not None else None, n_looks)
    n_voxels = math.prod(given.grid.shape)
    kept = given.n_frames * n_voxels * (4 if model.kind == "instances" else 1) * (2 if given.has_time else 1)
    held = psutil.Process().memory_info().rss
    memory = int(held + total.engine_bytes + total.peak_bytes + kept)
    advice = _advice(memory - held, psutil.virtual_memory().available, "") or _advice(
        total.device_bytes, torch.cuda.mem_get_info(where)[0] if where.type == "cuda" else math.inf, " on the GPU")
    return Estimate(total.seconds, memory, total.n_windows, not advice, advice)


def _load_libraries(model: Model) -> None:
    """Load what a run loads on its way, the first time in a process."""
    warm_up(background=False, training=False)()
    if model.kind == "instances":
        import_module("pandas")  # for the table of objects


def _add(total: _Sum, prepared: Prepared, part: Model, rates: _Rates, cost: Calibration, roi: Box | None,
         n_looks: int) -> None:
    """Add what one time point costs with one group of networks."""
    n_windows = count_windows(prepared, part.plan, roi)
    n_voxels, n_cropped, n_prepared = (math.prod(sides) for sides in (
        prepared.shape_before_crop, prepared.shape_after_crop, prepared.array.shape[1:]))
    total.n_windows += n_windows
    total.seconds += (n_windows * n_looks * cost.window_s + rates.prepare[0] * n_voxels + rates.back[0] * n_cropped
                      + rates.finish[0] * n_voxels)
    array, sums = 4 * len(prepared.array) * n_prepared, 4 * part.n_outputs * n_prepared
    if part.previous:
        array += n_prepared + n_voxels  # the labels of the stage before, on the network's grid and on the frame's
    total.peak_bytes = max(
        total.peak_bytes,
        rates.prepare[1] * n_voxels,
        array + sums + 4 * n_prepared + cost.window_bytes,
        array + sums + 9 * n_prepared,  # the mean: weights, and a copy of them without zeros
        array + sums + rates.back[1] * n_cropped + 8 * n_cropped,  # softmax: two arrays of a single class
        4 * part.n_outputs * n_voxels + rates.finish[1] * n_voxels)


def _rates(part: Model, image: Image, matched: Image, spacing: tuple[float, ...] | None, is_last: bool) -> _Rates:
    """What the steps around the network cost, tried out on a small frame of the same kind."""
    shape = _sample_shape(image.grid.shape)
    n_voxels = math.prod(shape)
    rng = np.random.default_rng(0)
    frame = rng.integers(1, 100, (matched.n_channels, *shape)).astype(matched.data.dtype)
    seen = rng.integers(1, 100, (image.n_channels, *shape)).astype(image.data.dtype)
    previous = rng.choice((0, *part.foreground_labels), shape).astype(np.uint8) if part.previous else None
    prepared, *first = _tried(lambda: prepare(frame, spacing, part.plan, previous=previous))
    logits = np.zeros((part.n_outputs, *prepared.array.shape[1:]), np.float32)  # twice overwritten, which is no harm
    _, *second = _tried(lambda: to_frame(logits, prepared, part.kind))
    third = [0.0, 0.0]
    if is_last:
        probabilities = _spots(shape) if part.kind == "instances" else np.zeros((part.n_outputs, *shape), np.float32)
        grid = Grid(shape, image.grid.spacing, image.grid.unit)
        _, *third = _tried(lambda: _finish(probabilities, part, spacing, seen, grid))
    prepare_rate, back_rate, finish_rate = ((cost[0] / n_voxels, cost[1] / n_voxels) for cost in (first, second, third))
    return _Rates(prepare_rate, back_rate, finish_rate)


def _finish(probabilities: NDArray[np.float32], model: Model, spacing: tuple[float, ...] | None,
            seen: NDArray[Any], grid: Grid) -> None:
    """What a run does last."""
    labels = labels_from(probabilities, model, spacing)
    if model.kind == "instances":
        features(labels, seen, grid, probabilities)


def _sample_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """A frame of the same proportions with `_SAMPLE_VOXELS` voxels at most."""
    factor = min(1.0, (_SAMPLE_VOXELS / math.prod(shape)) ** (1 / len(shape)))
    return tuple(max(1, int(side * factor)) for side in shape)


def _spots(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Probabilities of background, interior and boundary of round objects in rows, as full as cells in a tissue."""
    squares = np.zeros(shape, np.float32)
    for axis, side in enumerate(shape):
        offsets = np.arange(side) % _OBJECT_PITCH_PX - _OBJECT_PITCH_PX / 2
        squares += (offsets**2).reshape([-1 if other == axis else 1 for other in range(len(shape))])
    inside, around = squares < (_OBJECT_RADIUS_PX - 1) ** 2, squares < _OBJECT_RADIUS_PX**2
    return np.stack([~around, inside, around & ~inside]).astype(np.float32)


def _tried(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """What some work gives, its seconds, and the bytes of arrays that it held at most.

    Done twice, because counting bytes slows small steps down, and because the first time imports.
    """
    is_ours = not tracemalloc.is_tracing()
    if is_ours:
        tracemalloc.start()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        work()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        if is_ours:
            tracemalloc.stop()
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start, peak - before


def _advice(needed: float, free: float, where: str) -> str:
    """What to do if the memory does not suffice, else nothing."""
    if needed <= _SPARE * free:
        return ""
    n_parts = math.ceil(needed / (_SPARE * free)) if free > 0 else 2
    remedy = "choose the device cpu" if where else f"cut the image into {max(2, n_parts)} parts and segment each"
    return f"It needs {size(needed)} more, but {size(free)} are free{where}: close other programs, or {remedy}."

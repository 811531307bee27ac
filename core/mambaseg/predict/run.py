"""The way from an image to class probabilities: prepare, window after window, and back."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mambaseg._errors import ImageError, ModelError
from mambaseg.machine import choose_device, choose_precision
from mambaseg.plan.plan import Plan
from mambaseg.predict.blend import Blend, gaussian_weights, logits_to_probabilities, overlap
from mambaseg.predict.preview import Previewer
from mambaseg.predict.previous import one_hot
from mambaseg.predict.windows import window_grid
from mambaseg.prepare import Prepared, prepare, resample_back, uncrop
from mambaseg.progress import Clock, Preview, Progress, ProgressCallback, report

__all__ = ["Box", "count_windows", "predict", "predict_logits", "prepared_box", "roi_bounds", "to_frame"]

Box = Sequence[slice | tuple[int, int]]


def predict(
    networks: Sequence[torch.nn.Module],
    frame: NDArray[np.generic],
    spacing: Sequence[float] | None,
    plan: Plan,
    *,
    n_classes: int,
    kind: str = "classes",
    mirror_axes: Sequence[int] = (),
    step: float = 0.5,
    device: str = "cpu",
    precision: str = "auto",
    roi: Box | None = None,
    focus: Sequence[float] | None = None,
    progress: ProgressCallback | None = None,
    preview: bool = False,
    previous: NDArray[Any] | None = None,
    foreground: Sequence[int] = (),
) -> NDArray[np.float32]:
    """Class probabilities on the frame's own grid.

    Memory beyond the networks is one window's activations, the prepared image and two arrays of the result's size.

    Parameters
    ----------
    networks : an ensemble, or one network in a list; its logits are averaged before the softmax, as nnU-Net does. They
        are moved to the device and stay there; their training mode comes back
    frame, spacing, plan : see `mambaseg.prepare.prepare`
    n_classes : outputs of the network: classes, or regions
    kind : classes, instances (softmax) or regions (sigmoid)
    mirror_axes : axes of the patch (0 is its first) to mirror along; all combinations are averaged
    step : distance of neighbouring windows as a share of the window
    device : auto, cpu, cuda, cuda:1, mps
    precision : auto (bfloat16 on a CUDA device that has it, else float32), float32 or bfloat16; sums are float32 always
    roi : (start, stop) or slice per spatial axis of the frame; the rest of the result is background. Within the box the
        result is that of the whole frame
    focus : point of the frame, voxels per spatial axis; windows near it come first
    progress : called before the first window and after each; whatever it raises stops the work
    preview : let the reports carry a `Preview` of the window just done
    previous : labels that the previous stage of a cascade found in the whole frame, (*spatial)
    foreground : labels of the previous stage that the network sees, each as a channel behind those of the frame

    Returns
    -------
    float32, (n_classes, *spatial) in the frame's axis order; background where the frame is cropped away

    Raises
    ------
    UserError : frame, box or device cannot be used, or the network's output is not finite; see also `prepare`
    """
    bounds = None if roi is None else roi_bounds(roi, frame.shape[1:])
    prepared = prepare(frame, spacing, plan, previous=previous)
    logits = predict_logits(
        networks, prepared.array, plan, n_classes=n_classes, mirror_axes=mirror_axes, step=step, device=device,
        precision=precision, box=None if bounds is None else prepared_box(bounds, prepared),
        focus=None if focus is None else _prepared_point(focus, prepared), progress=progress,
        preview=Previewer(prepared, kind, bounds) if preview and progress is not None else None,
        previous=prepared.previous, foreground=foreground)
    result = to_frame(logits, prepared, kind)
    if bounds is not None:
        _blank(result, bounds, _background(n_classes, kind))
    return result


def to_frame(logits: NDArray[np.float32], prepared: Prepared, kind: str) -> NDArray[np.float32]:
    """Probabilities on the frame's grid from logits on the prepared one, which may be overwritten; see `predict`."""
    probabilities = logits_to_probabilities(resample_back(logits, prepared), kind)
    return uncrop(probabilities, prepared, _background(len(logits), kind))


def _background(n_classes: int, kind: str) -> list[float]:
    """Probabilities of a voxel that no network saw."""
    return [0.0] * n_classes if kind == "regions" else [1.0] + [0.0] * (n_classes - 1)


def predict_logits(
    networks: Sequence[torch.nn.Module],
    array: NDArray[np.float32],
    plan: Plan,
    *,
    n_classes: int,
    mirror_axes: Sequence[int] = (),
    step: float = 0.5,
    gaussian: bool = True,
    sums: torch.dtype = torch.float32,
    device: str = "cpu",
    precision: str = "auto",
    box: Sequence[tuple[int, int]] | None = None,
    crop: bool = False,
    focus: Sequence[float] | None = None,
    progress: ProgressCallback | None = None,
    preview: Callable[[Blend, Sequence[int]], Preview | None] | None = None,
    previous: NDArray[Any] | None = None,
    foreground: Sequence[int] = (),
) -> NDArray[np.float32]:
    """Logits on the prepared grid, before softmax.

    Parameters
    ----------
    array : float32, (channel, *spatial), as `prepare` makes it; a 2-D plan goes through a volume slice by slice
    gaussian : weigh windows by `gaussian_weights`; False: all voxels alike
    sums : dtype that windows are added up in. float16 gives the result of stock nnU-Net on a CPU, to compare with it;
        that is off by up to one near the image's corners, where weights are at the end of half precision
    box : (start, stop) per axis of `array`; only windows that touch it
    crop : keep the box alone, so that memory does not grow with the rest of the array
    focus : point of `array` in voxels
    preview : what a report shows of the sums after the window at a start
    previous : labels on the grid of `array`
    The rest is as for `predict`.

    Returns
    -------
    float32, (n_classes, *spatial), or (n_classes, *box) with `crop`; 0 where no window lies
    """
    where = choose_device(device)
    dtype = choose_precision(precision, where)
    tile = plan.patch_size
    starts = window_grid(array.shape[1:], tile, step, box, focus)
    kept = box if crop and box is not None else [(0, size) for size in array.shape[1:]]
    shape = [high - low for low, high in kept]
    blend = Blend(n_classes, shape, _weights(tile, gaussian, sums).to(_place(where, 4 * (n_classes + 1)
                                                                             * math.prod(shape))))
    clock = Clock(len(starts))
    report(progress, Progress("Segmenting", 0, len(starts)))
    with _ready(networks, where), torch.inference_mode(), torch.autocast(where.type, dtype, dtype != torch.float32):
        for done, start in enumerate(starts, 1):
            window = torch.from_numpy(_cut(array, start, tile, previous, foreground)).to(where)
            blend.add(_logits(networks, window, n_classes, mirror_axes),
                      [first - low for first, (low, _) in zip(start, kept, strict=True)])
            report(progress, Progress("Segmenting", done, len(starts), "",
                                      None if preview is None else preview(blend, start), clock.seconds_left(done)))
        return blend.mean().float().cpu().numpy()


def _place(device: torch.device, n_bytes: int) -> torch.device:
    """Where the sums lie: beside the network if they take less than half of the memory left there, else on the CPU."""
    if device.type == "cuda" and n_bytes < torch.cuda.mem_get_info(device)[0] // 2:
        return device
    return torch.device("cpu")


def _weights(tile: tuple[int, ...], gaussian: bool, dtype: torch.dtype) -> torch.Tensor:
    """Weights of a window's voxels, none of them zero."""
    weights = torch.tensor(gaussian_weights(tile)).to(dtype) if gaussian else torch.ones(tile, dtype=dtype)
    weights[weights == 0] = weights[weights > 0].min()
    return weights


@contextlib.contextmanager
def _ready(networks: Sequence[torch.nn.Module], device: torch.device) -> Iterator[None]:
    """Networks on the device and in evaluation mode; afterwards in the mode they came in."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    for network in networks:
        network.to(device).eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _cut(array: NDArray[np.float32], start: Sequence[int], tile: Sequence[int], previous: NDArray[Any] | None,
         foreground: Sequence[int]) -> NDArray[np.float32]:
    """The window (1, channel, *tile) at `start`, zeros where it sticks out of the image (nnU-Net's padding)."""
    target, source = overlap(start, tile, array.shape[1:])
    n_channels = len(array)
    n_seen = 0 if previous is None else len(foreground)
    window = np.zeros((n_channels + n_seen, *tile), dtype=np.float32)
    window[(slice(n_channels), *source)] = array[(slice(None), *target)]
    if previous is not None:
        window[(slice(n_channels, None), *source)] = one_hot(previous[target], foreground)
    return window[None]


def _logits(
    networks: Sequence[torch.nn.Module], window: torch.Tensor, n_classes: int, mirror_axes: Sequence[int]
) -> torch.Tensor:
    """Logits (class, *tile) of one window: the mean over networks and mirror images, float32."""
    flips = [axes for n in range(len(mirror_axes) + 1) for axes in combinations(mirror_axes, n)]
    total = torch.zeros((n_classes, *window.shape[2:]), device=window.device)
    for network in networks:
        for axes in flips:
            dims = [axis + 2 for axis in axes]
            output = network(torch.flip(window, dims))
            output = output[0] if isinstance(output, list | tuple) else output  # deep supervision: full size first
            if output.shape[1] != n_classes:
                raise ModelError(f"The network gives {output.shape[1]} outputs a voxel, but the model names "
                                 f"{n_classes} classes. The model is inconsistent; export or train it again.")
            total += torch.flip(output, dims)[0]
    if not torch.isfinite(total.sum()):
        raise ModelError("The network's output is not finite (NaN or infinite): its weights are damaged, or the image "
                         "is far from what it was trained on. Check the image's values, or use precision float32.")
    return total.div_(len(networks) * len(flips))


def roi_bounds(roi: Box, shape: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The box as (start, stop) per axis within the frame.

    Raises
    ------
    ImageError : another number of axes, or nothing of the frame lies in it
    """
    if len(roi) != len(shape):
        raise ImageError(f"The region of interest has {len(roi)} axes, but the image has {len(shape)}. Give a start "
                         "and a stop for each axis.")
    bounds = []
    for part, size in zip(roi, shape, strict=True):
        start, stop, _ = (part if isinstance(part, slice) else slice(*part)).indices(size)
        if stop <= start:
            raise ImageError(f"The region of interest {part} holds no voxel of an axis of {size} voxels. Give a start "
                             f"below the stop, both within 0 and {size}.")
        bounds.append((start, stop))
    return tuple(bounds)


def count_windows(prepared: Prepared, plan: Plan, roi: Box | None = None) -> int:
    """Windows that `predict` will look at.

    Parameters
    ----------
    prepared : as `mambaseg.prepare.outline` gives it, or `prepare`
    plan, roi : as for `predict`
    """
    box = None
    if roi is not None:
        frame_shape = [prepared.shape_before_crop[axis] for axis in np.argsort(prepared.transpose)]
        box = prepared_box(roi_bounds(roi, frame_shape), prepared)
    return len(window_grid(prepared.array.shape[1:], plan.patch_size, box=box))


def prepared_box(bounds: Sequence[tuple[int, int]], prepared: Prepared) -> tuple[tuple[int, int], ...]:
    """The smallest box of the prepared grid from which the frame's box is interpolated; may be empty."""
    box = []
    for axis, size, (low, high) in zip(prepared.transpose, prepared.array.shape[1:], prepared.crop, strict=True):
        start, stop = max(bounds[axis][0], low), min(bounds[axis][1], high)
        if start >= stop:
            return ((0, 0),) * len(prepared.transpose)
        scale = size / (high - low)
        margin = 0 if size == high - low else 1  # linear interpolation reaches one voxel further
        first, last = math.floor((start - low) * scale) - margin, math.ceil((stop - low) * scale) + margin
        box.append((max(0, first), min(size, last)))
    return tuple(box)


def _prepared_point(point: Sequence[float], prepared: Prepared) -> tuple[float, ...]:
    """A point of the frame on the prepared grid, in voxels."""
    return tuple((point[axis] - low + 0.5) * size / (high - low) - 0.5
                 for axis, size, (low, high) in zip(prepared.transpose, prepared.array.shape[1:], prepared.crop,
                                                    strict=True))


def _blank(values: NDArray[np.float32], bounds: Sequence[tuple[int, int]], outside: Sequence[float]) -> None:
    """Background everywhere but in the box."""
    for axis, (start, stop) in enumerate(bounds):
        before = (slice(None),) * axis
        for channel, value in zip(values, outside, strict=True):
            channel[(*before, slice(0, start))] = value
            channel[(*before, slice(stop, None))] = value

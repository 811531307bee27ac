"""A picture or volume made ready for a network, and the way back to its own grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mambaseg._errors import DatasetError, ImageError, ModelError
from mambaseg.plan.plan import Plan
from mambaseg.resample import resample, resample_labels, resampled_shape
from mambaseg.resize import resize, resize_labels, unresize

__all__ = ["Prepared", "normalise", "outline", "prepare", "resample_back", "restore", "uncrop"]

OUTSIDE = -1  # label of voxels beyond the nonzero region, as nnU-Net writes it

_LARGEST = 1e12  # float32 sums of squares stay finite below this
_MAX_VOXELS = 2**31  # a resampled grid beyond this comes from a wrong spacing, not from a scanner
_TINY = 1e-8  # nnU-Net's smallest divisor
_IMAGENET = ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))  # mean and deviation of red, green, blue in 0..1


@dataclass(frozen=True)
class Prepared:
    """A network's input, and what is needed to return from its grid.

    All sizes are in the transposed axis order.

    Parameters
    ----------
    array : float32, (channel, *spatial); normalised, on the plan's grid
    labels : integer, (*spatial) on the same grid, -1 outside the nonzero region; None if none were given
    transpose : spatial axis of the frame that each axis of `array` came from
    shape_before_crop : voxels per axis of the whole frame
    crop : (start, stop) per axis, the part of the frame that `array` shows
    spacing : voxel size of the frame per axis, None where it is not known
    plan_spacing : voxel size of `array` per axis, None where nothing was resampled
    n_replaced : voxel values that were NaN or infinite and were replaced by the smallest finite one
    fit : how `array` came to its size, as in the plan
    previous : labels of a cascade's previous stage, as `labels`
    """

    array: NDArray[np.float32]
    labels: NDArray[Any] | None
    transpose: tuple[int, ...]
    shape_before_crop: tuple[int, ...]
    crop: tuple[tuple[int, int], ...]
    spacing: tuple[float, ...] | None
    plan_spacing: tuple[float, ...] | None
    n_replaced: int = 0
    fit: str = "windows"
    previous: NDArray[Any] | None = None

    @property
    def shape_after_crop(self) -> tuple[int, ...]:
        """Voxels per axis between cropping and resampling."""
        return tuple(stop - start for start, stop in self.crop)


def prepare(
    frame: NDArray[Any], spacing: Sequence[float] | None, plan: Plan, labels: NDArray[Any] | None = None,
    previous: NDArray[Any] | None = None
) -> Prepared:
    """The frame as the network wants it: transposed, cropped, normalised, resampled - in this order, as nnU-Net does.

    Where the plan resizes whole pictures, that takes the place of the resampling.

    Parameters
    ----------
    frame : any real dtype, (channel, *spatial) in the image's axis order; a 2-D plan takes volumes too
    spacing : voxel size per spatial axis of the frame, unit of the plan; None: not known, then nothing is resampled
    plan : the model's plan
    labels : integer, (*spatial), the truth of a training case
    previous : integer, (*spatial), what the previous stage of a cascade found

    Raises
    ------
    ImageError : the frame is empty, has no finite value, or its spacing cannot be right
    ModelError : the frame's channels or axes are not those of the plan
    DatasetError : the labels have another shape than the frame
    """
    given = [each for each in (labels, previous) if each is not None]
    _check(frame, spacing, plan, given)
    order = _axis_order(plan.transpose, frame.ndim - 1)
    array, n_replaced = _as_finite_float32(frame)
    array = array.transpose(0, *(axis + 1 for axis in order))
    shape = array.shape[1:]
    inside = _nonzero(array) if plan.crop_to_nonzero or any(plan.use_mask_for_norm) else None
    crop = _bounding_box(inside) if inside is not None and plan.crop_to_nonzero else tuple((0, n) for n in shape)
    box = tuple(slice(start, stop) for start, stop in crop)
    array = np.ascontiguousarray(array[(slice(None), *box)])
    inside = None if inside is None else inside[box]
    layers = [_cropped_labels(each.transpose(order)[box], inside) for each in given]
    _normalise_all(array, plan, layers[0] >= 0 if layers and inside is not None else inside)
    old = None if spacing is None else tuple(float(spacing[axis]) for axis in order)
    new = _target_spacing(old, plan)
    if plan.fit != "windows":
        array = resize(array, plan.patch_size, plan.fit)
        layers = [resize_labels(layer, plan.patch_size, plan.fit) for layer in layers]
    elif old is not None and new is not None:
        grid = _resampled_shape(array.shape[1:], old, new)
        array = resample(array, grid, old, new, order=3)
        layers = [resample_labels(layer, grid, old, new) for layer in layers]
    truth = None if labels is None else layers[0]
    return Prepared(array, truth, order, shape, crop, old, new, n_replaced, plan.fit,
                    None if previous is None else layers[-1])


def outline(frame: NDArray[Any], spacing: Sequence[float] | None, plan: Plan) -> Prepared:
    """What `prepare` will give, with an array of the right shape that takes no memory and holds only zeros.

    Raises
    ------
    As `prepare`.
    """
    _check(frame, spacing, plan, ())
    order = _axis_order(plan.transpose, frame.ndim - 1)
    array = frame.transpose(0, *(axis + 1 for axis in order))
    crop = _bounding_box(np.any(array != 0, axis=0)) if plan.crop_to_nonzero else tuple((0, n) for n in array.shape[1:])
    inside = shape = tuple(stop - start for start, stop in crop)
    old = None if spacing is None else tuple(float(spacing[axis]) for axis in order)
    new = _target_spacing(old, plan)
    if plan.fit != "windows":
        shape = (*shape[:len(shape) - plan.ndim], *plan.patch_size)
    elif old is not None and new is not None:
        shape = _resampled_shape(inside, old, new)
    empty = np.broadcast_to(np.float32(0), (len(frame), *shape))
    return Prepared(empty, None, order, array.shape[1:], crop, old, new, 0, plan.fit)


def restore(
    values: NDArray[Any], prepared: Prepared, order: int = 1, outside: float | Sequence[float] = 0.0
) -> NDArray[Any]:
    """Values on the prepared grid, back on the frame's own.

    Parameters
    ----------
    values : floating, (K, *spatial) on the grid of ``prepared.array``
    order : spline order where the grid was resampled
    outside : what the cropped-away rim gets, one value or one for each of K

    Returns
    -------
    dtype of `values`, (K, *spatial) in the frame's axis order; `values` itself where nothing was changed
    """
    return uncrop(resample_back(values, prepared, order), prepared, outside)


def resample_back(values: NDArray[Any], prepared: Prepared, order: int = 1) -> NDArray[Any]:
    """Values (K, *spatial) on the prepared grid, on the grid after cropping; see `restore`."""
    if prepared.fit != "windows":
        return unresize(values, prepared.shape_after_crop, prepared.fit)
    if prepared.spacing is None or prepared.plan_spacing is None:
        return values
    return resample(values, prepared.shape_after_crop, prepared.plan_spacing, prepared.spacing, order)


def uncrop(values: NDArray[Any], prepared: Prepared, outside: float | Sequence[float] = 0.0) -> NDArray[Any]:
    """Values (K, *spatial) on the grid after cropping, on the whole frame in its axis order; see `restore`."""
    if prepared.shape_after_crop != prepared.shape_before_crop:
        whole = np.empty((len(values), *prepared.shape_before_crop), dtype=values.dtype)
        whole[...] = np.reshape(np.asarray(outside, dtype=values.dtype), (-1, *(1,) * (values.ndim - 1)))
        whole[(slice(None), *(slice(start, stop) for start, stop in prepared.crop))] = values
        values = whole
    back = np.argsort(prepared.transpose)
    return np.ascontiguousarray(values.transpose(0, *(int(axis) + 1 for axis in back)))


def _normalise_all(array: NDArray[np.float32], plan: Plan, inside: NDArray[np.bool_] | None) -> None:
    """Normalise all channels in place: together where the plan's scheme looks at all of them, else one by one."""
    joint = next((scheme for scheme in plan.normalisation if scheme in _JOINT_SCHEMES), None)
    if joint is not None:
        if set(plan.normalisation) != {joint}:
            raise ModelError(f"The model asks for normalisation {joint!r} of all channels together, and for another of "
                             "some; correct its plan.")
        _JOINT_SCHEMES[joint](array)
        return
    for channel, scheme in enumerate(plan.normalisation):
        mask = inside if _has_mask(plan, channel) else None
        intensities = plan.intensities[channel] if channel < len(plan.intensities) else {}
        normalise(array[channel], scheme, intensities, mask)


def normalise(
    channel: NDArray[np.float32], scheme: str, intensities: dict[str, float], mask: NDArray[np.bool_] | None = None
) -> None:
    """Normalise one channel in place.

    Parameters
    ----------
    channel : float32, any shape; changed
    scheme : ct, zscore, rescale_to_0_1, rgb_to_0_1, nonorm (as nnU-Net's classes of these names) or percentile (the 1st
        to 99.8th percentile become 0 to 1, not clipped; StarDist's convention, doi:10.1007/978-3-030-00934-2_30)
    intensities : the data set's statistics of this channel; ct needs mean, std, percentile_00_5, percentile_99_5
    mask : zscore only: statistics and change inside it, the rest stays; None: everywhere

    Raises
    ------
    ModelError : unknown scheme, or ct without its statistics
    ImageError : a colour picture beyond 0..255 for rgb_to_0_1
    """
    if scheme not in _SCHEMES:
        raise ModelError(f"The model asks for normalisation {scheme!r}; known are {', '.join(_SCHEMES)}. Use a model "
                         "of this version, or correct its plan.")
    if mask is not None and scheme == "zscore":
        inside = channel[mask]
        if inside.size:
            _zscore(inside, intensities)
            channel[mask] = inside
        return
    _SCHEMES[scheme](channel, intensities)


def _ct(values: NDArray[np.float32], intensities: dict[str, float]) -> None:
    try:
        mean, std = intensities["mean"], intensities["std"]
        lowest, highest = intensities["percentile_00_5"], intensities["percentile_99_5"]
    except KeyError as error:
        raise ModelError(f"The model's plan lacks the CT statistic {error}; export or train it again.") from error
    np.clip(values, lowest, highest, out=values)
    values -= mean
    values /= max(std, _TINY)


def _zscore(values: NDArray[np.float32], _: dict[str, float]) -> None:
    if values.min() == values.max():  # the float32 mean may miss the value; the miss would be divided by 1e-8
        values[...] = 0
        return
    mean, std = values.mean(), values.std()
    values -= mean
    values /= max(std, _TINY)


def _percentile(values: NDArray[np.float32], _: dict[str, float]) -> None:
    lowest, highest = (float(value) for value in np.percentile(values, (1.0, 99.8)))
    if lowest == highest:  # a few bright spots on an empty ground
        lowest, highest = float(values.min()), float(values.max())
    values -= lowest
    if highest > lowest:
        values /= highest - lowest


def _rescale_to_0_1(values: NDArray[np.float32], _: dict[str, float]) -> None:
    values -= values.min()
    values /= max(values.max(), _TINY)


def _rgb_to_0_1(values: NDArray[np.float32], _: dict[str, float]) -> None:
    lowest, highest = values.min(), values.max()
    if lowest < 0 or highest > 255:
        raise ImageError(f"The picture's values reach from {lowest:g} to {highest:g}, but the model takes 8-bit "
                         "colours (0 to 255). Convert the picture to 8 bits a channel.")
    values /= 255.0


def _minmax_255(array: NDArray[np.float32]) -> None:
    """0..255 from the smallest to the largest value of all channels, as VM-UNet's authors do; 0 where all are equal."""
    lowest, highest = float(array.min()), float(array.max())
    array -= lowest
    if highest > lowest:
        array *= 255 / (highest - lowest)


def _imagenet(array: NDArray[np.float32]) -> None:
    """8-bit colours standardised by the mean and deviation of ImageNet's, as U-Net v2's authors do."""
    if len(array) != len(_IMAGENET):
        raise ModelError(f"The image has {len(array)} channels, but the model's normalisation takes red, green and "
                         "blue. Choose the channels, or another model.")
    _rgb_to_0_1(array, {})
    for channel, (mean, std) in zip(array, _IMAGENET, strict=True):
        channel -= mean
        channel /= std


def _nonorm(_: NDArray[np.float32], __: dict[str, float]) -> None:
    """Leave the values as they are."""


_SCHEMES: dict[str, Callable[[NDArray[np.float32], dict[str, float]], None]] = {
    "ct": _ct, "zscore": _zscore, "percentile": _percentile, "rescale_to_0_1": _rescale_to_0_1,
    "rgb_to_0_1": _rgb_to_0_1, "nonorm": _nonorm,
}


_JOINT_SCHEMES: dict[str, Callable[[NDArray[np.float32]], None]] = {"minmax_255": _minmax_255, "imagenet": _imagenet}


def _check(
    frame: NDArray[Any], spacing: Sequence[float] | None, plan: Plan, layers: Sequence[NDArray[Any]]
) -> None:
    """Refuse what cannot be prepared, in words for the user."""
    n_axes = frame.ndim - 1
    if n_axes < plan.ndim or n_axes > 3:
        raise ModelError(f"The image has {n_axes} spatial axes, but the model takes {plan.ndim}. Choose a "
                         f"{n_axes}-D model or give a {plan.ndim}-D image.")
    if frame.size == 0:
        raise ImageError(f"The image is empty (shape {frame.shape}); at least one voxel is needed.")
    if len(frame) != len(plan.normalisation):
        raise ModelError(f"The image has {len(frame)} channels, but the model takes {len(plan.normalisation)}. "
                         "Choose the channels, or another model.")
    if spacing is not None and not (len(spacing) == n_axes and all(math.isfinite(s) and s > 0 for s in spacing)):
        raise ImageError(f"The image's spacing is {tuple(spacing)}, but {n_axes} positive numbers are needed, one per "
                         "axis. Correct the spacing, or leave it out.")
    for labels in layers:
        if labels.shape != frame.shape[1:]:
            raise DatasetError(f"The labels have shape {labels.shape}, but their image has {frame.shape[1:]}. "
                               "Both must lie on one grid.")


def _axis_order(transpose: Sequence[int], n_axes: int) -> tuple[int, ...]:
    """The plan's transpose for a frame with `n_axes` spatial axes.

    A picture's plan that meets a volume leaves the slices in front; a volume's plan that meets a picture has no slices.
    """
    if len(transpose) < n_axes:
        n_missing = n_axes - len(transpose)
        return (*range(n_missing), *(axis + n_missing for axis in transpose))
    n_extra = len(transpose) - n_axes
    return tuple(axis - n_extra for axis in transpose if axis >= n_extra)


def _has_mask(plan: Plan, channel: int) -> bool:
    """Whether the channel's statistics are taken over the nonzero region only."""
    return channel < len(plan.use_mask_for_norm) and plan.use_mask_for_norm[channel]


def _as_finite_float32(frame: NDArray[Any]) -> tuple[NDArray[np.float32], int]:
    """A float32 copy without NaN and infinities, and how many there were."""
    if frame.dtype.kind not in "fc":
        return _in_range(frame), 0
    finite = np.isfinite(frame)
    n_replaced = int(frame.size - np.count_nonzero(finite))
    if n_replaced == frame.size:
        raise ImageError("The image has no finite value: every voxel is NaN or infinite. Check how it was written.")
    if n_replaced:
        frame = np.where(finite, frame, frame[finite].min())
    return _in_range(frame), n_replaced


def _in_range(frame: NDArray[Any]) -> NDArray[np.float32]:
    """A float32 copy; values that float32 arithmetic could not square and sum are scaled down together."""
    if frame.dtype.kind == "c":
        raise ImageError("The image holds complex numbers; give its magnitude or its real part.")
    if frame.dtype.itemsize > 2:
        largest = max(abs(float(frame.min())), abs(float(frame.max())))
        if largest > _LARGEST:
            return (frame.astype(np.float64) * (_LARGEST / largest)).astype(np.float32)
    return frame.astype(np.float32)


def _as_signed(labels: NDArray[Any]) -> NDArray[Any]:
    """Labels in the smallest signed dtype that holds them and -1."""
    largest = int(labels.max(initial=0))
    return labels.astype(np.int8 if largest < 128 else np.int16 if largest < 32768 else np.int32)


def _cropped_labels(labels: NDArray[Any], inside: NDArray[np.bool_] | None) -> NDArray[Any]:
    """Labels of the crop, `OUTSIDE` where there is nothing; labelled zeros count as inside, as in nnU-Net."""
    signed = _as_signed(labels)
    if inside is not None:
        signed[(signed == 0) & ~inside] = OUTSIDE
    return signed


def _nonzero(array: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where any channel differs from zero, closed holes of a volume included."""
    mask: NDArray[np.bool_] = np.any(array != 0, axis=0)
    # nnU-Net sees a picture as a volume of one slice, in which every hole is open
    return ndimage.binary_fill_holes(mask) if mask.ndim == 3 else mask


def _bounding_box(mask: NDArray[np.bool_]) -> tuple[tuple[int, int], ...]:
    """(start, stop) per axis around the true voxels; the whole array where there are none."""
    box = []
    for axis, size in enumerate(mask.shape):
        hits = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append((int(hits[0]), int(hits[-1]) + 1) if hits.size else (0, size))
    return tuple(box)


def _target_spacing(spacing: tuple[float, ...] | None, plan: Plan) -> tuple[float, ...] | None:
    """The plan's spacing for all axes of the frame; axes that a 2-D plan does not know keep their own."""
    if spacing is None or plan.spacing is None or plan.fit != "windows":
        return None
    return (*spacing[: len(spacing) - len(plan.spacing)], *plan.spacing)


def _resampled_shape(shape: tuple[int, ...], old: tuple[float, ...], new: tuple[float, ...]) -> tuple[int, ...]:
    """Voxels per axis at the spacing `new`, if that can be meant."""
    resampled = resampled_shape(shape, old, new)
    if math.prod(resampled) > max(_MAX_VOXELS, math.prod(shape)):
        raise ImageError(f"At the model's spacing {new} an image of {shape} voxels with spacing {old} would become "
                         f"{resampled}. Check the image's spacing and its unit.")
    return resampled

"""The fingerprint: what a data set's images measure, and how bright their foreground is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg._errors import DatasetError

__all__ = ["NNUNET_SAMPLES", "N_SAMPLES", "CaseMeasure", "Fingerprint", "combine", "measure", "measure_case"]

Case = tuple[NDArray[Any], NDArray[Any], tuple[float, ...]]

N_SAMPLES = 1_000_000  # intensities a channel, over all cases: 4 MB; percentiles move by some 0.005 sigma
NNUNET_SAMPLES = 100_000_000  # what nnU-Net draws; only with it are its own numbers met exactly
SEED = 1234  # nnU-Net's, anew for each case
_MOST_SORTED = 2**22  # foreground voxels of a case; of more a part is drawn first


@dataclass(frozen=True)
class Fingerprint:
    """What `rules` needs to know of a data set.

    Parameters
    ----------
    shapes : per case, voxels per spatial axis after the crop, file order; two axes for pictures, or three
    spacings : per case, voxel size per spatial axis, same order as `shapes`, in `unit`
    intensities : per channel, of the foreground: mean, median, std, min, max, percentile_00_5, percentile_99_5
    median_relative_size : median over cases of voxels after the crop / voxels before it, 0 to 1
    unit : of the spacings: "mm", "um" or "px" (not known)
    """

    shapes: tuple[tuple[int, ...], ...]
    spacings: tuple[tuple[float, ...], ...]
    intensities: tuple[dict[str, float], ...]
    median_relative_size: float = 1.0
    unit: str = "mm"

    @property
    def ndim(self) -> int:
        """Spatial axes of the data, 2 or 3; volumes of a single slice count as pictures."""
        return 2 if len(self.shapes[0]) == 2 or all(shape[0] == 1 for shape in self.shapes) else 3

    def to_json(self) -> dict[str, Any]:
        """The keys of nnU-Net's `dataset_fingerprint.json`, and `unit`."""
        return {
            "shapes_after_crop": [list(shape) for shape in self.shapes],
            "spacings": [list(spacing) for spacing in self.spacings],
            "median_relative_size_after_cropping": self.median_relative_size,
            "foreground_intensity_properties_per_channel": {str(i): dict(v) for i, v in enumerate(self.intensities)},
            "unit": self.unit,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Fingerprint:
        """The fingerprint that `to_json` or nnU-Net wrote; its `unit` is mm where none is given.

        Raises
        ------
        DatasetError : a key is missing
        """
        try:
            channels = values["foreground_intensity_properties_per_channel"]
            return cls(
                shapes=tuple(tuple(int(n) for n in shape) for shape in values["shapes_after_crop"]),
                spacings=tuple(tuple(float(s) for s in spacing) for spacing in values["spacings"]),
                intensities=tuple(dict(channels[key]) for key in sorted(channels, key=int)),
                median_relative_size=float(values["median_relative_size_after_cropping"]),
                unit=values.get("unit", "mm"),
            )
        except KeyError as error:
            raise DatasetError(f"The fingerprint has no {error}, expected the keys of dataset_fingerprint.json; "
                               "measure the data set again.") from error  # fmt: skip


@dataclass(frozen=True)
class CaseMeasure:
    """What one case adds to a fingerprint.

    Parameters
    ----------
    shape, spacing : per spatial axis; shape after the crop
    share : voxels after the crop / voxels before it
    intensities : float32, one array a channel: a sample of the foreground; empty without foreground
    is_cropped : measured within the box of the nonzero voxels
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    share: float
    intensities: tuple[NDArray[np.float32], ...]
    is_cropped: bool = True


def measure_case(frame: NDArray[Any], labels: NDArray[Any], spacing: Sequence[float], *, crop: bool,
                 n_samples: int, evenly: bool = False) -> CaseMeasure:
    """Size, spacing and a sample of the foreground of one case; arguments as `measure`, `n_samples` for this case.

    `evenly` takes values at even distances of rank rather than at random: a small sample then gives nearly the
    percentiles that nnU-Net gets from a huge one.

    Raises
    ------
    DatasetError : image, labels and spacing do not belong together
    """
    _check_case(frame, labels, spacing)
    box = _nonzero_box(frame) if crop else (slice(None),) * labels.ndim
    cropped, cropped_labels = frame[(slice(None), *box)], labels[box]
    return CaseMeasure(tuple(cropped_labels.shape), tuple(float(s) for s in spacing),
                       cropped_labels.size / labels.size,
                       tuple(_draw(cropped, cropped_labels > 0, n_samples, evenly)), crop)


def combine(measures: Sequence[CaseMeasure], unit: str = "mm", n_channels: int | None = None) -> Fingerprint:
    """The fingerprint of the cases measured.

    Parameters
    ----------
    measures : one a case
    unit : of the spacings
    n_channels : of the data set, where grey cases count for all its channels; None: that of every case

    Raises
    ------
    DatasetError : no case, differing numbers of channels or axes, no foreground at all
    """
    if n_channels is not None:
        measures = [replace(one, intensities=one.intensities * n_channels) if len(one.intensities) == 1 else one
                    for one in measures]
    _check_cases(measures)
    intensities = []
    for channel in range(len(measures[0].intensities)):
        values = np.concatenate([case.intensities[channel] for case in measures])
        if values.size == 0:
            raise DatasetError("All labels of the data set are 0, expected some voxels above 0; label some objects.")
        intensities.append(_statistics(values))
    return Fingerprint(tuple(case.shape for case in measures), tuple(case.spacing for case in measures),
                       tuple(intensities), float(np.median([case.share for case in measures])), unit)


def measure(
    cases: Iterable[Case], n_cases: int, *, unit: str = "mm", crop: bool = True, n_samples: int = N_SAMPLES,
    evenly: bool = False,
) -> Fingerprint:
    """Sizes, spacings and foreground brightness of a data set, from one pass over its cases.

    Parameters
    ----------
    cases : yields (frame, labels, spacing): frame (channel, *spatial) of any real dtype, labels (*spatial) integers
        with 0 for background, spacing per spatial axis; one case is in memory at a time
    n_cases : how many cases there will be; each gives the same share of the sample
    unit : of the spacings: "mm", "um" or "px"
    crop : cut each case to the box of its nonzero voxels first (nnU-Net); False for microscopy
    n_samples : intensities to draw a channel over all cases, with replacement; `NNUNET_SAMPLES` to equal nnU-Net
    evenly : see `measure_case`

    Raises
    ------
    DatasetError : no case, another number than `n_cases`, differing numbers of channels or axes, no foreground at all

    Notes
    -----
    Foreground is label > 0. Each case draws floor(n_samples / n_cases) values from RandomState(1234), one generator
    running through the channels, as nnU-Net does; a case without foreground adds none. NaN and
    infinities are left out. Statistics are in float32.
    """
    share = n_samples // max(n_cases, 1)
    measures = [measure_case(*case, crop=crop, n_samples=share, evenly=evenly) for case in cases]
    if len(measures) != n_cases:
        raise DatasetError(f"The data set has {len(measures)} cases, expected {n_cases}; check the folder.")
    return combine(measures, unit)


def _check_case(frame: NDArray[Any], labels: NDArray[Any], spacing: Sequence[float]) -> None:
    """Raise unless image, labels and spacing of one case belong together."""
    if frame.shape[1:] != labels.shape or len(spacing) != labels.ndim:
        raise DatasetError(f"An image of {frame.shape[1:]} voxels came with labels of {labels.shape} and "
                           f"{len(spacing)} spacings, expected the same grid; pair the files again.")  # fmt: skip


def _check_cases(measures: Sequence[CaseMeasure]) -> None:
    """Raise unless there are cases, all with the same number of channels and axes."""
    if not measures:
        raise DatasetError("The data set has 0 cases, expected at least one; check the folder.")
    kinds = {(len(case.intensities), len(case.shape)) for case in measures}
    if len(kinds) > 1:
        told = " and ".join(f"{channels} channels in {axes}-D" for channels, axes in sorted(kinds))
        raise DatasetError(f"The data set mixes images with {told}, expected one kind; convert or remove the odd ones.")


def _nonzero_box(frame: NDArray[Any]) -> tuple[slice, ...]:
    """Smallest box with every voxel that is not 0 in some channel; everything where all are 0.

    nnU-Net fills holes before taking the box, which never changes the box.
    """
    is_nonzero: NDArray[np.bool_] = (frame != 0).any(axis=0)
    if not is_nonzero.any():
        return (slice(None),) * is_nonzero.ndim
    box = []
    for axis in range(is_nonzero.ndim):
        others = tuple(other for other in range(is_nonzero.ndim) if other != axis)
        where = np.flatnonzero(is_nonzero.any(axis=others))
        box.append(slice(int(where[0]), int(where[-1]) + 1))
    return tuple(box)


def _draw(frame: NDArray[Any], is_foreground: NDArray[np.bool_], n: int, evenly: bool) -> list[NDArray[np.float32]]:
    """`n` foreground intensities a channel, with replacement; empty arrays where there is no foreground."""
    generator = np.random.RandomState(SEED)
    drawn = []
    for channel in frame:
        values = channel[is_foreground].astype(np.float32)
        values = values[np.isfinite(values)]
        if evenly and values.size:
            drawn.append(_evenly(values if values.size <= _MOST_SORTED else generator.choice(values, _MOST_SORTED), n))
        else:
            drawn.append(generator.choice(values, n, replace=True) if values.size else values)
    return drawn


def _evenly(values: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    """`n` of the values, from the smallest to the largest at even distances of rank."""
    ranks = ((np.arange(n) + 0.5) / n * len(values)).astype(np.int64)
    ranks[:1], ranks[1:][-1:] = 0, len(values) - 1
    spread: NDArray[np.float32] = np.sort(values)[ranks]
    return spread


def _statistics(values: NDArray[np.float32]) -> dict[str, float]:
    """Mean, median, spread, range and the outer percentiles (linear interpolation)."""
    low, median, high = np.percentile(values, [0.5, 50.0, 99.5])
    return {
        "mean": float(np.mean(values)),
        "median": float(median),
        "std": float(np.std(values)),
        "min": float(np.min(values)),
        "max": float(np.max(values)),
        "percentile_00_5": float(low),
        "percentile_99_5": float(high),
    }

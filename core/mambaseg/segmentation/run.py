"""The whole way from an image to labels."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mambaseg import io
from mambaseg._errors import ImageError, ModelError
from mambaseg.image import Grid, Image
from mambaseg.instances import Decoder, features, keep_largest_component
from mambaseg.machine import choose_device, precision_name
from mambaseg.models import Model, load_model
from mambaseg.orientation import Turn, turn_to
from mambaseg.predict.blend import probabilities_to_labels
from mambaseg.predict.run import count_windows, predict, roi_bounds
from mambaseg.prepare import Prepared, outline
from mambaseg.progress import Clock, Progress, ProgressCallback, report
from mambaseg.segmentation.calibrate import observe
from mambaseg.segmentation.match import (
    check_values,
    match_axes,
    match_channels,
    match_domain,
    match_orientation,
    match_spacing,
    stage_spacing,
)
from mambaseg.segmentation.record import Watch, describe_image, describe_model, describe_program

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

__all__ = ["Segmentation", "as_image", "decode_again", "labels_from", "segment"]

Box = Sequence[slice | tuple[int, int]]
Bounds = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Segmentation:
    """What `segment` found.

    Parameters
    ----------
    labels : unsigned integers, the image's axes without C; class numbers, or one number an object (0 is background)
    probabilities : float32, (output, *axes of the labels); None unless asked for
    features : one row an object, for instances; None for classes and regions
    record : what ran on what: versions, model and its checksum, seconds, peak memory, notes; plain JSON values
    image : the image that was segmented, as it was given
    """

    labels: NDArray[Any]
    probabilities: NDArray[np.float32] | None
    features: pd.DataFrame | None
    record: dict[str, Any]
    image: Image

    @property
    def grid(self) -> Grid:
        """Where the labels lie: the image's own grid."""
        return self.image.grid

    @property
    def axes(self) -> str:
        """Axes of `labels`."""
        return self.image.axes.replace("C", "")


def segment(image: Image | NDArray[Any] | str | Path, model: Model | str | Path, device: str = "auto",
            precision: str = "auto", tta: bool = False, roi: Box | None = None,
            progress: ProgressCallback | None = None, keep_probabilities: bool = False,
            focus: Sequence[float] | None = None, preview: bool = False,
            mask: NDArray[np.bool_] | None = None) -> Segmentation:
    """Labels of an image.

    Time points are segmented one by one. A 2-D model goes through a volume slice by slice. Of a cascade the stage of
    low resolution sees each image first, and all of it whatever `roi` and `mask` say.

    Parameters
    ----------
    image : an Image, an array (its axes are guessed) or a file
    model : a Model, a bundled name or a package folder
    device : auto, cpu, cuda, cuda:1, mps
    precision : auto, float32 or bfloat16
    tta : average over mirror images along the model's mirror axes: 2 to 8 times the work, a little better
    roi : (start, stop) or slice per spatial axis, in voxels; elsewhere the labels are 0
    progress : called before the first window and after each; raising `Cancelled` in it stops the work
    keep_probabilities : also return the network's probabilities
    focus : point in voxels; windows near it come first
    preview : let the reports to `progress` carry a `Preview` of what was just found
    mask : (*spatial) of the image; labels are 0 outside it, and windows that do not touch it are left out

    Raises
    ------
    UserError : the image or the model cannot be read, or they do not suit each other
    Cancelled : as raised by `progress`
    """
    watch = Watch()
    model = model if isinstance(model, Model) else load_model(model)
    given = as_image(image)
    notes = list(given.notices)
    matched = match_channels(given, model, notes)
    n_bad = check_values(given, notes)
    match_axes(given, model, notes)
    suited = match_domain(matched, model, notes)
    match_orientation(given, suited, notes)
    stages = [_Stage(stage, [_Group(part, networks, stage_spacing(given, part, suited, notes),
                                    turn_to(part.plan.orientation, given.grid))
                             for part, networks in stage.built_groups]) for stage in suited.stages]
    groups = stages[-1].groups
    notes = list(dict.fromkeys(notes))  # groups may say the same
    if mask is not None:
        roi = _mask_box(mask, given) if roi is None else roi
    bounds = None if roi is None else roi_bounds(roi, given.grid.shape)
    series = _Series(progress, matched)
    frames = []
    for frame, seen in zip(matched.frames(), given.frames(), strict=True):
        series.begin_frame(_n_windows(stages, frame, bounds))
        common: dict[str, Any] = {"tta": tta, "device": device, "precision": precision, "focus": focus,
                                  "progress": None if progress is None else series}
        previous = _labels_before(stages, frame, series, preview=preview and roi is None, **common)
        probabilities = _predict(stages[-1], frame, series, previous, roi=bounds, preview=preview, **common)
        if mask is not None:
            probabilities[:, ~mask] = 0
            probabilities[0, ~mask] = float(model.kind != "regions")
        labels, table = _finish(probabilities, suited, given, seen, groups[0].spacing)
        frames.append(_Frame(labels, probabilities if keep_probabilities else None, table))
    labels, kept, table = _join(frames, given.has_time)
    settings = {"device": str(choose_device(device)), "tta": tta, "roi": _plain(roi),
                "precision": precision_name(precision, choose_device(device))}
    if model.kind == "instances":
        settings["decoder"] = suited.decoder
    described = describe_model(model)
    if model.members:
        described["members"] = [member.checksum for member in model.members]
    if model.previous:
        described["previous"] = describe_model(model.stages[0])
    if suited.checksum != model.checksum:
        described["answered_by"] = suited.checksum
    record = {"program": describe_program(), "model": described, "image": describe_image(given),
              "settings": settings, "n_bad_values": n_bad, **_counts(labels, table, model), "notes": notes,
              "seconds": watch.seconds, "peak_memory_bytes": watch.peak_memory_bytes}
    return Segmentation(labels, kept, table, record, given)


def decode_again(image: Image, model: Model, probabilities: NDArray[np.float32],
                 settings: Mapping[str, Any]) -> Segmentation:
    """Objects from probabilities that `segment` kept, found with other settings; takes no network.

    Parameters
    ----------
    image : the one that was segmented
    probabilities : as `Segmentation.probabilities`
    settings : of `mambaseg.instances.Decoder`, in place of the model's; what is left out stays the model's

    Raises
    ------
    UserError : a setting is unknown or out of range, or the model finds no objects
    """
    if model.kind != "instances":
        raise ModelError(f"{model.title} finds classes, not objects, so there is nothing to set; choose a model that "
                         "finds objects.")
    watch = Watch()
    suited = match_domain(match_channels(image, model, []), model, [])
    other = dataclasses.replace(suited, decoder={**(suited.decoder or {}), **settings})
    kept = probabilities if image.has_time else probabilities[np.newaxis]
    spacing = match_spacing(image, model, [])
    found = [_finish(each, other, image, seen, spacing) for each, seen in zip(kept, image.frames(), strict=True)]
    labels, _, table = _join([_Frame(each, None, rows) for each, rows in found], image.has_time)
    record = {"program": describe_program(), "model": describe_model(model), "image": describe_image(image),
              "settings": {"decoder": other.decoder}, **_counts(labels, table, model), "seconds": watch.seconds}
    return Segmentation(labels, None, table, record, image)


def _mask_box(mask: NDArray[np.bool_], image: Image) -> list[tuple[int, int]]:
    """The box around a mask."""
    if mask.shape != image.grid.shape:
        raise ImageError(f"The mask has {mask.shape} voxels, but the image has {image.grid.shape}; draw it on the "
                         "image.")
    if not mask.any():
        raise ImageError("The mask is empty, so there is nothing to segment; draw a region first.")
    hits = [np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
            for axis in range(mask.ndim)]
    return [(int(hit[0]), int(hit[-1]) + 1) for hit in hits]


def as_image(image: Image | NDArray[Any] | str | Path) -> Image:
    """Whatever was given, as an Image."""
    if isinstance(image, Image):
        return image
    return Image.from_array(image) if isinstance(image, np.ndarray) else io.read(image)


@dataclass(frozen=True)
class _Group:
    """Networks whose logits are averaged, the description they run by, and the image's voxel size in its unit.

    `turn` brings the image's axes to those that the networks learned from.
    """

    model: Model
    networks: Sequence[nn.Module]
    spacing: tuple[float, ...] | None
    turn: Turn

    def outline(self, frame: NDArray[Any]) -> Prepared:
        """What the networks will look at, without its values."""
        return outline(self.turn(frame), self.turn.sizes(self.spacing), self.model.plan)


@dataclass(frozen=True)
class _Stage:
    """A model of a cascade, or the only one there is, and its groups of networks."""

    model: Model
    groups: Sequence[_Group]


def _n_windows(stages: Sequence[_Stage], frame: NDArray[Any], roi: Bounds | None) -> list[int]:
    """Windows of one time point, of each group of each stage; the last stage alone keeps to the region."""
    return [count_windows(group.outline(frame), group.model.plan,
                          group.turn.box(roi, frame.shape[1:]) if stage is stages[-1] and roi is not None else None)
            for stage in stages for group in stage.groups]


def _labels_before(stages: Sequence[_Stage], frame: NDArray[Any], series: _Series,
                   **settings: Any) -> NDArray[Any] | None:
    """Labels of one time point that the last stage is given, on the frame's grid; None where it is the only one."""
    labels = None
    for stage in stages[:-1]:
        labels = labels_from(_predict(stage, frame, series, labels, **settings), stage.model, stage.groups[0].spacing)
    return labels


def _predict(stage: _Stage, frame: NDArray[Any], series: _Series, previous: NDArray[Any] | None, *, tta: bool,
             roi: Bounds | None = None, focus: Sequence[float] | None, progress: ProgressCallback | None,
             **settings: Any) -> NDArray[np.float32]:
    """Probabilities of one time point, averaged over the groups of a stage."""
    total: NDArray[np.float32] | None = None
    shape = frame.shape[1:]
    for group in stage.groups:
        model, turn = group.model, group.turn
        series.begin_part()
        start_s = time.perf_counter()
        found = turn.back(predict(
            group.networks, turn(frame), turn.sizes(group.spacing), model.plan, n_classes=model.n_outputs,
            kind=model.kind, mirror_axes=model.mirror_axes if tta else (),
            previous=None if previous is None else turn(previous),
            foreground=model.foreground_labels if previous is not None else (),
            roi=None if roi is None else turn.box(roi, shape),
            focus=None if focus is None else turn.point(focus, shape),
            progress=None if progress is None else turn.reports_back(progress, shape), **settings))
        if not tta:
            device = choose_device(settings["device"])
            observe(model, group.networks, device, precision_name(settings["precision"], device),
                    time.perf_counter() - start_s, series.n_windows)
        total = np.ascontiguousarray(found) if total is None else np.add(total, found, out=total)
    if total is None:
        raise ValueError("no group of networks")
    if len(stage.groups) > 1:
        total /= np.float32(len(stage.groups))
    return total


@dataclass(frozen=True)
class _Frame:
    """What was found in one time point."""

    labels: NDArray[Any]
    probabilities: NDArray[np.float32] | None
    features: pd.DataFrame | None


def _finish(probabilities: NDArray[np.float32], model: Model, image: Image, frame: NDArray[Any],
            spacing: tuple[float, ...] | None) -> tuple[NDArray[Any], pd.DataFrame | None]:
    """Labels of one time point, and its table of objects if the model finds objects."""
    labels = labels_from(probabilities, model, spacing)
    if model.kind != "instances":
        return labels, None
    return labels, features(labels, frame, image.grid, probabilities, image.known_channels).reset_index()


def labels_from(probabilities: NDArray[np.float32], model: Model, spacing: tuple[float, ...] | None) -> NDArray[Any]:
    """Classes or object numbers, (*spatial), from a model's probabilities, (output, *spatial).

    Parameters
    ----------
    spacing : voxel size in the plan's unit; None: not known, or the model works on the picture's own grid
    """
    if model.kind != "instances":
        labels = probabilities_to_labels(probabilities, model.kind, model.region_order or None)
        for group in model.keep_largest:
            labels = keep_largest_component(labels, group)
        return labels
    is_slicewise = probabilities.ndim - 1 > model.plan.ndim
    find = _decode_slices if is_slicewise else Decoder.decode
    return find(Decoder.from_json(model.decoder or {}), probabilities, spacing)


def _decode_slices(decoder: Decoder, probabilities: NDArray[np.float32],
                   spacing: tuple[float, ...] | None) -> NDArray[np.int32]:
    """Objects of each slice on its own, numbered through."""
    labels = np.zeros(probabilities.shape[1:], np.int32)
    n_objects = 0
    for index in range(len(labels)):
        plane = decoder.decode(probabilities[:, index], None if spacing is None else spacing[1:])
        labels[index] = np.where(plane > 0, plane + n_objects, 0)
        n_objects += int(plane.max(initial=0))
    return labels


def _join(frames: list[_Frame], has_time: bool) -> tuple[NDArray[Any], NDArray[np.float32] | None, pd.DataFrame | None]:
    """Labels, probabilities and features of all time points; the table tells them apart by a column "frame"."""
    if not has_time:
        return frames[0].labels, frames[0].probabilities, frames[0].features
    labels = np.stack([frame.labels.astype(np.result_type(*(each.labels for each in frames))) for frame in frames])
    kept = [frame.probabilities for frame in frames if frame.probabilities is not None]
    tables = [frame.features for frame in frames if frame.features is not None]
    joined = None
    if tables:
        import pandas as pd  # slow to import, and only time series of objects need it

        joined = pd.concat([table.assign(frame=index) for index, table in enumerate(tables)], ignore_index=True)
    return labels, np.stack(kept) if kept else None, joined


def _counts(labels: NDArray[Any], table: pd.DataFrame | None, model: Model) -> dict[str, Any]:
    """Number of objects, or of voxels by class."""
    if table is not None:
        return {"n_objects": len(table)}
    meant = model.class_labels
    counts = np.bincount(labels.ravel(), minlength=1 + max(map(max, meant)))
    return {"voxels": {name: int(counts[list(values)].sum())
                       for name, values in zip(model.classes, meant, strict=True)}}


class _Series:
    """Reports of the single time points, and of their parts, as parts of the whole series.

    A part is what one group of networks does at one time point; its windows are a unit of work each.
    """

    def __init__(self, progress: ProgressCallback | None, image: Image) -> None:
        self._progress = progress
        self._n_frames = image.n_frames
        self._has_time = image.has_time
        self._clock = Clock(0)
        self._index = -1  # of the time point
        self._parts: list[int] = []  # windows of those to come at this time point
        self._before = self._begun = 0  # windows of what is over, and of the present part

    @property
    def n_windows(self) -> int:
        """Of the present part."""
        return self._begun

    def begin_frame(self, parts: list[int]) -> None:
        """Go on to the next time point, of which the parts have so many windows."""
        self._index += 1
        self._parts = parts
        self._clock.total = self._before + self._begun + sum(parts) * (self._n_frames - self._index)

    def begin_part(self) -> None:
        """Go on to the next part."""
        self._before += self._begun
        self._begun = self._parts.pop(0)

    def __call__(self, update: Progress) -> None:
        """Pass a report on, counted over all time points."""
        done = self._before + update.done
        message = f"time point {self._index + 1} of {self._n_frames}" if self._n_frames > 1 else update.message
        preview = update.preview
        if preview is not None and self._has_time:
            preview = dataclasses.replace(preview, frame=self._index)
        report(self._progress, Progress(update.stage, done, self._clock.total, message, preview,
                                        self._clock.seconds_left(done)))


def _plain(roi: Box | None) -> list[list[int | None]] | None:
    """The region as JSON values."""
    if roi is None:
        return None
    return [[part.start, part.stop] if isinstance(part, slice) else [int(part[0]), int(part[1])] for part in roi]

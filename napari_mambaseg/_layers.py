"""Results as layers: labels that grow while the work runs, their colours, table and record, and probabilities."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from napari.layers import Image as ImageLayer
from napari.layers import Labels
from napari.utils.colormaps import CyclicLabelColormap, DirectLabelColormap
from numpy.typing import NDArray
from vispy.visuals.line.dash_atlas import DashAtlas

from mambaseg import jobs
from mambaseg.models import Model
from mambaseg.overlay import class_colours, instance_colours
from mambaseg.progress import Preview
from napari_mambaseg._adapt import Source, labels_shape
from napari_mambaseg._writer import RECORD

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Outcome", "finish_layer", "labels_layer", "n_objects", "outcome_of", "paint_preview", "preview_layer",
           "probability_layer", "recolour", "warm_up"]

_OPACITY = 0.55
_MOST_COLOURS = 20_000  # beyond that, making neighbours differ takes longer than looking at them
_MOST_VOXELS = 2**22  # larger results are thinned out for it
_N_CLASSES = 12  # that have a colour from the beginning
_SPARE = 8  # colours for objects that the user will add


@dataclass(frozen=True)
class Outcome:
    """What a run found, on the grid of the layer that it came from.

    Parameters
    ----------
    labels : the layer's axes without channels; the layer will show and change this array
    found : the same labels, to tell later what the user corrected
    features : one row an object, its number in the column "index"; None for classes and regions. Without a time axis
        the row of a number is at its place, that of the background the first, as napari's table takes for granted
    colours : uint8, (largest label + 1, 3)
    record : of the run
    probabilities : (output, *axes of the labels given to the model), mapped from a file; None unless kept
    """

    labels: NDArray[Any]
    found: NDArray[Any]
    features: pd.DataFrame | None
    colours: NDArray[np.uint8]
    record: dict[str, Any]
    probabilities: NDArray[np.float32] | None

    def after(self, run: Outcome) -> Outcome:
        """These objects as found again in what a run's network said, whose probabilities and settings stay."""
        record = {**run.record, **self.record, "seconds": run.record["seconds"],
                  "settings": {**run.record["settings"], **self.record["settings"]}}
        return replace(self, probabilities=run.probabilities, record=record)


def outcome_of(answer: dict[str, Any], folder: Path, source: Source, part: tuple[slice, ...]) -> Outcome:
    """The answer of a worker, put where it belongs; for a thread, since it reads files and chooses colours.

    Parameters
    ----------
    part : of the layer's labels that was given to the model
    """
    result = jobs.read_result(folder, answer)
    labels = result.labels
    shape = labels_shape(source)
    if labels.shape != shape:
        whole = np.zeros(shape, labels.dtype)
        whole[part] = labels.reshape(whole[part].shape)
        labels = whole
    features = result.features
    if features is not None:
        features = _in_place(features.rename(columns={"label": "index"}))
    record = result.record | {"layer": {"name": source.name, "axes": source.reading.labels_axes}}
    colours = _colours(labels, record["model"]["kind"])
    return Outcome(labels, labels.copy(), features, colours, record, result.probabilities)


def _in_place(features: pd.DataFrame) -> pd.DataFrame:
    """A row for each number from 0: a click in napari's table selects the label that is the row's place."""
    if "frame" in features.columns:  # the numbers of one time point are those of the others, too
        return features
    n_rows = int(features["index"].max()) + 1 if len(features) else 1
    return features.set_index("index").reindex(range(n_rows)).reset_index()


def warm_up() -> None:
    """Have done what the first Labels layer of a process needs, which takes seconds; for a thread.

    Otherwise the window would stand still at the first piece of the first result: napari compiles how it colours labels
    (0.9 with numba), and vispy draws up dash patterns for the lines of the layer's tools.
    """
    DashAtlas()
    for dtype in (np.uint8, np.int32):  # of classes and of objects
        _class_colormap(class_colours(1)).map(np.ones((2, 2), dtype))


def preview_layer(source: Source, name: str) -> Labels:
    """Empty labels that lie where the image lies and fill up while the work runs; they cannot be edited yet."""
    layer = Labels(np.zeros(labels_shape(source), np.uint8), name=name, opacity=_OPACITY, **source.geometry)
    layer.colormap = _class_colormap(class_colours(7))
    layer.editable = False
    return layer


def paint_preview(layer: Labels, preview: Preview, part: tuple[slice, ...]) -> None:
    """Put one more window into the layer, without drawing it yet."""
    data = layer.data[part]
    if preview.frame is not None:
        data = data[preview.frame]
    elif data.ndim > preview.labels.ndim:  # one time point of a series
        data = data[0]
    where = tuple(slice(first, first + size) for first, size in zip(preview.start, preview.labels.shape, strict=True))
    data[where] = preview.labels


def finish_layer(layer: Labels, outcome: Outcome, model: Model) -> None:
    """Make a preview the result; from now on it can be edited."""
    layer.data = outcome.labels
    if outcome.record["model"]["kind"] == "instances":
        layer.colormap = _cyclic_colormap(outcome.colours)
    elif len(outcome.colours) > _N_CLASSES:  # else the preview has them; vispy fails on two in a row before it draws
        layer.colormap = _class_colormap(outcome.colours)
    layer.features = outcome.features if outcome.features is not None else _class_table(outcome.record, model)
    layer.metadata = {**layer.metadata, RECORD: outcome.record}
    layer.editable = True


def labels_layer(labels: NDArray[Any], source: Source, name: str, kind: str) -> Labels:
    """Labels of an earlier day that lie where the image lies."""
    layer = Labels(labels, name=name, opacity=_OPACITY, **source.geometry)
    layer.colormap = _class_colormap(class_colours(7))
    if kind == "instances":
        recolour(layer)
    return layer


def recolour(layer: Labels) -> None:
    """Colours of objects chosen anew, so that no two that touch are alike."""
    layer.colormap = _cyclic_colormap(_colours(np.asarray(layer.data), "instances"))


def probability_layer(outcome: Outcome, source: Source, part: tuple[slice, ...]) -> ImageLayer | None:
    """How certain the network is that something is there, 0 to 1; None where probabilities were not kept."""
    if outcome.probabilities is None:
        return None
    given = np.asarray(outcome.probabilities)
    channel = int(outcome.record["image"]["axes"].startswith("T"))
    sure = given.max(axis=channel) if outcome.record["model"]["kind"] == "regions" else 1 - given.take(0, channel)
    values = np.zeros(outcome.labels.shape, np.float32)
    values[part] = sure.reshape(values[part].shape)
    return ImageLayer(values, name=f"{source.name} probability", colormap="magma", blending="additive",
                      contrast_limits=(0, 1), visible=False, **source.geometry)


def n_objects(labels: NDArray[Any], n_time: int) -> int:
    """How many objects there are, time points counted one by one; plane by plane, so that the window can draw between.

    Parameters
    ----------
    labels : (*S)
    n_time : how many axes come before the spatial ones
    """
    n_found = 0
    for frame in labels.reshape(-1, *labels.shape[n_time:]):
        is_there = np.zeros(int(frame.max(initial=0)) + 1, bool)
        for plane in frame.reshape(-1, *frame.shape[-2:]):
            is_there[plane] = True
        n_found += int(is_there[1:].sum())
    return n_found


def _colours(labels: NDArray[Any], kind: str) -> NDArray[np.uint8]:
    """A colour a label; never the same for two objects that touch, as far as can be told in a moment."""
    colours = class_colours(int(labels.max(initial=0)))
    if kind == "instances" and 0 < len(colours) <= _MOST_COLOURS:
        step = math.ceil(math.sqrt(labels.size / _MOST_VOXELS))
        planes = labels.reshape(-1, *labels.shape[-2:])[:, ::step, ::step]
        chosen = instance_colours(planes)
        colours[:len(chosen)] = chosen
    return colours


def _cyclic_colormap(colours: NDArray[np.uint8]) -> Any:
    """Colours by number, which go on from the first one for objects that are added."""
    spare = class_colours(_SPARE)[1:]
    table = np.vstack([colours, spare])[: 2**16 - 1] / 255
    return CyclicLabelColormap(colors=np.column_stack([table, np.arange(len(table)) > 0]).astype(np.float32))


def _class_colormap(colours: NDArray[np.uint8]) -> Any:
    """A fixed colour a class; classes that are added get the palette's next ones."""
    table = class_colours(max(len(colours) - 1, _N_CLASSES)) / 255
    colour: dict[int | None, Any] = {number: (*rgb, 1.0) for number, rgb in enumerate(table)}
    return DirectLabelColormap(color_dict=colour | {0: (0, 0, 0, 0), None: (1, 1, 1, 1)})


def _class_table(record: dict[str, Any], model: Model) -> pd.DataFrame:
    """Names and sizes of classes by the label that they are painted with; napari shows them in its status bar."""
    import pandas as pd

    voxels = record["voxels"]
    painted = (0, *(model.region_order or range(1, len(voxels))))
    return pd.DataFrame({"index": painted, "class": list(voxels), "voxels": list(voxels.values())})

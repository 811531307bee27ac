"""From a napari layer to an `Image`, and from labels back to a layer that lies where its image lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg import Grid, Image, UserError
from napari_mambaseg._together import Together

__all__ = ["Reading", "Source", "axes_choices", "can_be_channels", "guess", "labels_shape", "length_of", "source_of",
           "source_of_channels", "to_image", "with_axes"]

_NAMES = {"t": "T", "time": "T", "frame": "T", "c": "C", "channel": "C", "channels": "C", "z": "Z", "slice": "Z",
          "plane": "Z", "depth": "Z", "y": "Y", "row": "Y", "x": "X", "column": "X", "col": "X"}
_LENGTHS = {"micrometer": ("um", 1.0), "nanometer": ("um", 1e-3), "millimeter": ("mm", 1.0), "centimeter": ("mm", 10.0),
            "meter": ("mm", 1000.0)}
_MOST_CHANNELS = 4  # a short axis before long ones more likely holds channels than slices
_CHOICES = {2: ("YX",), 3: ("ZYX", "TYX", "CYX", "YXC"),
            4: ("TZYX", "CZYX", "ZCYX", "TCYX", "ZYXC", "TYXC"), 5: ("TCZYX", "TZCYX", "CTZYX")}  # fmt: skip
_RGB_CHOICES = {3: ("YXS",), 4: ("ZYXS", "TYXS"), 5: ("TZYXS",)}


@dataclass(frozen=True)
class Reading:
    """How the array of a layer is to be understood.

    Parameters
    ----------
    axes : a letter an axis of the array, of T, C, Z, Y, X and S (the samples of a colour picture)
    spacing : voxel size per spatial axis, in the array's order
    unit : of `spacing`: mm, um or px (not known)
    channel : the one to use; None: all
    """

    axes: str
    spacing: tuple[float, ...]
    unit: str = "px"
    channel: int | None = None

    @property
    def labels_axes(self) -> str:
        """Axes of the labels: those of the array without channels."""
        return self.axes.replace("C", "").replace("S", "")

    @property
    def spatial(self) -> str:
        """The spatial axes, in the array's order."""
        return self.labels_axes.replace("T", "")


@dataclass(frozen=True)
class Source:
    """A layer as it was at one moment, so that a run does not care what becomes of it.

    Parameters
    ----------
    name : of the layer
    array : its data, of a multiscale layer the finest; NumPy or anything that is sliced lazily
    reading : how to understand the array
    geometry : keyword arguments that put a labels layer where this one lies
    path : file that the layer was opened from, or None
    channels : their names, where they are known
    """

    name: str
    array: Any
    reading: Reading
    geometry: dict[str, Any]
    path: Path | None = None
    channels: tuple[str, ...] = ()

    @property
    def is_lazy(self) -> bool:
        """Whether reading the array means computing or loading it."""
        return self.array.is_lazy if isinstance(self.array, Together) else not isinstance(self.array, np.ndarray)


def axes_choices(layer: Any) -> tuple[str, ...]:
    """What the axes of a layer may be; labels on them need no transposing."""
    array = _finest(layer)
    return (_RGB_CHOICES if layer.rgb else _CHOICES).get(array.ndim, ())


def guess(layer: Any) -> Reading:
    """How a layer is most probably meant, from its axis names, units, scale and shape.

    Raises
    ------
    UserError : it has too few or too many axes
    """
    choices = axes_choices(layer)
    if not choices:
        raise UserError(f"{layer.name} has {_finest(layer).ndim} axes; 2 to 5 can be segmented. "
                        "Take a part of it that has fewer.")
    return with_axes(layer, _guess_axes(layer, choices))


def with_axes(layer: Any, axes: str) -> Reading:
    """The reading of a layer whose axes are known: spacing and unit come from its scale and units."""
    scale = dict(zip(axes.replace("S", ""), layer.scale, strict=True))
    units = dict(zip(axes.replace("S", ""), (str(unit) for unit in layer.units), strict=True))
    spatial = [letter for letter in axes if letter in "ZYX"]
    unit, factors = length_of([units[letter] for letter in spatial])
    return Reading(axes, tuple(abs(float(scale[letter])) * factor
                               for letter, factor in zip(spatial, factors, strict=True)), unit)


def length_of(units: Sequence[str]) -> tuple[str, tuple[float, ...]]:
    """One unit for all axes (mm, um, or px where one is not known), and what a length along each is multiplied by.

    Parameters
    ----------
    units : napari's name of each axis's unit
    """
    known = [_LENGTHS[name] for name in units if name in _LENGTHS]
    if len(known) < len(units):
        return "px", (1.0,) * len(units)
    unit = "um" if all(name == "um" for name, _ in known) else "mm"
    return unit, tuple(factor * (1e-3 if name != unit else 1.0) for name, factor in known)


def _guess_axes(layer: Any, choices: tuple[str, ...]) -> str:
    """The most probable of the choices."""
    named = "".join(_NAMES.get(str(label).strip().lower(), "?") for label in layer.axis_labels) + "S" * bool(layer.rgb)
    if named in choices:
        return named
    is_timed = str(layer.units[0]) in ("second", "minute", "hour", "millisecond")
    if layer.rgb or is_timed:
        return next((axes for axes in choices if (axes[0] == "T") == is_timed), choices[0])
    shape = _finest(layer).shape
    is_short = [size <= _MOST_CHANNELS and size < min(shape[-2:]) for size in shape[:-2]]
    likely = {3: ["ZYX", "CYX"], 4: ["TZYX", "CZYX", "TCYX"], 5: ["TCZYX", "CTZYX", "TZCYX"]}.get(len(shape), ["YX"])
    wanted = is_short.index(True) + 1 if True in is_short else 0
    if len(shape) == 5:  # there is a channel axis for certain
        return "TZCYX" if is_short[2] and not is_short[1] else "TCZYX"
    return likely[min(wanted, len(likely) - 1)]


def source_of(layer: Any, reading: Reading | None = None) -> Source:
    """The layer as it is now.

    Parameters
    ----------
    reading : None guesses
    """
    reading = guess(layer) if reading is None else reading
    path = getattr(layer.source, "path", None)
    return Source(layer.name, _finest(layer), reading, _geometry(layer, reading), Path(path) if path else None)


def can_be_channels(layers: Sequence[Any]) -> bool:
    """Whether layers can be the channels of one image: pictures in grey of one shape."""
    return len(layers) > 1 and not any(layer.rgb for layer in layers) and len(
        {_finest(layer).shape for layer in layers}) == 1 and 2 <= _finest(layers[0]).ndim <= 4


def source_of_channels(layers: Sequence[Any], reading: Reading, wanted: Sequence[str] = ()) -> Source:
    """Layers as the channels of one image that lies where the first of them lies.

    Parameters
    ----------
    reading : of each of them
    wanted : names of a model's channels; where each is in the name of one layer, the channels come in this order, else
        in that of the layers
    """
    ordered = [next((layer for layer in layers if name.lower() in layer.name.lower()), None) for name in wanted]
    chosen = ordered if set(ordered) == set(layers) and len(ordered) == len(layers) else list(layers)
    axis = int(reading.axes.startswith("T"))
    axes = f"{reading.axes[:axis]}C{reading.axes[axis:]}"
    names = tuple(str(layer.name) for layer in chosen if layer is not None)
    return Source(" + ".join(names), Together([_finest(layer) for layer in chosen], axis),
                  Reading(axes, reading.spacing, reading.unit), _geometry(layers[0], reading), None, names)


def labels_shape(source: Source) -> tuple[int, ...]:
    """Shape of labels that lie on the layer's grid."""
    sizes = dict(zip(source.reading.axes, source.array.shape, strict=True))
    return tuple(int(sizes[letter]) for letter in source.reading.labels_axes)


def to_image(source: Source, part: tuple[slice, ...] | None = None) -> Image:
    """The layer's pixels as an `Image`; nothing is read yet where the array is lazy.

    Parameters
    ----------
    part : of the labels' axes; None: all of it

    Returns
    -------
    Image with the axes in the order TCZYX; one time point loses the axis T
    """
    reading = source.reading
    chosen = dict(zip(reading.labels_axes, part or (), strict=False))
    index: list[slice | int] = [chosen.get(letter, slice(None)) for letter in reading.axes]
    axes = reading.axes
    if "C" in axes and reading.channel is not None:
        index[axes.index("C")] = reading.channel
        axes = axes.replace("C", "")
    data = source.array[tuple(index)]
    if axes.startswith("T") and part is not None and data.shape[0] == 1:
        data, axes = data[0], axes[1:]
    letters = axes.replace("S", "C")
    order = [letters.index(letter) for letter in "TCZYX" if letter in letters]
    if order != sorted(order):
        data = data.transpose(order)
    letters = "".join(letters[position] for position in order)
    if "S" in axes and data.shape[letters.index("C")] == 4:  # the fourth is alpha, which is no picture
        data = data[(slice(None),) * letters.index("C") + (slice(0, 3),)]
    grid = Grid(data.shape[len(letters.rstrip("ZYX")):], reading.spacing, reading.unit)
    names = source.channels if "C" in axes else ()
    return Image(data, letters, grid, names, "S" in axes, source.path.name if source.path else source.name)


def _finest(layer: Any) -> Any:
    """The data of a layer, of a multiscale one the largest."""
    return layer.data[0] if layer.multiscale else layer.data


def _geometry(layer: Any, reading: Reading) -> dict[str, Any]:
    """All seven spatial attributes, without the axes that labels do not have; scale and translate alone do not do."""
    axes = reading.axes.replace("S", "")
    keep = [position for position, letter in enumerate(axes) if letter != "C"]
    affine = np.asarray(layer.affine.affine_matrix)
    geometry: dict[str, Any] = {
        "scale": np.asarray(layer.scale)[keep],
        "translate": np.asarray(layer.translate)[keep],
        "rotate": np.asarray(layer.rotate)[np.ix_(keep, keep)],
        "shear": np.asarray(layer.shear),
        "affine": affine[np.ix_([*keep, len(axes)], [*keep, len(axes)])],
        "units": tuple(layer.units[position] for position in keep),
        "axis_labels": tuple(layer.axis_labels[position] for position in keep),
    }
    if len(keep) < len(axes):
        geometry["shear"] = _shear_without(np.asarray(layer.shear), len(axes), keep)
    return geometry


def _shear_without(shear: NDArray[np.float64], n_axes: int, keep: list[int]) -> NDArray[np.float64]:
    """The upper triangle of a shear, as napari keeps it, with fewer axes."""
    if shear.ndim == 2:
        return shear[np.ix_(keep, keep)]
    full = np.zeros((n_axes, n_axes))
    full[np.triu_indices(n_axes, 1)] = shear
    return full[np.ix_(keep, keep)][np.triu_indices(len(keep), 1)]

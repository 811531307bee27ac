"""The voxel size that a TIFF file tells of: OME-XML, ImageJ's description, or the resolution tags."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any
from xml.etree import ElementTree

import tifffile

__all__ = ["Scale", "scale_of"]

# Larger pixels come from photo and office programs, which write 72 or 300 dpi into everything
MAX_PIXEL_UM = 25.0
_PER_UM = {
    "m": 1e6, "cm": 1e4, "centimeter": 1e4, "mm": 1e3, "millimeter": 1e3, "um": 1.0, "µm": 1.0, "μm": 1.0,
    "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0, "nm": 1e-3, "nanometer": 1e-3, "å": 1e-4,
    "angstrom": 1e-4, "pm": 1e-6, "inch": 25400.0, "in": 25400.0,
}  # fmt: skip
_INCH, _CENTIMETRE = 2, 3


@dataclass(frozen=True)
class Scale:
    """Voxel sizes by axis letter in `unit` ("um", "mm", "px"), channel names, and a sentence where something is odd."""

    sizes: dict[str, float] = field(default_factory=dict)
    unit: str = "px"
    channel_names: tuple[str, ...] = ()
    notice: str = ""


def scale_of(file: tifffile.TiffFile, series: Any) -> Scale:
    """The scale of the first image of a file."""
    if series.kind == "ome" and file.ome_metadata:
        return _ome(file.ome_metadata)
    if series.kind == "imagej" and file.imagej_metadata:
        return _imagej(file.imagej_metadata, series.keyframe)
    shaped = (file.shaped_metadata or ({},))[0]
    if shaped.get("unit") in ("um", "mm") and shaped.get("spacing_zyx"):
        spacing = [_positive(value) or 1.0 for value in shaped["spacing_zyx"]]
        return _with_depth(dict(zip("XYZ", spacing[::-1], strict=False)), str(shaped["unit"]), ())
    return _tags(series.keyframe)


def _ome(xml: str) -> Scale:
    """PhysicalSizeX, Y, Z with their units, and channel names, of the first image."""
    root = ElementTree.fromstring(xml)  # noqa: S314 - entities were refused before
    pixels = root.find(".//{*}Image/{*}Pixels")
    if pixels is None:
        return Scale()
    sizes: dict[str, float] = {}
    for letter in "ZYX":
        value, unit = _positive(pixels.get(f"PhysicalSize{letter}")), pixels.get(f"PhysicalSize{letter}Unit", "µm")
        if value and unit.lower() in _PER_UM:
            sizes[letter] = value * _PER_UM[unit.lower()]
    names = [channel.get("Name") or "" for channel in pixels.findall("{*}Channel")]
    channel_names = tuple(names) if all(names) else ()
    if not {"X", "Y"} <= sizes.keys():
        return Scale(channel_names=channel_names)
    # mm stays mm: whoever writes it thinks in it, and labels of a volume in mm come back in mm
    units = {pixels.get(f"PhysicalSize{letter}Unit", "µm") for letter in sizes}
    if units == {"mm"}:
        return _with_depth({letter: size / 1e3 for letter, size in sizes.items()}, "mm", channel_names)
    return _with_depth(sizes, "um", channel_names)


def _imagej(metadata: dict[str, Any], page: Any) -> Scale:
    """Pixels a unit from the resolution tags, slice distance and unit from the description."""
    labels = metadata.get("Labels")
    names = tuple(str(label) for label in labels) if isinstance(labels, list) and all(labels) else ()
    unit = str(metadata.get("unit", "")).lower().replace("\\u00b5", "µ").strip()
    pixel = _resolution(page)
    if unit not in _PER_UM or pixel is None:
        return Scale(channel_names=names)
    sizes = {"Y": pixel[0], "X": pixel[1]}
    depth = _positive(metadata.get("spacing"))
    if depth:
        sizes["Z"] = depth
    if unit in ("mm", "millimeter"):
        return _with_depth(sizes, "mm", names)
    return _with_depth({letter: size * _PER_UM[unit] for letter, size in sizes.items()}, "um", names)


def _tags(page: Any) -> Scale:
    """Resolution tags in centimetres or inches, where they can be a microscope's."""
    tag = page.tags.get("ResolutionUnit")
    unit = int(tag.value) if tag is not None else _INCH
    pixel = _resolution(page)
    if pixel is None or unit not in (_INCH, _CENTIMETRE):
        return Scale()
    factor = 1e4 if unit == _CENTIMETRE else 25400.0
    y_um, x_um = pixel[0] * factor, pixel[1] * factor
    if max(y_um, x_um) > MAX_PIXEL_UM:
        return Scale(notice=f"its resolution tags would make a pixel {x_um:.0f} um wide, which is not believed.")
    return _with_depth({"Y": y_um, "X": x_um}, "um", ())


def _with_depth(sizes: dict[str, float], unit: str, names: tuple[str, ...]) -> Scale:
    """The scale; slices of unknown distance are taken as far apart as pixels are, so that voxels are cubes."""
    return Scale({"Z": sizes["X"], **sizes}, unit, names)


def _resolution(page: Any) -> tuple[float, float] | None:
    """Size of a pixel, y and x, in the tags' unit; None where they say nothing."""
    sizes = []
    for name in ("YResolution", "XResolution"):
        tag = page.tags.get(name)
        if tag is None:
            return None
        numerator, denominator = tag.value
        per_unit = numerator / denominator if denominator else 0.0
        if not per_unit > 0:
            return None
        sizes.append(1 / per_unit)
    # 1 pixel a unit is what writers put where they know nothing
    return None if sizes == [1.0, 1.0] and page.tags.get("ResolutionUnit") is None else (sizes[0], sizes[1])


def _positive(value: Any) -> float | None:
    """A positive finite number, else None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None

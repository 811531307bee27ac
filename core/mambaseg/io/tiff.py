"""TIFF with the dialects of microscopy: OME-TIFF, ImageJ hyperstacks, plain pages."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from mambaseg._errors import ImageError
from mambaseg.image import Grid, Image
from mambaseg.io._guard import check_claim, file_name, reading, sniff
from mambaseg.io._tiff_tags import Scale, scale_of

__all__ = ["read_tiff", "write_tiff"]

# tifffile reports through logging; without a handler Python would print it on top of our sentence
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_RGB, _PALETTE, _MIN_IS_WHITE, _YCBCR = 2, 3, 0, 6
_ALPHA = (1, 2)
_UNCOMPRESSED = 1
_TAG_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_PRIVATE, _IMAGEJ = 32768, (50838, 50839)
MAX_PAGES = 100_000
MAX_IMAGEJ_BYTES = 2 * 10**9


def read_tiff(path: Path) -> Image:
    """The first image of a .tif file at full size.

    Axes, voxel size and channel names come from OME or ImageJ metadata; plain pages are read as z. Resolution tags
    are believed where a pixel is at most 25 micrometres. The first of several images is taken, with a notice, and so is
    the stored value of palette and inverted pictures. Alpha is dropped.

    Raises
    ------
    ImageError : damaged, cut off, not TIFF, axes that are not understood, no real numbers
    """
    if sniff(path) != "TIFF":
        kind = sniff(path) or f"no image, {path.stat().st_size:,} bytes"
        raise ImageError(f"{file_name(path)} is no TIFF file ({kind}). Give it the name of what it is, "
                         "or export it again.")
    with reading(path, "TIFF"):
        _check_directories(path)
        with tifffile.TiffFile(path, _multifile=False) as file:
            _check_xml(path, file)
            series = file.series[0]
            _check_pixels(path, file, series)
            notices = _notices(path, file, series)
            data, axes, is_rgb = _named(path, series, series.asarray(), notices)
            scale = scale_of(file, series)
        if scale.notice:
            notices.append(f"{file_name(path)}: {scale.notice}")
        shape = data.shape[len(axes.rstrip("ZYX")) :]
        names = scale.channel_names
        n_channels = data.shape[axes.index("C")] if "C" in axes else 1
        return Image(data, axes, _grid(shape, scale), names if len(names) == n_channels and not is_rgb else (), is_rgb,
                     file_name(path), {"format": "TIFF", "dialect": str(series.kind), "notices": tuple(notices)})


def write_tiff(image: Image, path: Path) -> None:
    """Write a .tif file: OME-TIFF where the name ends in .ome.tif, else ImageJ's form where it can hold the values.

    The voxel size and its unit are kept. TIFF has no place for origin and direction.
    """
    data = image.data.astype(np.uint8) if image.data.dtype == bool else image.data
    axes = image.axes
    if image.is_rgb:
        data = np.moveaxis(data, axes.index("C"), -1)
        axes = axes.replace("C", "") + "S"
    sizes = dict(zip("ZYX"[3 - image.ndim :], image.grid.spacing, strict=True)) if image.grid.unit != "px" else {}
    is_imagej = data.dtype in (np.uint8, np.uint16, np.float32) and data.nbytes < MAX_IMAGEJ_BYTES
    if path.name.lower().endswith((".ome.tif", ".ome.tiff")):
        _write_ome(image, path, data, axes, sizes)
    elif is_imagej and not (image.is_rgb and data.dtype != np.uint8):
        _write_imagej(image, path, data, axes, sizes)
    else:
        _write_plain(image, path, data, axes, sizes)


def _write_ome(image: Image, path: Path, data: NDArray[Any], axes: str, sizes: dict[str, float]) -> None:
    """OME-TIFF, packed."""
    unit = {"um": "µm"}.get(image.grid.unit, image.grid.unit)
    metadata: dict[str, Any] = {"axes": axes}
    for letter, size in sizes.items():
        metadata |= {f"PhysicalSize{letter}": size, f"PhysicalSize{letter}Unit": unit}
    if image.channel_names:
        metadata["Channel"] = {"Name": list(image.channel_names)}
    tifffile.imwrite(path, data, ome=True, photometric=_photometric(image), compression="zlib", metadata=metadata)


def _write_imagej(image: Image, path: Path, data: NDArray[Any], axes: str, sizes: dict[str, float]) -> None:
    """ImageJ hyperstack, plain so that Fiji can map it."""
    letters = [letter for letter in "TZCYXS" if letter in axes]  # the only order that ImageJ knows
    metadata: dict[str, Any] = {"axes": "".join(letters)}
    if sizes:
        metadata |= {"unit": image.grid.unit} | ({"spacing": sizes["Z"]} if "Z" in sizes else {})
    if "C" in letters:
        metadata["mode"] = "composite"
    ordered = np.ascontiguousarray(data.transpose([axes.index(letter) for letter in letters]))
    resolution = (1 / sizes["X"], 1 / sizes["Y"]) if sizes else None
    tifffile.imwrite(path, ordered, imagej=True, photometric=_photometric(image), metadata=metadata,
                     resolution=resolution)


def _write_plain(image: Image, path: Path, data: NDArray[Any], axes: str, sizes: dict[str, float]) -> None:
    """Pages with a JSON description, packed; the resolution tags say it again, in centimetres, for other programs."""
    metadata: dict[str, Any] = {"axes": axes}
    resolution = None
    if sizes:
        metadata |= {"unit": image.grid.unit, "spacing_zyx": list(sizes.values())}
        per_cm = 1e4 if image.grid.unit == "um" else 10.0
        resolution = (per_cm / sizes["X"], per_cm / sizes["Y"])
    tifffile.imwrite(path, np.ascontiguousarray(data), photometric=_photometric(image), compression="zlib",
                     metadata=metadata, resolution=resolution, resolutionunit="CENTIMETER" if sizes else None)


def _photometric(image: Image) -> str:
    """What the samples mean."""
    return "rgb" if image.is_rgb else "minisblack"


def _check_directories(path: Path) -> None:
    """Walk the chain of page directories: where it leads out of the file or in a circle, something is lost."""
    size = path.stat().st_size
    seen: set[int] = set()
    with path.open("rb") as file:
        head = file.read(16)
        order = "<" if head[:2] == b"II" else ">"
        is_big = struct.unpack(order + "H", head[2:4])[0] == 43
        count_form, entry_form, offset_form = ("Q", "HHQQ", "Q") if is_big else ("H", "HHII", "I")
        offset = struct.unpack(order + offset_form, head[8:16] if is_big else head[4:8])[0]
        while offset:
            if offset in seen or offset + 2 > size or len(seen) > MAX_PAGES:
                raise ImageError(f"{file_name(path)} is cut off or damaged: its list of pages leads nowhere after "
                                 f"{len(seen)} pages. Copy or export it again.")
            seen.add(offset)
            file.seek(offset)
            n_bytes = _number(file, order + count_form) * struct.calcsize(order + entry_form)
            entries = file.read(min(n_bytes, size))
            offset = _number(file, order + offset_form)
            _check_entries(path, struct.iter_unpack(order + entry_form, entries), size, 8 if is_big else 4)
    if not seen:
        raise ImageError(f"{file_name(path)} is a TIFF file without pages. Copy or export it again.")


def _check_entries(path: Path, entries: Iterator[tuple[int, ...]], size: int, n_inline: int) -> None:
    """What the entries of a directory point at lies within the file; makers' own tags are left alone."""
    for code, kind, count, value in entries:
        n_bytes = _TAG_BYTES.get(kind, 0) * count
        if n_bytes > n_inline and value + n_bytes > size and (code < _PRIVATE or code in _IMAGEJ):
            raise ImageError(f"{file_name(path)} is cut off or damaged: the value of its tag {code} is not there. "
                             "Copy or export it again.")


def _number(file: IO[bytes], form: str) -> int:
    """The next number of a file."""
    raw = file.read(struct.calcsize(form))
    if len(raw) < struct.calcsize(form):
        raise EOFError("it ends within its list of pages")
    return int(struct.unpack(form, raw)[0])


def _check_xml(path: Path, file: tifffile.TiffFile) -> None:
    """OME-XML needs no entities; those that are there are meant to harm."""
    description = file.pages.first.description
    if "<!DOCTYPE" in description or "<!ENTITY" in description:
        raise ImageError(f"{file_name(path)} has XML entities in its description, which OME-TIFF does not need. "
                         "Export it again from a program you trust.")


def _check_pixels(path: Path, file: tifffile.TiffFile, series: Any) -> None:
    """All pixels that the header promises are in the file, and they are real numbers."""
    if series.dtype is None or series.dtype.kind not in "buif":
        raise ImageError(f"{file_name(path)} holds {series.dtype} values; whole or real numbers are expected. "
                         "Write its magnitude to a file of its own.")
    if 0 in series.shape:
        size = " x ".join(map(str, series.shape))
        raise ImageError(f"{file_name(path)} has no pixels: its size is {size}. Export it again.")
    n_bytes = path.stat().st_size
    claimed = int(np.prod(series.shape, dtype=object)) * series.dtype.itemsize
    page = series.keyframe
    if series.dataoffset is not None:
        check_claim(path, claimed, max(0, n_bytes - series.dataoffset), is_compressed=False)
        return
    check_claim(path, claimed, n_bytes, page.compression != _UNCOMPRESSED or page.bitspersample % 8 != 0)
    for part in series.pages:
        if part is None:
            raise ImageError(f"{file_name(path)} lacks pages that its description promises. Export it again.")
        _check_segments(path, part, page, n_bytes)


def _check_segments(path: Path, part: Any, page: Any, size: int) -> None:
    """The strips or tiles of one page lie within the file, and there are as many as the page's size needs."""
    n_needed = int(np.prod(page.chunked, dtype=object))
    offsets, counts = part.dataoffsets, part.databytecounts
    ends = [offset + count for offset, count in zip(offsets, counts, strict=False)]
    if len(ends) < n_needed or min(counts, default=0) <= 0 or max(ends) > size:
        raise ImageError(f"{file_name(path)} is cut off or damaged: pixels of page {part.index + 1} are missing. "
                         "Copy or export it again.")


def _notices(path: Path, file: tifffile.TiffFile, series: Any) -> list[str]:
    """What people should know about the choice of image and values."""
    name, page = file_name(path), series.keyframe
    notices = []
    if len(file.series) > 1:
        others = ", ".join(" x ".join(map(str, other.shape)) for other in file.series[1:4])
        notices.append(f"{name} holds {len(file.series)} images; the first is taken, not {others}.")
    if "<OME" in page.description and series.kind != "ome":
        notices.append(f"{name} has OME metadata that cannot be used (damaged, or part of a set of files); "
                       "its pages are read without.")
    if page.photometric == _PALETTE:
        notices.append(f"{name} has a colour table; the stored values are taken, not the colours.")
    if page.photometric == _MIN_IS_WHITE:
        notices.append(f"{name} is meant to be shown inverted; the stored values are taken.")
    orientation = page.tags.get("Orientation")
    if orientation is not None and orientation.value not in (0, 1):
        notices.append(f"{name} asks to be turned when shown; its pixels are taken as they are stored.")
    return notices


def _named(path: Path, series: Any, data: NDArray[Any], notices: list[str]) -> tuple[NDArray[Any], str, bool]:
    """Pixels with the axes of `Image`, and whether they are colours."""
    axes, page = series.axes, series.keyframe
    if "S" in axes:
        data, axes, is_rgb = _samples(data, axes, page)
    else:
        is_rgb = False
    long = [i for i, letter in enumerate(axes) if letter in "TCZYX" or data.shape[i] > 1]
    data = data.reshape([data.shape[i] for i in long])
    axes = "".join(axes[i] for i in long)
    unknown = [letter for letter in axes if letter not in "TCZYX"]
    if len(unknown) == 1 and "Z" not in axes:
        n = data.shape[axes.index(unknown[0])]
        notices.append(f"{file_name(path)} has {n} pages without a word of what they are; they are read as slices (z).")
        axes = axes.replace(unknown[0], "Z")
    elif unknown or len(set(axes)) != len(axes):
        size = " x ".join(map(str, series.shape))
        raise ImageError(f"{file_name(path)} has the axes {series.axes} ({size}), which are not understood. "
                         "Save it with the axes T, C, Z, Y, X, for example from Fiji.")
    order = [axes.index(letter) for letter in "TCZYX" if letter in axes]
    data = data.transpose(order)
    axes = "".join(axes[i] for i in order)
    for letter in "TC":  # an axis of length 1 that OME always writes says nothing
        if letter in axes and data.shape[axes.index(letter)] == 1:
            data, axes = data.squeeze(axes.index(letter)), axes.replace(letter, "")
    if "Z" in axes and data.shape[axes.index("Z")] == 1:
        data, axes = data.squeeze(axes.index("Z")), axes.replace("Z", "")
    return data.astype(data.dtype.newbyteorder("="), copy=False), axes, is_rgb and "C" in axes


def _samples(data: NDArray[Any], axes: str, page: Any) -> tuple[NDArray[Any], str, bool]:
    """Samples of a pixel as channels: colours, or what remains without alpha."""
    where = axes.index("S")
    is_rgb = page.photometric in (_RGB, _YCBCR) and data.shape[where] >= 3
    n_alpha = sum(int(kind) in _ALPHA for kind in page.extrasamples)
    n_kept = 3 if is_rgb else max(1, data.shape[where] - n_alpha)
    data = data.take(range(n_kept), axis=where)
    if "C" not in axes:
        return data, axes.replace("S", "C"), is_rgb
    if data.shape[axes.index("C")] == 1:
        channel = axes.index("C")
        return data.squeeze(channel), axes.replace("C", "").replace("S", "C"), is_rgb
    raise ImageError("It has both channels and colours. Split it into grey channels, for example with Fiji.")


def _grid(shape: tuple[int, ...], scale: Scale) -> Grid:
    """Voxel sizes for the axes that are there."""
    spacing = tuple(scale.sizes.get(letter, 1.0) for letter in "ZYX"[3 - len(shape) :])
    return Grid(shape, spacing, scale.unit)

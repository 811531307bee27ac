"""Files to `Image` and back: one module a family of formats.

A file is told by its suffix; a folder is a DICOM series. Labels are written in the family of the image they belong to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg._errors import ImageError
from mambaseg.image import Image
from mambaseg.io._guard import file_name, printable, reading, sniff
from mambaseg.io.atomic import atomic_path

__all__ = ["READABLE", "atomic_path", "labels_path", "read", "read_labels", "suffix_of", "write", "write_labels"]

# Suffix -> (module, reader); the modules bring heavy libraries, so each is imported when its first file is read
_READERS = {
    ".tif": ("tiff", "read_tiff"),
    ".tiff": ("tiff", "read_tiff"),
    ".ome.tif": ("tiff", "read_tiff"),
    ".ome.tiff": ("tiff", "read_tiff"),
    ".png": ("raster", "read_raster"),
    ".jpg": ("raster", "read_raster"),
    ".jpeg": ("raster", "read_raster"),
    ".bmp": ("raster", "read_raster"),
    ".npy": ("raster", "read_npy"),
    ".nii": ("nifti", "read_nifti"),
    ".nii.gz": ("nifti", "read_nifti"),
    ".hdr": ("nifti", "read_nifti"),
    ".img": ("nifti", "read_nifti"),
    ".nrrd": ("nrrd", "read_nrrd"),
    ".nhdr": ("nrrd", "read_nrrd"),
    ".seg.nrrd": ("nrrd", "read_nrrd"),
    ".mha": ("meta", "read_meta"),
    ".mhd": ("meta", "read_meta"),
    ".dcm": ("dicom", "read_dicom"),
    ".dicom": ("dicom", "read_dicom"),
    ".ima": ("dicom", "read_dicom"),
}
_WRITERS = {
    ".tif": ("tiff", "write_tiff"),
    ".tiff": ("tiff", "write_tiff"),
    ".ome.tif": ("tiff", "write_tiff"),
    ".ome.tiff": ("tiff", "write_tiff"),
    ".png": ("raster", "write_png"),
    ".nii": ("nifti", "write_nifti"),
    ".nii.gz": ("nifti", "write_nifti"),
    ".nrrd": ("nrrd", "write_nrrd"),
    ".seg.nrrd": ("nrrd", "write_nrrd"),
    ".mha": ("meta", "write_meta"),
}
_LABEL_SUFFIXES = {"tiff": ".tif", "raster": ".tif", "nifti": ".nii.gz", "nrrd": ".nrrd", "meta": ".mha",
                   "dicom": ".nii.gz"}  # fmt: skip
_DOUBLE = (".nii.gz", ".ome.tif", ".ome.tiff", ".seg.nrrd", ".ome.zarr")

READABLE = tuple(_READERS)


def read(path: str | Path) -> Image:
    """The image of a file, or of a folder with a DICOM series.

    Axes, spacing, unit, origin and direction come from the file; where it says nothing the spacing is 1 px. What the
    reader had to decide stands in the image's `notices`. NaN and infinite values are kept.

    Raises
    ------
    ImageError : missing, not readable, damaged, cut off, empty, or nothing that is an image
    """
    given = Path(path)
    module, function = _reader_of(given)
    reader: Callable[[Path], Image] = getattr(import_module(f"{__name__}.{module}"), function)
    with reading(given, "image"):
        return reader(given)


def read_labels(path: str | Path) -> Image:
    """The labels of a file: whole numbers on a grid, 0 for background.

    Whole numbers that are stored as floats are cast; a palette picture gives its indices. Colours are refused, since
    they say nothing of classes.

    Raises
    ------
    ImageError : as `read`, and colours, channels, values that are not whole
    """
    given = Path(path)
    if _reader_of(given) == ("raster", "read_raster"):
        with reading(given, "image"):
            image: Image = import_module(f"{__name__}.raster").read_raster(given, keep_palette=True)
    else:
        image = read(given)
    if image.is_rgb or image.n_channels > 1:
        what = "a colour picture" if image.is_rgb else f"{image.n_channels} channels"
        raise ImageError(f"{file_name(given)} is {what}; labels are one whole number a pixel. "
                         "Save them as a grey TIFF or PNG with the values 0, 1, 2, ...")
    data = image.data.squeeze(image.axes.index("C")) if "C" in image.axes else image.data
    return image.with_data(_whole(file_name(given), data))


def write(image: Image, path: str | Path) -> None:
    """Write an image in the format that the suffix of `path` names, whole or not at all.

    TIFF and PNG have no place for origin and direction; the other formats keep the grid exactly.

    Raises
    ------
    ImageError : a suffix that cannot be written, values that the format cannot hold
    UserError : no room, no permission
    """
    target = Path(path)
    suffix = suffix_of(target)
    if suffix not in _WRITERS:
        raise ImageError(f"{file_name(target)} cannot be written: its suffix {suffix!r} names no known format. "
                         f"Use one of {', '.join(_WRITERS)}.")
    module, function = _WRITERS[suffix]
    writer: Callable[[Image, Path], None] = getattr(import_module(f"{__name__}.{module}"), function)
    with atomic_path(target, image.data.nbytes) as temporary:
        try:
            writer(image, temporary)
        except KeyError as error:
            raise ImageError(f"{file_name(target)} cannot hold {image.data.dtype} values. "
                             "Convert them, for example to float32.") from error


def write_labels(labels: NDArray[Any] | Image, like: Image, path: str | Path) -> None:
    """Write labels on the grid of the image that they belong to, in the smallest of uint8, uint16 and uint32.

    Parameters
    ----------
    labels : whole numbers >= 0; time first where `like` has it, then the spatial axes
    like : image that was segmented; its spacing, unit, origin and direction are kept
    path : file to write; its suffix names the format

    Raises
    ------
    ImageError : labels that do not fit `like`, negative or not whole, or that the format cannot hold
    UserError : no room, no permission
    """
    data = labels.data if isinstance(labels, Image) else np.asarray(labels)
    n_frames = (like.n_frames,) if like.has_time else ()
    if data.shape != (*n_frames, *like.grid.shape):
        raise ImageError(f"The labels have the shape {data.shape}, but the image has {(*n_frames, *like.grid.shape)}. "
                         "Give labels on the image's own grid.")
    data = _whole("The labels", data)
    highest = int(data.max())
    if int(data.min()) < 0 or highest > np.iinfo(np.uint32).max:
        raise ImageError(f"The labels go from {data.min()} to {highest}; numbers from 0 to 4294967295 can be written. "
                         "Number them anew.")
    dtype = np.uint8 if highest < 2**8 else np.uint16 if highest < 2**16 else np.uint32
    image = like.with_data(data.astype(dtype, copy=False))
    write(replace(image, channel_names=()), path)


def labels_path(image_path: str | Path, out_dir: str | Path) -> Path:
    """Where the labels of an image go: `<stem>_labels` with the suffix of the image's family, in `out_dir`.

    TIFF for TIFF and pictures, NIfTI for NIfTI and DICOM, NRRD for NRRD, MetaImage for MetaImage; the image's own
    suffix where labels can be written with it. A DICOM folder gives its name.
    """
    given = Path(image_path)
    if given.is_dir():
        return Path(out_dir) / f"{given.resolve().name}_labels.nii.gz"
    suffix = suffix_of(given)
    stem = given.name[: len(given.name) - len(suffix)] if suffix else given.name
    family = _READERS.get(suffix, ("dicom", ""))[0]
    keeps = suffix in _WRITERS and suffix not in (".png", ".seg.nrrd")
    return Path(out_dir) / f"{stem}_labels{suffix if keeps else _LABEL_SUFFIXES[family]}"


def suffix_of(path: str | Path) -> str:
    """The suffix in lower case; .nii.gz and .ome.tif count as one."""
    given = Path(path)
    name = given.name.lower()
    for double in _DOUBLE:
        if name.endswith(double) and len(name) > len(double):
            return double
    return given.suffix.lower()


def _reader_of(path: Path) -> tuple[str, str]:
    """Module and function that read a path."""
    suffix = suffix_of(path)
    try:
        if path.is_dir():
            if suffix in (".zarr", ".ome.zarr"):
                raise ImageError(f"{file_name(path)} is an OME-Zarr store, which cannot be read here. "
                                 "Export it as OME-TIFF.")
            return _READERS[".dcm"]
        if not path.exists():
            raise ImageError(f"{printable(str(path))} is not there. Check the folder and the spelling.")
        if not path.is_file():
            raise ImageError(f"{printable(str(path))} is no file. Give an image file or a folder of DICOM slices.")
        if suffix in _READERS:
            return _READERS[suffix]
        # The files of a DICOM export often have no suffix, or a number for one
        if sniff(path) == "DICOM":
            return _READERS[".dcm"]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{file_name(path)} cannot be opened: {reason}. Check its name and permissions.") from error
    raise ImageError(f"{file_name(path)} has the suffix {suffix or 'of no format'!r}, which is not known. "
                     f"Readable are {', '.join(READABLE)} and folders of DICOM slices.")


def _whole(name: str, data: NDArray[Any]) -> NDArray[Any]:
    """`data` as integers if nothing is lost by it."""
    if data.dtype == bool:
        return data.astype(np.uint8)
    if data.dtype.kind in "ui":
        return data
    if not np.isfinite(data).all() or (data != np.round(data)).any() or np.abs(data).max() >= 2**53:
        raise ImageError(f"{name}: the values are not whole numbers; labels are 0, 1, 2, ... Give a label image.")
    return data.astype(np.int64 if np.abs(data).max() > np.iinfo(np.int32).max else np.int32)

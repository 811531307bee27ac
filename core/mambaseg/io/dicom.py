"""DICOM: a folder with one series, or one file with one or many frames.

No tag that tells of a person is kept: of the header only modality, geometry and the scale of the values are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import BytesLengthException, InvalidDicomError

from mambaseg._errors import ImageError
from mambaseg.image import Grid, Image
from mambaseg.io._dicom_pixels import Pixels, read_pixels
from mambaseg.io._dicom_planes import Plane, frame_planes, plane_of, volume_grid
from mambaseg.io._guard import file_name, reading

__all__ = ["read_dicom"]

_NOT_SLICES = ("DICOMDIR", "LICENSE", "README")
_SUFFIXES = (".dcm", ".dicom", ".ima")
_INVERTED = "MONOCHROME1"
_DICOM_ERRORS = (BytesLengthException, InvalidDicomError)


@dataclass(frozen=True)
class _Found:
    """One DICOM file with its header, without pixels."""

    path: Path
    header: Any

    @property
    def n_frames(self) -> int:
        """Number of frames, 1 for a plain slice."""
        return int(self.header.get("NumberOfFrames", 1) or 1)


def read_dicom(path: Path) -> Image:
    """The volume of a folder with one series, or the picture or volume of one file.

    Slices are put in the order of their positions; values are scaled by each slice's slope and intercept (whole numbers
    stay whole). A file with a position is one slice of a volume, one without is a picture. Frames with a frame time are
    a time axis.

    Raises
    ------
    ImageError : no series or several, slices missing, cut off, twice there or unevenly spaced, another kind of object
    """
    with reading(path, "DICOM", *_DICOM_ERRORS):
        if path.is_dir():
            return _from_series(path, _one_series(path, _scan(path)))
        found = _Found(path, _header(path))
        if not _is_image(found):
            raise ImageError(f"{file_name(path)} is a DICOM object without an image ({_kind(found)}). "
                             "Give the series that it belongs to.")
        return _from_series(path, [found]) if found.n_frames == 1 else _from_frames(path, found)


def _scan(folder: Path) -> list[_Found]:
    """Headers of the DICOM files that lie in the folder itself."""
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    found = [_Found(path, _header(path)) for path in files if _looks_like_dicom(path)]
    if not found:
        nested = any(path.is_dir() for path in folder.iterdir())
        hint = "Give the folder within it that holds the slices." if nested else "Give a folder of DICOM slices."
        raise ImageError(f"The folder {file_name(folder)} holds no DICOM files. {hint}")
    return found


def _looks_like_dicom(path: Path) -> bool:
    """Whether a file is, or by its name should be, DICOM."""
    if path.name.upper() in _NOT_SLICES:
        return False
    with path.open("rb") as file:
        head = file.read(132)
    return head[128:] == b"DICM" or path.suffix.lower() in _SUFFIXES


def _header(path: Path) -> Any:
    """The header without pixels; old files without preamble are taken if they begin with DICOM's own tags."""
    with path.open("rb") as file:
        head = file.read(132)
    has_tags = head[:4] in (b"\x02\0\0\0", b"\x08\0\0\0", b"\x08\0\x05\0", b"\x08\0\x08\0", b"\x08\0\x16\0")
    with reading(path, "DICOM", *_DICOM_ERRORS):
        if head[128:] != b"DICM" and not has_tags:
            raise ImageError(f"{file_name(path)} is no DICOM file ({path.stat().st_size:,} bytes). "
                             "Take it out of the folder, or copy it again.")
        return pydicom.dcmread(path, stop_before_pixels=True, force=True)


def _is_image(found: _Found) -> bool:
    """Whether it has pixels that are an image and no segmentation."""
    header = found.header
    return bool(header.get("Rows") and header.get("Columns")) and header.get("Modality") not in ("SEG", "RTDOSE")


def _kind(found: _Found) -> str:
    """What kind of object it is."""
    uid = found.header.get("SOPClassUID") or found.header.file_meta.get("MediaStorageSOPClassUID")
    return str(getattr(uid, "name", None) or found.header.get("Modality") or "unknown kind")


def _one_series(folder: Path, found: list[_Found]) -> list[_Found]:
    """The files of the only image series."""
    series: dict[str, list[_Found]] = {}
    for item in found:
        if _is_image(item):
            series.setdefault(str(item.header.get("SeriesInstanceUID", "")), []).append(item)
    if not series:
        raise ImageError(f"The folder {file_name(folder)} holds no DICOM images, only {_kind(found[0])}. "
                         "Give the folder of the image series.")
    if len(series) > 1:
        lines = [f"{part[0].header.get('Modality', '?')} with {len(part)} files from {file_name(part[0].path)}"
                 for part in list(series.values())[:6]]
        raise ImageError(f"The folder {file_name(folder)} holds {len(series)} series ({'; '.join(lines)}). "
                         "Put the one to be read into a folder of its own.")
    (chosen,) = series.values()
    if len(chosen) > 1 and any(item.n_frames > 1 for item in chosen):
        raise ImageError(f"The folder {file_name(folder)} holds {len(chosen)} files, some with many frames. "
                         "Give one file.")
    return chosen


def _from_series(path: Path, found: list[_Found]) -> Image:
    """A volume of files with a frame each, or what the only file holds."""
    if found[0].n_frames > 1:
        return _from_frames(path, found[0])
    sizes = {(int(item.header.Rows), int(item.header.Columns)) for item in found}
    if len(sizes) > 1:
        raise ImageError(f"The slices of {file_name(path)} differ in size ({', '.join(map(str, sorted(sizes)))}). "
                         "Put the slices of one volume into a folder of their own.")
    planes = [plane_of(file_name(item.path), item.header) for item in found]
    notices: list[str] = []
    order, grid = volume_grid(file_name(path), planes, sizes.pop(), notices)
    pixels = [_slice(found[i].path) for i in order]
    return _image(path, found[0].header, pixels, [planes[i] for i in order], grid, notices)


def _slice(path: Path) -> Pixels:
    """The pixels of one file."""
    with reading(path, "DICOM", *_DICOM_ERRORS):
        return read_pixels(path)


def _from_frames(path: Path, found: _Found) -> Image:
    """The volume, or film, of one file with many frames."""
    pixels = read_pixels(found.path)
    frames = pixels.split()
    notices: list[str] = []
    if found.header.get("FrameTime") or found.header.get("FrameTimeVector"):
        planes = [plane_of(file_name(found.path), found.header)] * len(frames)
        shape = (int(found.header.Rows), int(found.header.Columns))
        _, grid = volume_grid(file_name(path), planes[:1], shape, notices, as_picture=True)
        return _image(path, found.header, frames, planes, grid, notices, is_film=True)
    planes = frame_planes(file_name(found.path), found.header, len(frames), notices)
    size = (int(found.header.Rows), int(found.header.Columns))
    order, grid = volume_grid(file_name(path), planes, size, notices)
    return _image(path, found.header, [frames[i] for i in order], [planes[i] for i in order], grid, notices)


def _image(path: Path, header: Any, frames: list[Pixels], planes: list[Plane], grid: Grid, notices: list[str],
           is_film: bool = False) -> Image:
    """Frames in order as an image, values scaled."""
    data, is_rgb = _stack(path, frames, planes)
    if header.get("PhotometricInterpretation") == _INVERTED:
        notices.append(f"{file_name(path)} is meant to be shown inverted (MONOCHROME1); the stored values are taken.")
    if is_rgb:
        data = np.moveaxis(data, -1, 1 if is_film else 0)
    leading = ("T" if is_film else "") + ("C" if is_rgb else "")
    spatial = "ZYX"[3 - grid.ndim :]
    data = data.reshape(*data.shape[: len(leading)], *grid.shape)
    metadata = {"format": "DICOM", "modality": str(header.get("Modality", "")), "notices": tuple(notices)}
    return Image(data, leading + spatial, grid, (), is_rgb, file_name(path), metadata)


def _stack(path: Path, frames: list[Pixels], planes: list[Plane]) -> tuple[NDArray[Any], bool]:
    """Scaled values of all frames, (frame, y, x) or (frame, y, x, 3); whole numbers in the smallest type that holds."""
    if len({frame.values.shape for frame in frames}) > 1:
        raise ImageError(f"{file_name(path)} mixes grey and colour slices. Put those of one kind into a folder.")
    scales = [frame.scale or plane.scale for frame, plane in zip(frames, planes, strict=True)]
    is_whole = all(float(slope).is_integer() and float(intercept).is_integer() for slope, intercept in scales)
    dtype: np.dtype[Any] = np.dtype(np.float32)
    if is_whole and all(frame.values.dtype.kind in "iub" for frame in frames):
        ends = [float(end) * slope + intercept for frame, (slope, intercept) in zip(frames, scales, strict=True)
                for end in (frame.values.min(), frame.values.max())]
        dtype = _smallest(min(ends), max(ends), is_byte=frames[0].values.dtype.itemsize == 1)
    data = np.empty((len(frames), *frames[0].values.shape), dtype=dtype)
    for i, (frame, (slope, intercept)) in enumerate(zip(frames, scales, strict=True)):
        data[i] = frame.values if (slope, intercept) == (1, 0) else frame.values * float(slope) + intercept
    return data, frames[0].values.ndim == 3


def _smallest(lowest: float, highest: float, is_byte: bool) -> np.dtype[Any]:
    """The type for whole numbers of a range; bytes stay bytes where they can."""
    for name in ("uint8", "int16", "uint16", "int32", "uint32")[not is_byte :]:
        limits = np.iinfo(name)
        if limits.min <= lowest and highest <= limits.max:
            return np.dtype(name)
    return np.dtype(np.float64)

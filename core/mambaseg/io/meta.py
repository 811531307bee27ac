"""MetaImage files, attached (.mha) and detached (.mhd). Format: itk.org/Wiki/ITK/MetaIO/Documentation."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np

from mambaseg._errors import ImageError
from mambaseg.image import Grid, Image
from mambaseg.io._guard import Payload, file_name, little_endian, read_payload, reading
from mambaseg.io._lps import grid_lps
from mambaseg.io.nrrd import data_file_beside

__all__ = ["read_meta", "write_meta"]

_DTYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in reversed(_DTYPES.items())}
_UNITS = {"mm": ("mm", 1.0), "um": ("um", 1.0), "cm": ("mm", 10.0)}
MAX_HEADER_BYTES = 2**20
LAST_KEY = "elementdatafile"


def read_meta(path: Path) -> Image:
    """The image of a .mha or .mhd file; the fourth axis is time, the components of a voxel are channels.

    Raises
    ------
    ImageError : damaged, cut off, not MetaImage, a data file elsewhere than beside its header
    """
    with reading(path, "MetaImage"):
        fields, n_bytes = _read_header(path)
        sizes = [int(word) for word in fields["dimsize"].split()]
        if not 2 <= len(sizes) <= 4 or len(sizes) != int(fields["ndims"]) or min(sizes) < 1:
            raise ImageError(f"{file_name(path)} has the sizes {sizes}; 2 to 4 axes, each with voxels, can be read. "
                             "Export it again from the program that made it.")
        n_channels = int(fields.get("elementnumberofchannels", "1"))
        if n_channels < 1:
            raise ImageError(f"{file_name(path)} has {n_channels} channels; 1 or more are expected. Export it again.")
        values = read_payload(_payload(path, fields, n_bytes, [n_channels, *sizes]))
        data = values.reshape(*sizes[::-1], n_channels)
        axes = "TZYX"[4 - len(sizes) :]
        if n_channels == 1:
            data = data[..., 0]
        else:
            data = np.moveaxis(data, -1, int("T" in axes))
            axes = axes.replace("T", "") if "T" not in axes else axes[1:]
            axes = ("T" if len(sizes) == 4 else "") + "C" + axes
        grid = _grid(fields, len(sizes), data.shape[len(axes.rstrip("ZYX")) :])
        return Image(data, axes, grid, (), False, file_name(path), {"format": "MetaImage"})


def write_meta(image: Image, path: Path) -> None:
    """Write a .mha file, packed with zlib; pictures with a time axis get one slice, since four axes are needed then."""
    data = image.data.astype(np.uint8) if image.data.dtype == bool else image.data
    data = data.astype(np.float32) if data.dtype == np.float16 else data
    wanted = [letter for letter in "TZYXC" if letter in image.axes]
    data = data.transpose([image.axes.index(letter) for letter in wanted])
    sizes = [size for size, letter in zip(data.shape, wanted, strict=True) if letter != "C"][::-1]
    n = image.ndim
    if image.has_time and n == 2:
        sizes = [*sizes[:2], 1, sizes[2]]
    n_axes = len(sizes)
    affine = np.eye(n_axes)
    affine[:n, :n] = np.reshape(image.grid.direction, (n, n))
    unit = [f"DistanceUnits = {image.grid.unit}"] if image.grid.unit in _UNITS else []
    packed = zlib.compress(little_endian(data), level=4)
    lines = [
        "ObjectType = Image",
        f"NDims = {n_axes}",
        "BinaryData = True",
        "BinaryDataByteOrderMSB = False",
        "CompressedData = True",
        f"CompressedDataSize = {len(packed)}",
        # axis by axis, so the columns of the direction follow one another
        f"TransformMatrix = {_numbers(affine.T.ravel())}",
        f"Offset = {_numbers([*image.grid.origin_xyz, *[0.0] * (n_axes - n)])}",
        f"CenterOfRotation = {_numbers([0.0] * n_axes)}",
        *unit,
        f"ElementSpacing = {_numbers([*image.grid.spacing[::-1], *[1.0] * (n_axes - n)])}",
        f"DimSize = {' '.join(str(size) for size in sizes)}",
        *([f"ElementNumberOfChannels = {image.n_channels}"] if "C" in image.axes else []),
        f"ElementType = {_NAMES[data.dtype.str[1:]]}",
        "ElementDataFile = LOCAL",
    ]
    with path.open("wb") as file:
        file.write(("\n".join(lines) + "\n").encode("ascii"))
        file.write(packed)


def _numbers(values: object) -> str:
    """Exact decimal numbers, separated by blanks."""
    return " ".join(repr(float(value)) for value in np.asarray(values, dtype=np.float64))


def _read_header(path: Path) -> tuple[dict[str, str], int]:
    """Fields by lower-case name, and where the data begin; the data file's name ends a header."""
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        while LAST_KEY not in fields and file.tell() < MAX_HEADER_BYTES:
            line = file.readline(MAX_HEADER_BYTES)
            name, equals, value = line.decode("utf-8", "replace").partition("=")
            if not equals or not name.isprintable():
                break
            fields[name.strip().lower()] = value.strip()
        n_bytes = file.tell()
    missing = {"ndims", "dimsize", "elementtype", LAST_KEY} - fields.keys()
    if missing:
        raise ImageError(f"{file_name(path)} is no MetaImage file: its header lacks {min(missing)!r}. "
                         "Copy or export it again.")
    return fields, n_bytes


def _is_true(fields: dict[str, str], *names: str) -> bool:
    """Whether one of the fields says True."""
    return any(fields.get(name, "").lower() in ("true", "1") for name in names)


def _payload(path: Path, fields: dict[str, str], n_bytes: int, sizes: list[int]) -> Payload:
    """Where the numbers are, and how they are kept."""
    kind = fields["elementtype"].upper().removesuffix("_ARRAY")
    if kind not in _DTYPES:
        raise ImageError(f"{file_name(path)} holds {kind} values; whole or real numbers are expected. Convert it.")
    big = _is_true(fields, "binarydatabyteordermsb", "elementbyteordermsb")
    dtype = np.dtype(_DTYPES[kind]).newbyteorder(">" if big else "<")
    count = int(np.prod(sizes, dtype=object))
    where, offset = path, n_bytes
    if fields[LAST_KEY].upper() != "LOCAL":
        if fields[LAST_KEY].upper().startswith("LIST") or "%" in fields[LAST_KEY]:
            raise ImageError(f"{file_name(path)} spreads its slices over several files, which cannot be read. "
                             "Save it as one .mha file.")
        where, offset = data_file_beside(path, fields[LAST_KEY]), 0
    if _is_true(fields, "compresseddata"):
        return Payload(where, offset, dtype, count, "zlib")
    if fields.get("binarydata", "true").lower() in ("false", "0"):
        return Payload(where, offset, dtype, count, "text")
    skip = int(fields.get("headersize", "0"))
    if skip:
        offset = where.stat().st_size - count * dtype.itemsize if skip < 0 else skip
    return Payload(where, max(0, offset), dtype, count)


def _grid(fields: dict[str, str], n_axes: int, shape: tuple[int, ...]) -> Grid:
    """Where the header puts the voxels; MetaImage has ITK's LPS."""
    n = len(shape)
    spacing = _first(fields, ("elementspacing", "elementsize"), [1.0] * n_axes)
    origin = _first(fields, ("offset", "position", "origin"), [0.0] * n_axes)
    names = ("transformmatrix", "rotation", "orientation")
    matrix = _first(fields, names, np.eye(n_axes).ravel().tolist())
    unit, factor = _UNITS.get(fields.get("distanceunits", "mm").lower(), ("mm", 1.0))
    affine = np.eye(4)
    affine[:n, :n] = np.reshape(matrix, (n_axes, n_axes)).T[:n, :n] * np.abs(spacing[:n])
    affine[:n, 3] = origin[:n]
    affine[:3] *= factor
    return grid_lps(shape, affine, unit, any(name in fields for name in names))


def _first(fields: dict[str, str], names: tuple[str, ...], default: list[float]) -> list[float]:
    """Numbers of the first field that is there."""
    for name in names:
        if name in fields:
            numbers = [float(word) for word in fields[name].split()]
            if len(numbers) != len(default):
                raise ImageError(f"the field {name!r} has {len(numbers)} numbers instead of {len(default)}. "
                                 "Correct the header.")
            return numbers
    return default

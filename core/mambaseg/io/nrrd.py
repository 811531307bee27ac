"""NRRD files, attached (.nrrd) and detached (.nhdr). Format: teem.sourceforge.net/nrrd/format.html."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mambaseg._errors import ImageError
from mambaseg.image import Grid, Image
from mambaseg.io._guard import Payload, file_name, little_endian, read_payload, reading
from mambaseg.io._lps import ras_lps

__all__ = ["data_file_beside", "read_nrrd", "write_nrrd"]

_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_DTYPES = {name: code for code, names in _TYPES.items() for name in names}
_ENCODINGS = {"raw": "raw", "gz": "gzip", "gzip": "gzip", "bz2": "bzip2", "bzip2": "bzip2", "txt": "text",
              "text": "text", "ascii": "text"}  # fmt: skip
_RAS = ("right-anterior-superior", "ras", "right-anterior-superior-time", "rast")
_LPS = ("left-posterior-superior", "lps", "left-posterior-superior-time", "lpst")
_LAS = ("left-anterior-superior", "las", "left-anterior-superior-time", "last")
_COLOURS = ("rgb-color", "rgba-color", "3-color", "4-color")
_SPATIAL = ("domain", "space")
_UNITS = {"mm": ("mm", 1.0), "millimeter": ("mm", 1.0), "cm": ("mm", 10.0), "m": ("mm", 1000.0), "um": ("um", 1.0),
          "µm": ("um", 1.0), "micron": ("um", 1.0), "microns": ("um", 1.0), "micrometer": ("um", 1.0)}  # fmt: skip
MAX_HEADER_BYTES = 2**20


@dataclass(frozen=True)
class _Header:
    """Fields in lower case, the key/value pairs after `:=`, and where the data begin."""

    fields: dict[str, str]
    n_bytes: int

    def words(self, name: str, n: int, default: str) -> list[str]:
        """The `n` words of a field, one an axis."""
        value = self.fields.get(name)
        words = [default] * n if value is None else re.findall(r'"[^"]*"|\([^)]*\)|\S+', value)
        if len(words) != n:
            raise ImageError(f"the field {name!r} has {len(words)} entries for {n} axes. Correct the header.")
        return [word.strip('"') for word in words]


def read_nrrd(path: Path) -> Image:
    """The image of a .nrrd or .nhdr file.

    RAS and LAS spaces are turned to LPS. An axis that is not spatial is time where its kind says so, else channels
    (colours, vector components, lists). Units are millimetres unless the header says otherwise.

    Raises
    ------
    ImageError : damaged, cut off, not NRRD, a data file elsewhere than beside its header
    """
    with reading(path, "NRRD"):
        header = _read_header(path)
        n_axes = int(header.fields["dimension"])
        sizes = [int(word) for word in header.words("sizes", n_axes, "")]
        if n_axes < 2 or min(sizes) < 1:
            raise ImageError(f"{file_name(path)} has the sizes {sizes}; an image has 2 or more axes, each with voxels. "
                             "Export it again from the program that made it.")
        letters, is_rgb = _axes(path, header, n_axes, sizes)
        values = read_payload(_payload(path, header, sizes)).reshape(sizes[::-1])
        order = [letters[::-1].index(letter) for letter in "TCZYX" if letter in letters]
        data = values.transpose(order)
        axes = "".join(letters[::-1][i] for i in order)
        if is_rgb:
            data = data[(slice(None),) * axes.index("C") + (slice(0, 3),)]
        grid = _grid(header, letters, data.shape[len(axes.rstrip("ZYX")) :])
        return Image(data, axes, grid, (), is_rgb, file_name(path), {"format": "NRRD"})


def write_nrrd(image: Image, path: Path) -> None:
    """Write a .nrrd file, packed with gzip, in LPS; channels come first in the file (fastest), time last."""
    data = image.data.astype(np.uint8) if image.data.dtype == bool else image.data
    data = data.astype(np.float32) if data.dtype == np.float16 else data
    wanted = [letter for letter in "TZYXC" if letter in image.axes]
    data = data.transpose([image.axes.index(letter) for letter in wanted])
    n, columns = image.ndim, image.grid.affine_xyz[:-1, :-1]
    kinds = {"T": "time", "C": "RGB-color" if image.is_rgb else "vector"}
    vectors = {letter: _vector(columns[:, i]) for i, letter in enumerate("XYZ"[:n])}
    unit = '"um"' if image.grid.unit == "um" else '"mm"' if image.grid.unit == "mm" else '""'
    lines = [
        "NRRD0005",
        f"type: {_TYPES[data.dtype.str[1:]][-1]}",
        f"dimension: {data.ndim}",
        "space: left-posterior-superior" if n == 3 else f"space dimension: {n}",
        f"sizes: {' '.join(str(size) for size in data.shape[::-1])}",
        f"space directions: {' '.join(vectors.get(letter, 'none') for letter in wanted[::-1])}",
        f"kinds: {' '.join(kinds.get(letter, 'domain') for letter in wanted[::-1])}",
        "endian: little",
        "encoding: gzip",
        f"space units: {' '.join([unit] * n)}",
        f"space origin: {_vector(np.array(image.grid.origin_xyz))}",
    ]
    packer = zlib.compressobj(level=4, wbits=31)
    with path.open("wb") as file:
        file.write(("\n".join(lines) + "\n\n").encode("ascii"))
        file.write(packer.compress(little_endian(data)))
        file.write(packer.flush())


def data_file_beside(path: Path, name: str) -> Path:
    """The data file that a header names; only in the header's own folder.

    Raises
    ------
    ImageError : it lies elsewhere, or is missing
    """
    given = name.strip()
    if not given or Path(given).name != given or "\\" in given or given in (".", ".."):
        raise ImageError(f"{file_name(path)} asks for the data file {given[:80]!r}; only one in the header's own "
                         "folder is opened. Put it there and write its bare name into the header.")
    beside = path.with_name(given)
    if not beside.is_file():
        raise ImageError(f"{file_name(path)} needs its data file {given!r}, which is not beside it. "
                         "Put both into one folder.")
    return beside


def _vector(values: NDArray[np.float64]) -> str:
    """Numbers as NRRD has them, exact."""
    return "(" + ",".join(repr(float(value)) for value in values) + ")"


def _read_header(path: Path) -> _Header:
    """Read up to the blank line."""
    with path.open("rb") as file:
        raw = file.read(MAX_HEADER_BYTES)
    if not raw.startswith(b"NRRD000"):
        raise ImageError(f"{file_name(path)} is no NRRD file. Give a file that begins with NRRD.")
    ends = [raw.find(mark) + len(mark) for mark in (b"\n\n", b"\r\n\r\n") if mark in raw]
    is_detached = re.search(rb"^data ?file:", raw, re.MULTILINE | re.IGNORECASE) is not None
    if not ends and not is_detached:
        raise ImageError(f"{file_name(path)} is cut off within its header. Copy or export it again.")
    n_bytes = min(ends, default=len(raw))
    fields = {}
    for line in raw[:n_bytes].decode("utf-8", "replace").splitlines()[1:]:
        name, colon, value = line.partition(":")
        if colon and not line.startswith("#") and not value.startswith("="):
            fields[name.strip().lower().replace("datafile", "data file")] = value.strip()
    missing = {"type", "dimension", "sizes", "encoding"} - fields.keys()
    if missing:
        raise ImageError(f"{file_name(path)} lacks the field {min(missing)!r} in its header. Export it again.")
    return _Header(fields, n_bytes)


def _axes(path: Path, header: _Header, n_axes: int, sizes: list[int]) -> tuple[str, bool]:
    """One letter an axis, fastest first, and whether the channels are colours."""
    kinds = [kind.lower() for kind in header.words("kinds", n_axes, "")]
    directions = header.words("space directions", n_axes, "")
    letters, spatial = "", iter("XYZ")
    for kind, direction in zip(kinds, directions, strict=True):
        if direction == "none" or (kind not in (*_SPATIAL, "", "???", "none") and not direction):
            letters += "T" if kind == "time" else "C"
        else:
            letters += next(spatial, "?")
    if "?" in letters or len(set(letters)) != len(letters) or not {"X", "Y"} <= set(letters):
        raise ImageError(f"{file_name(path)} has {n_axes} axes ({' x '.join(map(str, sizes))}) that its header "
                         "does not tell apart. Write one with up to 3 spatial axes and at most channels and time.")
    is_rgb = "C" in letters and kinds[letters.index("C")] in _COLOURS and sizes[letters.index("C")] in (3, 4)
    return letters, is_rgb


def _payload(path: Path, header: _Header, sizes: list[int]) -> Payload:
    """Where the numbers are, and how they are kept."""
    fields = header.fields
    kind = " ".join(fields["type"].lower().split())
    encoding = _ENCODINGS.get(fields["encoding"].lower())
    if kind not in _DTYPES or encoding is None:
        raise ImageError(f"{file_name(path)} keeps {fields['type']!r} values with the encoding "
                         f"{fields['encoding']!r}, which cannot be read. Save it with 3D Slicer as NRRD.")
    dtype = np.dtype(_DTYPES[kind]).newbyteorder(">" if fields.get("endian", "little").lower() == "big" else "<")
    count = int(np.prod(sizes, dtype=object))
    where, offset = path, header.n_bytes
    if "data file" in fields:
        where, offset = data_file_beside(path, fields["data file"]), 0
    for _ in range(min(10_000, int(fields.get("line skip", 0)))):
        offset = _after_line(where, offset)
    skip = int(fields.get("byte skip", 0))
    if skip < -1:
        raise ImageError(f"{file_name(path)} has a nonsense byte skip of {skip}. Export it again.")
    if encoding == "raw":
        offset = where.stat().st_size - count * dtype.itemsize if skip == -1 else offset + skip
        return Payload(where, max(0, offset), dtype, count)
    return Payload(where, offset, dtype, count, encoding, max(0, skip))


def _after_line(path: Path, offset: int) -> int:
    """Where the next line begins."""
    with path.open("rb") as file:
        file.seek(offset)
        file.readline(MAX_HEADER_BYTES)
        return file.tell()


def _grid(header: _Header, letters: str, shape: tuple[int, ...]) -> Grid:
    """Where the header puts the voxels, in LPS."""
    n = len(shape)
    where = [letters.index(letter) for letter in "XYZ"[:n]]
    fields = header.fields
    words = header.words("space units", n, "mm") if "space units" in fields else [
        header.words("units", len(letters), "mm")[i] for i in where]  # fmt: skip
    unit, factor = _UNITS.get(words[0].lower(), ("px" if words[0] == "" else "mm", 1.0))
    affine = np.eye(4)
    space = fields.get("space", "").lower()
    if "space directions" in fields:
        vectors = [_parse_vector(header.words("space directions", len(letters), "")[i]) for i in where]
        width = len(vectors[0])
        affine[:width, :n] = np.array(vectors).T
        if fields.get("space origin"):
            affine[:width, 3] = _parse_vector(fields["space origin"])
        if space in _RAS:
            affine = ras_lps(affine)
        elif space in _LAS:
            affine[1] *= -1
    else:
        spacings = [float(header.words("spacings", len(letters), "1")[i]) for i in where]
        affine[:n, :n] = np.diag([abs(value) if np.isfinite(value) and value else 1.0 for value in spacings])
    affine[:3] *= factor
    if n == 3:
        is_of_patient = "space directions" in fields and space in (*_RAS, *_LAS, *_LPS)
        return Grid.from_affine(shape, affine, unit, is_of_patient)
    return Grid.from_affine(shape, affine[np.ix_([0, 1, 3], [0, 1, 3])], unit)


def _parse_vector(text: str) -> list[float]:
    """Numbers of (a,b,c)."""
    return [float(word) for word in text.strip("() ").split(",")]

"""NIfTI-1 and NIfTI-2, packed or not, one file or a pair.

The header is read here and not by a library, since its claims are checked before memory is taken and both of its
matrices go back into the labels as they came. References: nifti.nimh.nih.gov/nifti-1 and nifti-2.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg._errors import ImageError
from mambaseg.image import Grid, Image
from mambaseg.io._guard import Payload, file_name, little_endian, read_payload, reading
from mambaseg.io._lps import grid_lps, ras_lps, ras_of

__all__ = ["read_nifti", "write_nifti"]

_NIFTI1 = np.dtype([
    ("sizeof_hdr", "i4"), ("unused1", "S35"), ("dim_info", "u1"), ("dim", "i2", (8,)), ("intent_p", "f4", (3,)),
    ("intent_code", "i2"), ("datatype", "i2"), ("bitpix", "i2"), ("slice_start", "i2"), ("pixdim", "f4", (8,)),
    ("vox_offset", "f4"), ("scl_slope", "f4"), ("scl_inter", "f4"), ("slice_end", "i2"), ("slice_code", "u1"),
    ("xyzt_units", "u1"), ("cal_max", "f4"), ("cal_min", "f4"), ("slice_duration", "f4"), ("toffset", "f4"),
    ("glmax", "i4"), ("glmin", "i4"), ("descrip", "S80"), ("aux_file", "S24"), ("qform_code", "i2"),
    ("sform_code", "i2"), ("quatern", "f4", (3,)), ("qoffset", "f4", (3,)), ("srow", "f4", (3, 4)),
    ("intent_name", "S16"), ("magic", "S4"),
])  # fmt: skip
_NIFTI2 = np.dtype([
    ("sizeof_hdr", "i4"), ("magic", "S8"), ("datatype", "i2"), ("bitpix", "i2"), ("dim", "i8", (8,)),
    ("intent_p", "f8", (3,)), ("pixdim", "f8", (8,)), ("vox_offset", "i8"), ("scl_slope", "f8"), ("scl_inter", "f8"),
    ("cal_max", "f8"), ("cal_min", "f8"), ("slice_duration", "f8"), ("toffset", "f8"), ("slice_start", "i8"),
    ("slice_end", "i8"), ("descrip", "S80"), ("aux_file", "S24"), ("qform_code", "i4"), ("sform_code", "i4"),
    ("quatern", "f8", (3,)), ("qoffset", "f8", (3,)), ("srow", "f8", (3, 4)), ("slice_code", "i4"),
    ("xyzt_units", "i4"), ("intent_code", "i4"), ("intent_name", "S16"), ("dim_info", "u1"), ("unused", "S15"),
])  # fmt: skip
_DTYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 128: "u1", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8",
    2304: "u1",
}  # fmt: skip
_CODES = {dtype: code for code, dtype in reversed(_DTYPES.items())}
_SAMPLES = {128: 3, 2304: 4}  # RGB and RGBA pixels
_COMPLEX = (32, 1792, 2048)
_UNITS = {1: ("mm", 1000.0), 2: ("mm", 1.0), 3: ("um", 1.0)}
_GEOMETRY = ("qform_code", "sform_code", "quatern", "qoffset", "srow", "pixdim", "xyzt_units")


def read_nifti(path: Path) -> Image:
    """The image of a .nii, .nii.gz, .hdr or .img file.

    Values come out scaled (slope and intercept of the header). The sform counts before the qform; a header with neither
    lies at the origin with its axes along LPS, as ITK has it. The fourth axis is time, the fifth channels.

    Raises
    ------
    ImageError : damaged, cut off, not NIfTI, complex numbers
    """
    with reading(path, "NIfTI"):
        header_path = path.with_suffix(".hdr") if path.suffix.lower() == ".img" else path
        header = _read_header(header_path)
        shape = _shape(path, header)
        notices: list[str] = []
        data, axes = _read_data(_data_path(header_path, header), header, shape)
        spatial = data.shape[len(axes.rstrip("ZYX")) :]
        geometry = {name: header[name].tolist() for name in _GEOMETRY}
        grid = _grid(geometry, spatial, notices)
        if grid.is_sheared:
            notices.append(f"{file_name(path)} has sheared axes (its sform is no rotation); they are kept as they are.")
        metadata = {"format": "NIfTI", "nifti": geometry, "notices": tuple(notices)}
        return Image(data, axes, grid, (), int(header["datatype"]) in _SAMPLES, file_name(path), metadata)


def write_nifti(image: Image, path: Path) -> None:
    """Write a .nii or .nii.gz file (NIfTI-1, or NIfTI-2 where an axis is longer than 32767).

    The matrices of an image that came from NIfTI go back as they were read; others get an sform, and a qform
    where the axes are at right angles.
    """
    samples = _for_file(image)
    layout = _NIFTI2 if max(samples.shape) > np.iinfo(np.int16).max else _NIFTI1
    header = np.zeros((), dtype=layout.newbyteorder("<"))
    header["sizeof_hdr"] = layout.itemsize
    header["magic"] = b"n+1" if layout is _NIFTI1 else b"n+2\0\r\n\x1a\n"
    header["vox_offset"] = layout.itemsize + 4
    sizes = samples.shape[:-1][::-1] if image.is_rgb else samples.shape[::-1]
    header["dim"] = [len(sizes), *sizes, *[1] * (7 - len(sizes))]
    header["datatype"] = 128 if image.is_rgb else _CODES[samples.dtype.str[1:]]
    header["bitpix"] = samples.dtype.itemsize * 8 * (3 if image.is_rgb else 1)
    header["scl_slope"] = 1
    for name, value in _geometry(image).items():
        header[name] = value
    content = header.tobytes() + bytes(4)
    body = little_endian(samples)
    with path.open("wb") as file:
        if path.name.lower().endswith(".gz"):
            # no name and no time in it, so equal labels give equal files
            with gzip.GzipFile("", "wb", compresslevel=4, fileobj=file, mtime=0) as packed:
                packed.write(content)
                packed.write(body)
        else:
            file.write(content)
            file.write(body)


def _is_packed(path: Path) -> bool:
    """Whether the file is gzip, whatever its name."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _read_header(path: Path) -> np.void:
    """The header as a structured scalar in its own byte order."""
    if _is_packed(path):
        with gzip.open(path) as packed:
            raw = packed.read(_NIFTI2.itemsize)
    else:
        with path.open("rb") as file:
            raw = file.read(_NIFTI2.itemsize)
    for layout, magics in ((_NIFTI1, (b"n+1", b"ni1")), (_NIFTI2, (b"n+2", b"ni2"))):
        for dtype in (layout.newbyteorder("<"), layout.newbyteorder(">")):
            if len(raw) < layout.itemsize:
                continue
            header: np.void = np.frombuffer(raw[: layout.itemsize], dtype)[0]
            if header["sizeof_hdr"] == layout.itemsize and header["magic"][:3] in magics:
                return header
    size = path.stat().st_size
    raise ImageError(f"{file_name(path)} is no NIfTI file ({size:,} bytes without its header). "
                     "Give a .nii or .nii.gz file; Analyze 7.5 files can be converted with 3D Slicer.")


def _shape(path: Path, header: np.void) -> tuple[int, ...]:
    """Sizes as the header has them, x first, at most five; trailing 1s beyond the third are dropped."""
    n_axes = int(header["dim"][0])
    sizes = [int(n) for n in header["dim"][1 : max(0, n_axes) + 1]]
    if not 1 <= n_axes <= 7 or min(sizes) < 1:
        raise ImageError(f"{file_name(path)} has a nonsense header: its sizes are {header['dim'].tolist()}. "
                         "Export it again from the program that made it.")
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if not 2 <= len(sizes) <= 5:
        raise ImageError(f"{file_name(path)} has {len(sizes)} axes; 2 to 5 can be read. Take out a part of it first.")
    return tuple(sizes)


def _data_path(path: Path, header: np.void) -> Path:
    """The file that holds the voxels: the header's own, or the .img beside it."""
    if header["magic"][:2] != b"ni":
        return path
    for candidate in (path.with_suffix(".img"), path.with_suffix(".img.gz")):
        if candidate.is_file():
            return candidate
    raise ImageError(f"{file_name(path)} is the header of a pair, but its .img file is not beside it. "
                     "Put both into one folder.")


def _read_data(path: Path, header: np.void, sizes: tuple[int, ...]) -> tuple[NDArray[Any], str]:
    """Scaled voxels and their axes, in the order of `Image`."""
    code = int(header["datatype"])
    if code not in _DTYPES:
        what = "complex numbers" if code in _COMPLEX else f"values of NIfTI type {code}"
        raise ImageError(f"{file_name(path)} holds {what}; whole or real numbers are expected. "
                         "Write its magnitude to a file of its own.")
    dtype = np.dtype(_DTYPES[code]).newbyteorder(header.dtype["dim"].base.byteorder)
    samples = _SAMPLES.get(code, 1)
    offset = int(header["vox_offset"]) if np.isfinite(header["vox_offset"]) else -1
    if offset < 0:
        raise ImageError(f"{file_name(path)} has a nonsense header: its voxels begin at {offset}. Export it again.")
    count = int(np.prod([*sizes, samples], dtype=object))
    if _is_packed(path):
        values = read_payload(Payload(path, 0, dtype, count, "gzip", offset))
    else:
        values = read_payload(Payload(path, offset, dtype, count))
    axes = "CTZYX"[5 - len(sizes) :]
    data = values.reshape(*sizes[::-1], samples)
    if samples == 1:
        data = _scaled(data[..., 0], header)
    elif len(sizes) == 5:
        raise ImageError(f"{file_name(path)} has colours and a fifth axis; that cannot be read. Take out a part of it.")
    else:
        data, axes = data[..., :3], axes + "C"
    order = [axes.index(letter) for letter in "TCZYX" if letter in axes]
    data, axes = data.transpose(order), "".join(axes[i] for i in order)
    return (data[0], axes[1:]) if axes.startswith("TC") and len(data) == 1 else (data, axes)


def _scaled(data: NDArray[Any], header: np.void) -> NDArray[Any]:
    """Values times slope plus intercept where the header asks for it; float32 for short integers, else float64."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope == 0 or not np.isfinite([slope, intercept]).all() or (slope, intercept) == (1, 0):
        return data
    is_short = data.dtype.itemsize <= 2 or data.dtype == np.float32
    values: NDArray[Any] = data.astype(np.float32 if is_short else np.float64)
    np.multiply(values, slope, out=values)
    np.add(values, intercept, out=values)
    return values


def _grid(geometry: dict[str, Any], shape: tuple[int, ...], notices: list[str]) -> Grid:
    """Where the header puts the voxels, in LPS."""
    unit, factor = _UNITS.get(int(geometry["xyzt_units"]) & 7, ("mm", 1.0))
    pixdim = np.abs(np.array(geometry["pixdim"][1:4], dtype=np.float64))
    if not (np.isfinite(pixdim).all() and pixdim[: len(shape)].all()):
        notices.append("The header gives no voxel size; 1 mm is taken.")
    pixdim = np.where(np.isfinite(pixdim) & (pixdim > 0), pixdim, 1.0)
    srow = np.array(geometry["srow"], dtype=np.float64)
    is_of_patient = True
    if geometry["sform_code"] > 0 and _is_regular(srow):
        affine = ras_lps(np.vstack([srow, [0, 0, 0, 1]]))
    elif geometry["qform_code"] > 0 and np.isfinite([*geometry["quatern"], *geometry["qoffset"]]).all():
        affine = ras_lps(_qform(geometry, pixdim))
    else:
        affine, is_of_patient = np.diag([*pixdim, 1.0]), False
    columns = np.linalg.norm(affine[:3, :3], axis=0)
    # float32 rows give 0.90000004 where the header's own voxel size says 0.9
    affine[:3, :3] *= np.where(np.isclose(columns, pixdim, rtol=1e-5), pixdim / columns, 1.0)
    affine[:3] *= factor
    return grid_lps(shape, affine, unit, is_of_patient)


def _is_regular(srow: NDArray[np.float64]) -> bool:
    """Whether the matrix is finite and its columns are independent."""
    if not np.isfinite(srow).all():
        return False
    lengths = np.linalg.norm(srow[:, :3], axis=0)
    return bool(lengths.all()) and abs(float(np.linalg.det(srow[:, :3] / lengths))) > 1e-6


def _qform(geometry: dict[str, Any], pixdim: NDArray[np.float64]) -> NDArray[np.float64]:
    """Voxel-to-RAS matrix of the quaternion, (4, 4)."""
    b, c, d = (float(value) for value in geometry["quatern"])
    a = np.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    length = np.sqrt(a * a + b * b + c * c + d * d)
    a, b, c, d = a / length, b / length, c / length, d / length
    affine = np.eye(4)
    affine[:3, :3] = [
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ]
    handedness = -1.0 if geometry["pixdim"][0] < 0 else 1.0
    affine[:3, :3] *= pixdim * [1.0, 1.0, handedness]
    affine[:3, 3] = geometry["qoffset"]
    return affine


def _for_file(image: Image) -> NDArray[Any]:
    """The voxels with axes (C, T, Z, Y, X), leading ones left out where the image has none; colours last."""
    data = image.data
    if data.dtype == bool or data.dtype == np.float16:
        data = data.astype(np.uint8 if data.dtype == bool else np.float32)
    present = image.axes
    if image.is_rgb:
        data = np.moveaxis(data, present.index("C"), -1)
        present = present.replace("C", "") + "C"
        if data.dtype != np.uint8:
            raise ImageError(f"NIfTI keeps colours as uint8, not {data.dtype}. Convert the picture first.")
        wanted = "TZYXC"
    else:
        wanted = "CTZYX"
        data = data.transpose([present.index(letter) for letter in wanted if letter in present])
    first = min(wanted.index(letter) for letter in present)
    kept = wanted[first:]
    lengths = dict(zip((letter for letter in wanted if letter in present), data.shape, strict=True))
    return data.reshape([lengths.get(letter, 1) for letter in kept])


def _geometry(image: Image) -> dict[str, Any]:
    """The header's geometry fields: those it was read with while they still say where the image lies, else new ones."""
    stored = image.metadata.get("nifti")
    if stored is not None and _grid(stored, image.grid.shape, []).is_close(image.grid):
        return dict(stored)
    affine = ras_of(image.grid)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    rotation = affine[:3, :3] / spacing
    handedness = -1.0 if np.linalg.det(rotation) < 0 else 1.0
    is_rigid = not image.grid.is_sheared
    return {
        "qform_code": int(is_rigid),
        "sform_code": 1,
        "quatern": _quaternion(rotation * [1.0, 1.0, handedness]) if is_rigid else (0.0, 0.0, 0.0),
        "qoffset": affine[:3, 3],
        "srow": affine[:3],
        "pixdim": [handedness, *spacing, 1.0, 1.0, 1.0, 1.0],
        "xyzt_units": {"mm": 2, "um": 3}.get(image.grid.unit, 0),
    }


def _quaternion(rotation: NDArray[np.float64]) -> tuple[float, float, float]:
    """Parts b, c, d of the unit quaternion (a >= 0) of a rotation matrix."""
    # The eigenvector of the largest eigenvalue of this symmetric matrix is the quaternion (Bar-Itzhack 2000,
    # doi:10.2514/2.4654); unlike the formulas by cases it is steady near half turns
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    matrix = np.array([
        [xx + yy + zz, zy - yz, xz - zx, yx - xy],
        [zy - yz, xx - yy - zz, yx + xy, zx + xz],
        [xz - zx, yx + xy, yy - xx - zz, zy + yz],
        [yx - xy, zx + xz, zy + yz, zz - xx - yy],
    ])  # fmt: skip
    vector = np.linalg.eigh(matrix)[1][:, -1]
    _, b, c, d = vector if vector[0] >= 0 else -vector
    return float(b), float(c), float(d)

"""PNG, JPEG and BMP pictures, and bare NumPy arrays.

Their resolution fields are written by photo programs and not believed: the unit is pixels. An EXIF orientation is not
applied, since napari and 3D Slicer show the picture as it is stored and labels have to lie on what is shown.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from mambaseg._errors import ImageError
from mambaseg.image import Image
from mambaseg.io._guard import check_claim, file_name, reading, sniff
from mambaseg.io.npy_lock import NPY_LOCK

__all__ = ["read_npy", "read_raster", "write_png"]

MAX_PIXELS = 2 * (Pillow.MAX_IMAGE_PIXELS or 89_478_485)  # where Pillow refuses, as a guard against bombs
_EXIF_ORIENTATION = 0x0112
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F")


def read_raster(path: Path, keep_palette: bool = False) -> Image:
    """The picture of a .png, .jpg or .bmp file; grey, or colours as red, green, blue; alpha is dropped.

    Parameters
    ----------
    path : file to read
    keep_palette : a palette picture gives its indices (label pictures keep their classes so), not its colours

    Raises
    ------
    ImageError : damaged, cut off, another format, more than 178 million pixels
    """
    kind = sniff(path)
    if kind not in ("PNG", "JPEG", "BMP"):
        has = f"is a {kind} file by its content" if kind else f"is no picture ({path.stat().st_size:,} bytes)"
        raise ImageError(f"{file_name(path)} {has}, but is named as PNG, JPEG or BMP. Give it the name of what it is.")
    notices: list[str] = []
    with reading(path, kind), _open(path, kind) as picture:
        n_bytes = math.prod(picture.size) * len(picture.getbands())
        check_claim(path, n_bytes, path.stat().st_size, is_compressed=True)
        deep = _read_deep_colours(path) if kind == "PNG" else None
        if picture.getexif().get(_EXIF_ORIENTATION, 1) != 1:
            notices.append(f"{file_name(path)} asks to be turned when shown; its pixels are taken as they are stored.")
        if getattr(picture, "n_frames", 1) > 1:
            notices.append(f"{file_name(path)} holds {getattr(picture, 'n_frames', 1)} pictures; the first is taken.")
        data = deep if deep is not None else _pixels(picture, keep_palette)
        image = Image.from_array(data, "YX" if data.ndim == 2 else "YXS")
        metadata = {"format": kind, "notices": tuple(notices)}
        return Image(image.data, image.axes, image.grid, (), image.is_rgb, file_name(path), metadata)


def read_npy(path: Path) -> Image:
    """The array of a .npy file with its axes guessed; objects are never unpickled.

    Raises
    ------
    ImageError : damaged, cut off, not an array of numbers
    """
    with reading(path, "NumPy"):
        # The map reads the header only, and fails where the file is shorter than the header says
        with NPY_LOCK:
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        array = np.array(mapped)
        image = Image.from_array(array.astype(array.dtype.newbyteorder("="), copy=False))
        return Image(image.data, image.axes, image.grid, (), image.is_rgb, file_name(path), {"format": "NumPy"})


def write_png(image: Image, path: Path) -> None:
    """Write a .png file; grey uint8 or uint16, or RGB uint8.

    Raises
    ------
    ImageError : anything else
    """
    data = np.moveaxis(image.data, 0, -1) if image.is_rgb else image.data
    allowed = (np.uint8,) if image.is_rgb else (np.uint8, np.uint16)
    if image.axes != ("CYX" if image.is_rgb else "YX") or data.dtype not in allowed:
        raise ImageError("A PNG holds a grey picture of uint8 or uint16 or an RGB picture of uint8, not "
                         f"{image.axes} of {data.dtype}. Write it as {path.stem}.tif.")
    Pillow.fromarray(np.ascontiguousarray(data)).save(path, format="PNG")


def _open(path: Path, kind: str) -> Pillow.Image:
    """Open a picture, unless it is too large to be shown as one."""
    try:
        return Pillow.open(path, formats=(kind,))
    except Pillow.DecompressionBombError as error:
        raise ImageError(f"{file_name(path)} claims more than the {MAX_PIXELS:,} pixels up to which {kind} pictures "
                         "are read. Save it as a tiled TIFF.") from error


def _read_deep_colours(path: Path) -> NDArray[Any] | None:
    """Pixels of a PNG with 16-bit colours or 16-bit grey and alpha, which Pillow cuts to 8 bits; None for others."""
    with path.open("rb") as file:
        head = file.read(26)
    depth, colour_type = head[24], head[25]
    if depth != 16 or colour_type not in (2, 4, 6):
        return None
    data: NDArray[Any] = imagecodecs.png_decode(path.read_bytes())
    return data[..., 0] if colour_type == 4 else data


def _pixels(picture: Pillow.Image, keep_palette: bool) -> NDArray[Any]:
    """(y, x) grey or (y, x, 3) colours."""
    if picture.mode == "P" and keep_palette:
        return np.array(picture)
    if picture.mode not in _GREY:
        return np.array(picture.convert("RGB"))
    data = np.array(picture)
    if picture.mode in ("LA", "La"):
        return data[..., 0]
    # Pillow keeps 16-bit grey in 32 bits in some versions
    return data.astype(np.uint16) if picture.mode == "I" and data.min() >= 0 and data.max() <= 0xFFFF else data

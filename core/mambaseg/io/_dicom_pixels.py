"""Pixels of DICOM files: unpacked, complete, and with the scale that belongs to them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.encaps import generate_frames
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from mambaseg._errors import ImageError
from mambaseg.io._guard import check_claim, file_name

__all__ = ["Pixels", "read_pixels"]

# What Pillow cannot unpack for pydicom. The names are DICOM's: JPEG lossless, JPEG-LS, JPEG 2000
_UNPACK = {
    "1.2.840.10008.1.2.4.57": imagecodecs.ljpeg_decode,
    "1.2.840.10008.1.2.4.70": imagecodecs.ljpeg_decode,
    "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_decode,
    "1.2.840.10008.1.2.4.81": imagecodecs.jpegls_decode,
    "1.2.840.10008.1.2.4.90": imagecodecs.jpeg2k_decode,
    "1.2.840.10008.1.2.4.91": imagecodecs.jpeg2k_decode,
}
_PIXEL_DATA = b"\xe0\x7f\x10\x00"
_DELIMITER = b"\xfe\xff\xdd\xe0"
_GREY = ("MONOCHROME1", "MONOCHROME2")
_PIXEL_TAGS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


@dataclass(frozen=True)
class Pixels:
    """Stored values, (y, x), (y, x, 3) or with frames first; scale (slope, intercept) where it is not the plane's."""

    values: NDArray[Any]
    scale: tuple[float, float] | None
    is_colour: bool

    def split(self) -> list[Pixels]:
        """One for each frame."""
        return [Pixels(frame, self.scale, self.is_colour) for frame in self.values]


def read_pixels(path: Path) -> Pixels:
    """All pixels of a file.

    Raises
    ------
    ImageError : without pixels, cut off, a packing that cannot be read
    """
    dataset = pydicom.dcmread(path, force=True)
    if not any(tag in dataset for tag in _PIXEL_TAGS):
        uid = dataset.get("SOPClassUID")
        raise ImageError(f"{file_name(path)} has no pixels (it is {getattr(uid, 'name', 'of an unknown kind')}). "
                         "Give a file with an image, or copy it again.")
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:  # files without a preamble
        syntax = ImplicitVRLittleEndian if dataset.original_encoding[0] else ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = syntax
    _check_size(path, dataset, syntax)
    values = _unpack(path, dataset, str(syntax))
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    is_colour = int(dataset.get("SamplesPerPixel", 1)) == 3
    if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
        values, is_colour = apply_color_lut(values, dataset)[..., :3], True
    if "ModalityLUTSequence" in dataset:
        return Pixels(apply_modality_lut(values, dataset), (1.0, 0.0), is_colour)
    return Pixels(values, (1.0, 0.0) if is_colour else None, is_colour)


def _check_size(path: Path, dataset: Any, syntax: Any) -> None:
    """The header's claim against what is there."""
    n_frames = int(dataset.get("NumberOfFrames", 1) or 1)
    # 4:2:2 colours share chroma between two pixels
    n_samples = 2 if dataset.get("PhotometricInterpretation") == "YBR_FULL_422" else dataset.get("SamplesPerPixel", 1)
    n_values = int(dataset.Rows) * int(dataset.Columns) * int(n_samples) * n_frames
    n_bytes = (n_values * int(dataset.BitsAllocated) + 7) // 8
    if n_bytes <= 0:
        raise ImageError(f"{file_name(path)} has no pixels: its size is {dataset.Rows} x {dataset.Columns}. "
                         "Copy or export it again.")
    is_packed = bool(syntax.is_compressed)
    check_claim(path, n_bytes, path.stat().st_size, is_packed or syntax == DeflatedExplicitVRLittleEndian)
    if is_packed:
        # Decoders fill what is missing of a packed picture with grey; the end mark of the data tells that all is there
        content = path.read_bytes()
        if _DELIMITER not in content[max(0, content.rfind(_PIXEL_DATA)) :]:
            raise ImageError(f"{file_name(path)} is cut off: its packed pixels have no end. Copy or export it again.")


def _unpack(path: Path, dataset: Any, syntax: str) -> NDArray[Any]:
    """Stored values, by pydicom where it has a decoder for the packing."""
    try:
        return np.asarray(pixel_array(dataset))
    except RuntimeError as error:  # what pydicom raises where it has no decoder, or that fails
        unpack = _UNPACK.get(syntax)
        if unpack is None or dataset.get("PhotometricInterpretation") not in (*_GREY, "RGB"):
            name = getattr(dataset.file_meta.TransferSyntaxUID, "name", syntax)
            raise ImageError(f"{file_name(path)} is packed as {name}, which cannot be unpacked here. "
                             "Save it uncompressed, for example with dcmdjpeg or 3D Slicer.") from error
    n_frames = int(dataset.get("NumberOfFrames", 1) or 1)
    frames = [np.asarray(unpack(frame)) for frame in generate_frames(dataset.PixelData, number_of_frames=n_frames)]
    shape = (int(dataset.Rows), int(dataset.Columns))
    if len(frames) != n_frames or any(frame.shape[:2] != shape for frame in frames):
        raise ImageError(f"{file_name(path)} holds other pixels than its header says. Copy or export it again.")
    values = np.stack(frames) if n_frames > 1 else frames[0]
    return _signed(values, int(dataset.BitsStored)) if dataset.PixelRepresentation == 1 else values


def _signed(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """Two's complement of `bits` bits in unsigned numbers, as signed ones."""
    if values.dtype.kind == "i":
        return values
    shift = values.dtype.itemsize * 8 - bits
    signed = values.view(values.dtype.str.replace("u", "i"))
    return (signed << shift) >> shift

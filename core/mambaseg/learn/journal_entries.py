"""What the journal says about a stroke and about the image it is on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mambaseg.image import Image

__all__ = ["PLANES", "ImageIdentity", "Stroke", "identify"]

PLANES = ("labels", "baseline", "marks")


@dataclass(frozen=True)
class ImageIdentity:
    """Which image the strokes are on, whatever file it came from.

    Parameters
    ----------
    checksum : SHA-256 of the pixels with their type, axes and shape, hexadecimal
    shape : of the labels: the image's axes without channels
    axes : of the labels, as in "TZYX"
    spacing : size of a voxel per spatial axis (z, y, x), in `unit`
    unit : "mm", "um" or "px"
    origin_xyz, direction : as in `mambaseg.Grid`
    name : file name for people; empty for DICOM, whose file names may tell who the patient is
    """

    checksum: str
    shape: tuple[int, ...]
    axes: str
    spacing: tuple[float, ...]
    unit: str
    origin_xyz: tuple[float, ...]
    direction: tuple[float, ...]
    name: str = ""

    def to_json(self) -> str:
        """As one line of text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> ImageIdentity:
        """The identity that `to_json` wrote."""
        values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value
                                  for name, value in json.loads(text).items()}
        return cls(**values)


@dataclass(frozen=True)
class Stroke:
    """One recorded difference.

    Parameters
    ----------
    sequence : its number among all strokes of the project, from 1, in the order in which they reached the disk
    image : checksum of the image it is on
    time_s : when, in seconds since 1970
    tool : what the front end called it ("brush", "undo", ...); "prediction", "confirm" and "unlock" are the program's
    author : which process and window wrote it
    n_voxels : how many voxels changed
    """

    sequence: int
    image: str
    time_s: float
    tool: str
    author: str
    n_voxels: int


def identify(image: Image) -> ImageIdentity:
    """The identity of an image: the same for the same pixels, wherever they lie and whatever the file is called."""
    digest = hashlib.sha256(f"{image.axes} {image.data.shape} {image.data.dtype.newbyteorder('<').str}".encode())
    for part in image.data:
        digest.update(np.ascontiguousarray(part, part.dtype.newbyteorder("<")).data)
    kept = [i for i, axis in enumerate(image.axes) if axis != "C"]
    is_dicom = str(image.metadata.get("format", "")).lower().startswith("dicom")
    name = "" if is_dicom or image.source is None else Path(image.source).name
    grid = image.grid
    return ImageIdentity(digest.hexdigest(), tuple(image.data.shape[i] for i in kept), image.axes.replace("C", ""),
                         grid.spacing, grid.unit, grid.origin_xyz, grid.direction, name)

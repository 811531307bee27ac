"""An image on its way to the child, through a file that both can read piece by piece."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mambaseg._errors import UserError
from mambaseg.image import Grid, Image
from mambaseg.progress import Clock, Progress, ProgressCallback, report

__all__ = ["read_image", "write_image", "write_stand_in"]

_BLOCK_BYTES = 2**26
_SAMPLE_SIDE = 64  # voxels an axis
_KEPT_METADATA = ("format", "notices")  # all that a segmentation looks at


def write_image(folder: Path, image: Image | NDArray[Any], name: str = "image",
                progress: ProgressCallback | None = None) -> str:
    """Write an image into a job's folder; the name that a request calls it by.

    Parameters
    ----------
    image : an Image, or an array whose axes are guessed. The data of an Image may be lazy (dask, zarr): anything with
        shape, dtype and slices. It is copied block by block, so memory stays bounded; call this from any thread
    name : stem of the files; an image of this name is replaced
    progress : called after each block; raising `Cancelled` in it stops the copy and removes what was written

    Raises
    ------
    UserError : there is no room for it
    """
    image = image if isinstance(image, Image) else Image.from_array(image)
    path = folder / f"{name}.npy"
    try:
        _check_room(folder, image.data)
        _copy(image.data, path, progress)
        (folder / f"{name}.json").write_text(json.dumps(_describe(image)), encoding="utf-8")
    except OSError as error:
        path.unlink(missing_ok=True)
        raise UserError(f"A copy of the image cannot be written to {folder}: {error.strerror or error} (about "
                        f"{_n_bytes(image.data) / 1e6:.0f} MB are needed). Make room there, or choose a part of the "
                        "image.") from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return name


def write_stand_in(folder: Path, image: Image, name: str = "image") -> str:
    """Write a hollow image for the task "estimate": as large as `image`, but only a small part of it is read and real.

    Parameters
    ----------
    image, name : as for `write_image`

    Raises
    ------
    UserError : it cannot be written
    """
    data = image.data
    middle = tuple(slice(max(0, (size - _SAMPLE_SIDE) // 2), (size + _SAMPLE_SIDE) // 2) for size in data.shape)
    try:
        hollow = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.dtype(data.dtype), tuple(data.shape))
        sample = np.asarray(data[middle])
        hollow[middle] = sample
        # No corner is empty, so that a model which crops away what is 0 keeps all of it
        hollow.reshape(-1)[[0, -1]] = sample.max() or 1
        del hollow
        (folder / f"{name}.json").write_text(json.dumps(_describe(image)), encoding="utf-8")
    except OSError as error:
        raise UserError(f"Nothing can be written to {folder}: {error.strerror or error}. Make room there.") from error
    return name


def read_image(folder: Path, name: str) -> Image:
    """The image that `write_image` wrote; its data are mapped from the file, not read."""
    values = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    grid = Grid(**values["grid"])
    data = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    return Image(data, values["axes"], grid, tuple(values["channel_names"]), values["is_rgb"], values["source"],
                 values["metadata"])


def _describe(image: Image) -> dict[str, Any]:
    """All but the pixels, as plain values."""
    metadata = {key: image.metadata[key] for key in _KEPT_METADATA if key in image.metadata}
    return {"axes": image.axes, "grid": asdict(image.grid), "channel_names": image.channel_names,
            "is_rgb": image.is_rgb, "source": image.source, "metadata": metadata}


def _n_bytes(data: Any) -> int:
    return math.prod(int(side) for side in data.shape) * int(np.dtype(data.dtype).itemsize)


def _check_room(folder: Path, data: Any) -> None:
    """Tell at once that an image will not fit, instead of after minutes of copying."""
    if shutil.disk_usage(folder).free < _n_bytes(data):
        raise OSError(0, "there is too little room")


def _copy(data: Any, path: Path, progress: ProgressCallback | None) -> None:
    """Write lazy data as a .npy file.

    Ordinary writes, not a memory map: on a full disk those raise an error where a map would end the process.
    """
    shape, dtype = tuple(int(side) for side in data.shape), np.dtype(data.dtype)
    blocks = list(_blocks(shape, _block_shape(shape, dtype.itemsize, getattr(data, "chunks", None))))
    clock = Clock(len(blocks))
    with path.open("wb") as file:
        np.lib.format.write_array_header_2_0(
            file, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
        first = file.tell()
        for done, block in enumerate(blocks, 1):
            _write_block(file, first, shape, block, np.ascontiguousarray(data[block], dtype))
            report(progress, Progress("Copying", done, len(blocks), seconds_left=clock.seconds_left(done)))


def _write_block(file: IO[bytes], first: int, shape: Sequence[int], block: tuple[slice, ...],
                 values: NDArray[Any]) -> None:
    """Write a block where it belongs; axes that it spans whole are written in one go."""
    n_looped = len(shape)
    while n_looped > 0 and values.shape[n_looped - 1] == shape[n_looped - 1]:
        n_looped -= 1
    n_looped = max(0, n_looped - 1)
    strides = [math.prod(shape[axis + 1:]) for axis in range(len(shape))]
    for index in np.ndindex(values.shape[:n_looped]):
        position = (*index, *(0,) * (len(shape) - n_looped))
        offset = sum((part.start + i) * stride for part, i, stride in zip(block, position, strides, strict=True))
        file.seek(first + offset * values.itemsize)
        file.write(values[index].reshape(-1).view(np.uint8).data)


def _block_shape(shape: tuple[int, ...], itemsize: int, chunks: Any) -> tuple[int, ...]:
    """Sides of the blocks to copy: whole chunks of the source, as many as fit, along the last axes first."""
    sides = [1] * len(shape)
    if chunks is not None:  # a number an axis in zarr, all lengths in dask
        sides = [int(max(chunk)) if isinstance(chunk, tuple | list) else int(chunk) for chunk in chunks]
    sides = [max(1, min(side, size)) for side, size in zip(sides, shape, strict=True)]
    for axis in reversed(range(len(shape))):
        n_fitting = max(1, _BLOCK_BYTES // (math.prod(sides) * itemsize))
        sides[axis] = min(shape[axis], sides[axis] * n_fitting)
        if sides[axis] < shape[axis]:
            break
    return tuple(sides)


def _blocks(shape: tuple[int, ...], sides: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Blocks that tile an array."""
    ranges = [range(0, size, side) for size, side in zip(shape, sides, strict=True)]
    for starts in product(*ranges):
        yield tuple(slice(start, min(size, start + side))
                    for start, side, size in zip(starts, sides, shape, strict=True))

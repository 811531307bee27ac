"""Label arrays in compressed blocks, and the changes of a block: what the journal keeps and compares with."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from imagecodecs import zstd_decode, zstd_encode  # six times as quick as zlib on labels, and smaller
from numpy.typing import NDArray

__all__ = ["EMPTY", "MAX_LABEL", "BlockGrid", "Box", "apply_change", "constant_of", "decode_block", "decode_change",
           "encode_block", "encode_change"]

Box = tuple[slice, ...]

MAX_LABEL = 2**31 - 2  # a mark holds a label + 1 with a sign in 32 bits
_SIDES = {1: 2**18, 2: 512, 3: 64}  # of a block, by the number of axes it spans: a quarter of a million voxels
_CODES = "BHbhi"  # what a block's or a column's values are stored as; the first that holds them all
_RANGES = {code: np.iinfo(code) for code in _CODES}
_CONSTANT, _VALUES = b"c", b"v"


@dataclass(frozen=True)
class BlockGrid:
    """An array cut into blocks, numbered in C order.

    Parameters
    ----------
    shape : of the array; the last three axes are cut into blocks, those before (time) at every step
    """

    shape: tuple[int, ...]

    @property
    def block_shape(self) -> tuple[int, ...]:
        """Largest shape of a block; blocks at the far edges are smaller."""
        n_cut = min(len(self.shape), 3)
        return (1,) * (len(self.shape) - n_cut) + (_SIDES[n_cut],) * n_cut

    @property
    def counts(self) -> tuple[int, ...]:
        """Blocks along each axis."""
        return tuple(-(-extent // side) for extent, side in zip(self.shape, self.block_shape, strict=True))

    def place(self, number: int) -> Box:
        """Where block `number` lies in the array."""
        corner = [int(index) * side for index, side in
                  zip(np.unravel_index(number, self.counts), self.block_shape, strict=True)]
        return tuple(slice(start, min(start + side, extent))
                     for start, side, extent in zip(corner, self.block_shape, self.shape, strict=True))

    def touching(self, box: Box) -> Iterator[tuple[int, Box, Box]]:
        """Each block that shares voxels with `box`: its number, the shared voxels in the array, and in the block."""
        if any(part.stop <= part.start for part in box):
            return
        spans = [range(part.start // side, (part.stop - 1) // side + 1)
                 for part, side in zip(box, self.block_shape, strict=True)]
        for index in np.ndindex(*[len(span) for span in spans]):
            corner = [span[i] for span, i in zip(spans, index, strict=True)]
            number = int(np.ravel_multi_index(corner, self.counts))
            place = self.place(number)
            shared = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(place, box, strict=True))
            yield number, shared, shifted(shared, place)

    def whole_box(self, box: Sequence[slice] | None) -> Box:
        """`box` cut to the array, every axis named; None: all of it."""
        given = (*(box or ()), *[slice(None)] * (len(self.shape) - len(box or ())))
        spans = [part.indices(extent) for part, extent in zip(given, self.shape, strict=True)]
        return tuple(slice(start, stop) for start, stop, _ in spans)


def shifted(inner: Box, outer: Box) -> Box:
    """`inner` counted from the first voxel of `outer`."""
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(inner, outer, strict=True))


def extent(box: Box) -> tuple[int, ...]:
    """Shape of the voxels in a box."""
    return tuple(max(0, part.stop - part.start) for part in box)


def _pack(raw: bytes) -> bytes:
    """Compressed bytes after their own checksum."""
    packed = bytes(zstd_encode(raw, level=1))
    return struct.pack("<I", zlib.crc32(packed)) + packed


def _unpack(data: bytes) -> bytes:
    """The bytes that `_pack` compressed; ValueError where they are not what they were."""
    if zlib.crc32(data[4:]) != struct.unpack("<I", data[:4])[0]:
        raise ValueError("the checksum does not fit the data")
    return bytes(zstd_decode(data[4:]))


def _code_for(values: NDArray[Any]) -> str:
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    return next(code for code in _CODES if _RANGES[code].min <= low and high <= _RANGES[code].max)


def encode_block(values: NDArray[np.int32]) -> bytes:
    """The values of a block, compressed; nine bytes where all are equal."""
    first = int(values.flat[0])
    if (values == first).all():
        return _CONSTANT + struct.pack("<q", first)
    code = _code_for(values)
    return _VALUES + code.encode() + _pack(values.astype(f"<{code}").tobytes())


EMPTY = encode_block(np.zeros(1, np.int32))


def constant_of(block: bytes) -> int | None:
    """The one value of an encoded block that has no other; else None."""
    return int(struct.unpack("<q", block[1:])[0]) if block[:1] == _CONSTANT else None


def decode_block(block: bytes, shape: tuple[int, ...]) -> NDArray[np.int32]:
    """The values that `encode_block` compressed, in an array of their own.

    Raises
    ------
    ValueError, struct.error : the bytes are damaged
    """
    constant = constant_of(block)
    if constant is not None:
        return np.full(shape, constant, np.int32)
    values = np.frombuffer(_unpack(block[2:]), f"<{block[1:2].decode()}")
    return values.astype(np.int32).reshape(shape)


def encode_change(index: NDArray[np.int64], old: NDArray[np.int32], new: NDArray[np.int32]) -> bytes:
    """Which voxels of a block went from which label to which, as compressed runs.

    Parameters
    ----------
    index : places in the flattened block, ascending, at least one
    old, new : labels before and after, one a place
    """
    breaks = (np.diff(index) != 1) | (np.diff(old) != 0) | (np.diff(new) != 0)
    first = np.concatenate([[0], np.flatnonzero(breaks) + 1])
    length = np.diff(np.append(first, len(index)))
    start = index[first]
    gap = start - np.concatenate([[0], (start + length)[:-1]])
    parts = [struct.pack("<I", len(first))]
    for column in (gap, length, old[first], new[first]):
        code = _code_for(column)
        parts += [code.encode(), column.astype(f"<{code}").tobytes()]
    return _pack(b"".join(parts))


def decode_change(change: bytes) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int32]]:
    """The places, old and new labels that `encode_change` was given.

    Raises
    ------
    ValueError, struct.error : the bytes are damaged
    """
    raw = _unpack(change)
    n_runs, at = struct.unpack_from("<I", raw)[0], 4
    columns = []
    for _ in range(4):
        kind = np.dtype(f"<{raw[at : at + 1].decode()}")
        columns.append(np.frombuffer(raw, kind, n_runs, at + 1).astype(np.int64))
        at += 1 + n_runs * kind.itemsize
    gap, length, old, new = columns
    start = np.cumsum(gap + np.concatenate([[0], length[:-1]]))
    before = np.cumsum(length) - length  # voxels in the runs before
    index = np.repeat(start - before, length) + np.arange(math.fsum(length), dtype=np.int64)
    return index, np.repeat(old, length).astype(np.int32), np.repeat(new, length).astype(np.int32)


def apply_change(change: bytes, values: NDArray[np.int32]) -> None:
    """Give the changed voxels of a decoded block (C order, changed in place) their new labels."""
    index, _, new = decode_change(change)
    values.reshape(-1)[index] = new

"""Image: pixels that know their axes, their size in the world and where they lie."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg._errors import ImageError

__all__ = ["AXES", "COLOURS", "UNITS", "Grid", "Image"]

AXES = "TCZYX"
UNITS = ("mm", "um", "px")
COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class Grid:
    """Where voxels lie: the spatial axes only, in the array's order (z, y, x) or (y, x).

    Parameters
    ----------
    shape : voxels per spatial axis
    spacing : distance of voxel centres per spatial axis, array order, in `unit`
    unit : "mm", "um" or "px" (not known)
    origin_xyz : world position of the first voxel's centre, x first, in `unit`; ITK's LPS frame for medical files;
        left out: zeros
    direction : row-major direction cosines as ITK keeps them (columns are the x, y, z index axes); left out: identity.
        The columns have length 1 and are independent; they are not at right angles where a scan is sheared
    is_of_patient : origin and direction are told in the patient's frame (LPS), as medical files do; False: nobody
        knows how a patient lies in the axes

    Raises
    ------
    ImageError : a length does not fit `shape`, a spacing is not positive and finite, an axis has no voxels
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    unit: str = "px"
    origin_xyz: tuple[float, ...] = ()
    direction: tuple[float, ...] = ()
    is_of_patient: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        n_axes = len(shape)
        if n_axes not in (2, 3):
            raise ImageError(f"An image has 2 or 3 spatial axes, not {n_axes}. Say what each axis is, as in 'CYX'.")
        if min(shape) < 1:
            raise ImageError(f"The image has no voxels: its shape is {_times(shape)}. Give an image with some in it.")
        if self.unit not in UNITS:
            raise ImageError(f"The unit {self.unit!r} is not known. Use one of {', '.join(UNITS)}.")
        identity = tuple(float(i == j) for i in range(n_axes) for j in range(n_axes))
        values = {
            "spacing": _numbers(self.spacing, n_axes, "spacing"),
            "origin_xyz": _numbers(self.origin_xyz or (0.0,) * n_axes, n_axes, "origin"),
            "direction": _numbers(self.direction or identity, n_axes**2, "direction"),
        }
        if min(values["spacing"]) <= 0:
            raise ImageError(f"The spacing {values['spacing']} is not possible. Give sizes above 0, one per axis.")
        if abs(np.linalg.det(np.reshape(values["direction"], (n_axes, n_axes)))) < 1e-6:
            raise ImageError("Two axes of the image point the same way. Correct the direction in its header.")
        object.__setattr__(self, "shape", shape)
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @property
    def ndim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return len(self.shape)

    @property
    def affine_xyz(self) -> NDArray[np.float64]:
        """Matrix from voxel index to world position, both x first; (ndim + 1, ndim + 1), float64, in `unit`."""
        affine = np.eye(self.ndim + 1)
        affine[:-1, :-1] = np.reshape(self.direction, (self.ndim, self.ndim)) * np.array(self.spacing[::-1])
        affine[:-1, -1] = self.origin_xyz
        return affine

    @property
    def is_sheared(self) -> bool:
        """Whether the axes are not at right angles to one another."""
        columns = np.reshape(self.direction, (self.ndim, self.ndim))
        return not np.allclose(columns.T @ columns, np.eye(self.ndim), atol=1e-3)

    @classmethod
    def from_affine(cls, shape: tuple[int, ...], affine_xyz: NDArray[np.float64], unit: str = "px",
                    is_of_patient: bool = False) -> Grid:
        """The grid of a matrix as `affine_xyz` gives it; `shape` in array order (z, y, x).

        Raises
        ------
        ImageError : the matrix has values that are not finite or a column of zeros
        """
        columns = np.asarray(affine_xyz, dtype=np.float64)[:-1, :-1]
        with np.errstate(all="ignore"):
            spacing_xyz = np.linalg.norm(columns, axis=0)
            direction = columns / spacing_xyz
        return cls(shape, tuple(spacing_xyz[::-1]), unit, tuple(affine_xyz[:-1, -1]), tuple(direction.ravel()),
                   is_of_patient)

    def is_close(self, other: Grid, tolerance: float = 1e-3) -> bool:
        """Whether both have the same shape and every corner lies within `tolerance` voxels of the other's."""
        if self.shape != other.shape or self.unit != other.unit:
            return False
        corners = np.array([*np.ndindex((2,) * self.ndim)]) * (np.array(self.shape[::-1]) - 1)
        points = np.c_[corners, np.ones(len(corners))].T
        distance = np.abs((self.affine_xyz - other.affine_xyz) @ points).max()
        return bool(distance <= tolerance * min(self.spacing)) and bool(
            np.allclose(self.spacing, other.spacing, rtol=tolerance)
        )


@dataclass(frozen=True)
class Image:
    """Pixels with named axes.

    Parameters
    ----------
    data : any numeric dtype, axes as `axes` says
    axes : subset of "TCZYX" in this order; "Y" and "X" always there. RGB pictures have C of length 3 and `is_rgb`
    grid : the spatial axes' geometry
    channel_names : one a channel; empty: not known
    is_rgb : the channels are the red, green and blue of a colour picture
    source : file name it was read from, for messages; None for arrays
    metadata : what a writer of the same family wants back (format name, header fields), never identity of a patient;
        "notices" holds sentences about what the reader had to decide

    Raises
    ------
    ValueError : the parts contradict one another (a caller's bug, so not a UserError)
    """

    data: NDArray[Any]
    axes: str
    grid: Grid
    channel_names: tuple[str, ...] = ()
    is_rgb: bool = False
    source: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.axes != "".join(letter for letter in AXES if letter in self.axes) or not self.axes.endswith("YX"):
            raise ValueError(f"axes {self.axes!r} are not a subset of {AXES!r} in this order with Y and X")
        if self.data.ndim != len(self.axes):
            raise ValueError(f"{self.data.ndim} array axes, but axes are {self.axes!r}")
        n_leading = len(self.axes.rstrip("ZYX"))
        if self.data.shape[n_leading:] != self.grid.shape:
            raise ValueError(f"array of {self.data.shape} {self.axes} does not lie on a grid of {self.grid.shape}")
        if self.channel_names and len(self.channel_names) != self.n_channels:
            raise ValueError(f"{len(self.channel_names)} channel names for {self.n_channels} channels")
        if self.is_rgb and self.n_channels != 3:
            raise ValueError(f"a colour picture has 3 channels, not {self.n_channels}")

    @classmethod
    def from_array(
        cls, array: NDArray[Any], axes: str | None = None, spacing: tuple[float, ...] | None = None, unit: str = "px"
    ) -> Image:
        """An image from a bare array.

        Parameters
        ----------
        array : numbers or booleans, 2 to 5 axes
        axes : one letter an axis in any order, of T, C, Z, Y, X and S (samples of a colour picture: S in place of C;
            a fourth sample is alpha and dropped). None guesses: YX; uint8 with 3 or 4 values along the last of
            three axes is a colour picture YXS; other arrays of three axes are ZYX, of four CZYX
        spacing : size of a voxel per spatial axis, in the order in which `axes` names them; None: 1
        unit : of `spacing`: "mm", "um" or "px"

        Raises
        ------
        ImageError : no numbers in the array, no voxels, axes that do not fit it
        """
        array = np.asarray(array)
        _check_numbers(array)
        given = _guess_axes(array) if axes is None else axes.upper()
        _check_axes(given, array)
        is_rgb = "S" in given or (given in ("YXC", "ZYXC") and array.shape[-1] == 3 and array.dtype == np.uint8)
        letters = given.replace("S", "C")
        order = [letters.index(letter) for letter in AXES if letter in letters]
        data = array.transpose(order)
        axes = "".join(letters[i] for i in order)
        if "S" in given:
            data = _take_three(data, axes)
        spatial = [letter for letter in letters if letter in "ZYX"]
        if spacing is not None and len(spacing) != len(spatial):
            raise ImageError(f"{len(spacing)} spacings were given for the {len(spatial)} axes {''.join(spatial)}. "
                             "Give one per axis.")
        sizes = dict(zip(spatial, spacing or (1.0,) * len(spatial), strict=True))
        shape = data.shape[data.ndim - len(spatial) :]
        grid = Grid(shape, tuple(sizes[letter] for letter in "ZYX" if letter in sizes), unit)
        return cls(data, axes, grid, (), is_rgb)

    @property
    def ndim(self) -> int:
        """Number of spatial axes, 2 or 3."""
        return self.grid.ndim

    @property
    def n_channels(self) -> int:
        """Length of the channel axis, 1 where there is none."""
        return int(self.data.shape[self.axes.index("C")]) if "C" in self.axes else 1

    @property
    def known_channels(self) -> tuple[str, ...]:
        """Names of the channels: their own, else the colours of a colour picture; empty: not known."""
        return self.channel_names or (COLOURS if self.is_rgb else ())

    @property
    def has_time(self) -> bool:
        """Whether there is a time axis."""
        return "T" in self.axes

    @property
    def n_frames(self) -> int:
        """Number of time points, 1 where there is no time axis."""
        return int(self.data.shape[0]) if self.has_time else 1

    @property
    def notices(self) -> tuple[str, ...]:
        """Sentences for people about what the reader had to decide; empty for most."""
        return tuple(self.metadata.get("notices", ()))

    def frames(self) -> Iterator[NDArray[Any]]:
        """Each time point as (channel, *spatial), a view; one for an image without a time axis."""
        data = self.data if self.has_time else self.data[np.newaxis]
        for frame in data:
            yield frame if "C" in self.axes else frame[np.newaxis]

    def with_data(self, data: NDArray[Any], axes: str | None = None, channel_names: tuple[str, ...] = ()) -> Image:
        """Other values on the same grid, as labels and probabilities are.

        Parameters
        ----------
        data : axes as `axes` says; None: this image's axes without C
        channel_names : of the new data

        Returns
        -------
        Image with this one's grid, source and metadata (without notices); never a colour picture
        """
        metadata = {key: value for key, value in self.metadata.items() if key != "notices"}
        kept = self.axes.replace("C", "") if axes is None else axes
        return Image(data, kept, self.grid, channel_names, False, self.source, metadata)

    def time_as_channels(self) -> Image:
        """The time points taken for channels: some 4-D NIfTI files keep an examination's sequences on the fourth axis.

        Raises
        ------
        ImageError : there is no time axis, or there are channels already
        """
        if not self.has_time or "C" in self.axes:
            raise ImageError(f"{self.source or 'The image'} has the axes {self.axes}; time can stand for channels only "
                             "where there are no channels. Give an image with one more axis than the spatial ones.")
        return Image(self.data, "C" + self.axes[1:], self.grid, (), False, self.source, self.metadata)


def _times(shape: tuple[int, ...]) -> str:
    """A shape for people: 3 x 4."""
    return " x ".join(str(n) for n in shape)


def _numbers(values: tuple[float, ...], n: int, name: str) -> tuple[float, ...]:
    """`n` finite floats."""
    numbers = tuple(float(value) for value in values)
    if len(numbers) != n or not all(math.isfinite(number) for number in numbers):
        raise ImageError(f"The image's {name} is {numbers}; {n} finite numbers are expected. Correct it and try again.")
    return numbers


def _check_numbers(array: NDArray[Any]) -> None:
    """Only real numbers, and some of them."""
    if array.dtype.kind not in "buif":
        raise ImageError(f"The array holds {array.dtype} values; whole or real numbers are expected. "
                         "Convert it, for example with array.astype('float32').")
    if array.size == 0:
        raise ImageError(f"The array has no voxels: its shape is {_times(array.shape)}. Give an image with some in it.")


def _guess_axes(array: NDArray[Any]) -> str:
    """What the axes of an array most probably are."""
    if array.ndim == 3 and array.shape[-1] in (3, 4) and array.dtype == np.uint8:
        return "YXS"
    guesses = {2: "YX", 3: "ZYX", 4: "CZYX"}
    if array.ndim not in guesses:
        raise ImageError(f"The array has {array.ndim} axes; 2 to 4 can be guessed. Say what they are, for example "
                         "axes='TCZYX'.")
    return guesses[array.ndim]


def _check_axes(axes: str, array: NDArray[Any]) -> None:
    """Known letters, each once, one an axis of the array."""
    letters = axes.replace("S", "C")
    if len(axes) != array.ndim:
        raise ImageError(f"The array has {array.ndim} axes ({_times(array.shape)}), but {axes!r} names {len(axes)}. "
                         "Give one letter per axis.")
    if len(set(letters)) != len(letters) or not {"Y", "X"} <= set(letters) <= set(AXES):
        raise ImageError(f"The axes {axes!r} are not understood. Use each of T, C, Z, Y, X at most once, with Y and X "
                         "(S in place of C for the samples of a colour picture).")
    if "S" in axes and array.shape[axes.index("S")] not in (3, 4):
        raise ImageError(f"A colour picture has 3 or 4 samples a pixel, not {array.shape[axes.index('S')]}. "
                         "Use C for channels that are not colours.")


def _take_three(data: NDArray[Any], axes: str) -> NDArray[Any]:
    """The first three channels: the fourth of a colour picture is alpha, which is no image."""
    return data[(slice(None),) * axes.index("C") + (slice(0, 3),)]

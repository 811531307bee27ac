"""Kinds of pictures: a signature of tones, colours and grain, and which of those known to a model a picture is like.

Fluorescence, stained tissue and phase contrast differ in these more than pictures of one kind do among themselves. So a
network that was taught one kind need not answer for the others (an expert gate, arXiv:1611.06194, on plain statistics
instead of a trained autoencoder).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["LENGTH", "Signatures", "is_like", "is_new", "representatives", "signature"]

Signatures = tuple[tuple[float, ...], ...]

LENGTH = 20
_SIDE = 128  # voxels, of the windows that a signature looks at
_N_ALONG = 3  # windows along an axis that is longer
_SHARES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
_SCALES = (1.0, 2.0, 4.0, 8.0)  # voxels
_FEWEST = 4  # known pictures; fewer do not tell how far apart pictures of one kind are
# Near is what three of four known pictures have another one within, and a quarter more. So measured from 64
# representatives of 500 nuclei pictures in standard deviations, near is 0.6; nine of ten held-back ones are within
# 0.46, and phase contrast begins at 0.52 with a median of 0.70. For the hippocampus these are 0.51, 0.44 and 1.8.
_NEAR_SHARE, _NEAR_MARGIN = 0.75, 1.25
_LEAST_NEAR = 0.4  # where few and much the same pictures are known
_KIND_REACH = 2.0  # times near: one tissue picture takes along 70 % of the others and 4 % of fluorescence
# A stranger is three times near from all known kinds, and may be this many times as far from what was taught. For a
# model that saw fluorescence alone, one tissue picture takes along 92 % of the others rather than 82 %, and no
# fluorescence either way (means over 92). Wider, and `nuclei-2d` loses its oddest tissue picture to phase contrast.
_STRANGE, _STRANGER_REACH = 3.0, 1.5
_LEAST_SPREAD = 0.2  # pictures of one kind differ by this anyhow, even where those known do not


def signature(frame: NDArray[np.generic]) -> tuple[float, ...]:
    """What kind of picture this is, `LENGTH` numbers: quantiles of the tone, hue, and strength and skew of the grain.

    Brightness and contrast as a whole do not matter; magnification does. A volume is looked at slice by slice.

    Parameters
    ----------
    frame : (channel, *spatial), raw values; three channels may be colours
    """
    windows = [np.nan_to_num(np.asarray(frame[(slice(None), *box)], np.float64), posinf=0.0, neginf=0.0)
               for box in _boxes(frame.shape[1:])]
    voxels = np.concatenate([window.reshape(len(frame), -1) for window in windows], 1)
    grey = voxels.mean(0)
    mean, spread = float(grey.mean()), max(float(grey.std()), 1e-6)
    hues = (voxels - grey).mean(1) / spread if len(voxels) == 3 else np.zeros(3)
    tones = (np.quantile(grey, _SHARES) - mean) / spread
    colour = float(voxels.std(0).mean()) / spread
    grain = np.mean([_grain((window.mean(0) - mean) / spread) for window in windows], 0)
    return tuple(round(float(value), 3) for value in (*tones, colour, *hues, *grain))


def _boxes(shape: tuple[int, ...]) -> Iterator[tuple[slice | int, ...]]:
    """Windows of a plane, evenly spread; in volumes of some slices, evenly spread."""
    sides = [*([1] * (len(shape) - 2)), _SIDE, _SIDE]
    starts = [np.linspace(0, max(0, size - side), _N_ALONG if size > side else 1).astype(int)
              for size, side in zip(shape, sides, strict=True)]
    for corner in itertools.product(*starts):
        plane = tuple(slice(int(start), int(start) + _SIDE) for start in corner[-2:])
        yield (*map(int, corner[:-2]), *plane)


def _grain(plane: NDArray[np.float64]) -> list[float]:
    """Logarithm of the strength, and skew, of what lies between one scale and the next; strength of the rest."""
    from scipy import ndimage  # slow to import, and most who read a model's description do not come here

    found, finer = [], plane
    for scale in _SCALES:
        coarser = ndimage.gaussian_filter(plane, scale)
        band = finer - coarser
        spread = float(band.std())
        found += [np.log(spread + 1e-3), float((band**3).mean()) / (spread**3 + 1e-6)]
        finer = coarser
    return [*found, np.log(float(finer.std()) + 1e-3)]


def representatives(signatures: Sequence[Sequence[float]], n_most: int = 64) -> Signatures:
    """Some that stand for all: each picture has one of them near (the farthest is taken next, Gonzalez 1985)."""
    rows = np.unique(np.asarray(signatures, np.float64).reshape(-1, LENGTH), axis=0)
    if len(rows) <= n_most:
        return _plain(rows)
    spread = _spread(rows)
    chosen = [int(_distances(rows, rows.mean(0), spread).argmin())]
    nearest = _distances(rows, rows[chosen[0]], spread)
    while len(chosen) < n_most:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, _distances(rows, rows[chosen[-1]], spread))
    return _plain(rows[sorted(chosen)])


def is_like(given: Sequence[float], taught: Signatures, others: Signatures, rivals: Signatures = ()) -> bool:
    """Whether the known picture that is most like the given one is among those taught, or of their kind.

    A picture that is far from all of `others` need not be quite as near to those taught: nothing vouches for what was
    known before.

    Parameters
    ----------
    given : signature of a picture
    taught : signatures of the pictures that something was learned from; not empty. One of a kind that the model was
        trained on takes along those of `others` around it
    others : of those that the model was trained on; where they are few, every picture is like those taught
    rivals : of those that other networks were taught
    """
    if len(others) < _FEWEST:
        return True
    known = np.asarray(others)
    spread = _spread(known)
    near = _near(known, spread)
    alike = np.zeros(len(known), bool)
    for row in taught:
        away = _distances(known, row, spread)
        if away.min() <= near:
            alike |= away <= _KIND_REACH * near
    nearest, rival = (_nearest(rows, given, spread) for rows in (taught, rivals))
    away = _distances(known, given, spread)
    nearest, foreign = min(nearest, away[alike].min(initial=np.inf)), away[~alike].min(initial=np.inf)
    is_stranger = foreign > _STRANGE * near and not alike.any()
    return bool(nearest <= min(rival, _STRANGER_REACH * foreign if is_stranger else foreign))


def is_new(given: Sequence[float], known: Signatures) -> bool:
    """Whether a picture is of another kind than all that a model was trained on; False where too few are known."""
    if len(known) < _FEWEST:
        return False
    rows = np.asarray(known)
    spread = _spread(rows)
    return bool(_distances(rows, given, spread).min() > _near(rows, spread))


def _nearest(rows: Signatures, to: ArrayLike, spread: NDArray[np.float64]) -> float:
    """Distance of the nearest row; infinite where there is none."""
    return float(_distances(np.asarray(rows), to, spread).min()) if rows else float("inf")


def _near(rows: NDArray[np.float64], spread: NDArray[np.float64]) -> float:
    """How far apart pictures of one kind may be."""
    nearest = [np.partition(_distances(rows, row, spread), 1)[1] for row in rows]
    return max(_LEAST_NEAR, _NEAR_MARGIN * float(np.quantile(nearest, _NEAR_SHARE)))


def _spread(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.maximum(rows.std(0), _LEAST_SPREAD))


def _distances(rows: NDArray[np.float64], to: ArrayLike, spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """Root of the mean squared difference of each row, in units of the spread."""
    difference = (rows - np.asarray(to)) / spread
    return np.asarray(np.sqrt((difference**2).mean(1)))


def _plain(rows: NDArray[np.float64]) -> Signatures:
    return tuple(tuple(map(float, row)) for row in rows)

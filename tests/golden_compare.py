"""What the runners of fixtures share: reading nnU-Net's, and telling how far two results are apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Record = dict[str, Any]
Arrays = dict[str, np.ndarray]

HALF_TOLERANCE = 2e-3  # relative; what an array that is stored in half precision can be held to


class Check(NamedTuple):
    """One comparison: what was compared, how far apart it is, and how far it may be."""

    what: str
    difference: float
    tolerance: float

    @property
    def passes(self) -> bool:
        return self.difference <= self.tolerance  # False for NaN


Found = Iterator[tuple[str, list[Check] | None]]  # a fixture's name and its comparisons, None: nothing here runs it


def greatest(got: np.ndarray, want: np.ndarray) -> float:
    """Largest absolute difference; infinite where the shapes differ."""
    if got.shape != want.shape:
        return float("inf")
    return float(np.abs(got.astype(np.float64) - want.astype(np.float64)).max(initial=0.0))


def n_different(got: Any, want: Any) -> float:
    """How many values differ; infinite where the shapes do."""
    got, want = np.asarray(got), np.asarray(want)
    return float("inf") if got.shape != want.shape else float(np.count_nonzero(got != want))


def half_steps(got: np.ndarray, want: np.ndarray) -> float:
    """Largest difference in units of the last place of half precision."""
    if got.shape != want.shape:
        return float("inf")
    step = np.spacing(np.maximum(np.abs(got), np.abs(want)).astype(np.float16)).astype(np.float64)
    return float((np.abs(got.astype(np.float64) - want.astype(np.float64)) / step).max())


def n_unlike(got: Any, want: Any) -> float:
    """How many leaves of two JSON trees differ; floats may by 1e-9 of their size."""
    if isinstance(want, dict) and isinstance(got, dict):
        return sum(n_unlike(got.get(key, "missing"), want.get(key, "missing")) for key in got.keys() | want.keys())
    if isinstance(want, list | tuple) and isinstance(got, list | tuple):
        pairs = zip(got, want, strict=False)
        return sum(n_unlike(a, b) for a, b in pairs) + abs(len(got) - len(want))
    if isinstance(want, float) and isinstance(got, int | float):
        return float(not abs(got - want) <= 1e-9 * max(abs(got), abs(want)))
    return float(got != want)


def load(folder: Path, name: str) -> Arrays:
    """The arrays of an npz file."""
    with np.load(folder / f"{name}.npz") as arrays:
        return dict(arrays)


def read(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text())


def near(what: str, got: np.ndarray, want: np.ndarray | None, tolerance: float, is_half: bool = False) -> list[Check]:
    """Compare values, where the fixture has them; relative to their size where they or inputs are in half precision."""
    if want is None:
        return []
    if not (is_half or want.dtype == np.float16) or tolerance >= HALF_TOLERANCE:
        return [Check(what, greatest(got, want), tolerance)]
    if got.shape != want.shape:
        return [Check(what, float("inf"), HALF_TOLERANCE)]
    wide = want.astype(np.float64)
    difference = np.abs(got.astype(np.float64) - wide) / np.maximum(1, np.abs(wide))
    return [Check(what, float(difference.max(initial=0.0)), HALF_TOLERANCE)]


def same(what: str, got: Any, want: Any) -> list[Check]:
    """Compare whole numbers, where the fixture has them."""
    return [] if want is None else [Check(what, n_different(got, want), 0)]

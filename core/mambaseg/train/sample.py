"""Training cases in memory and the patches drawn from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg.plan import Plan
from mambaseg.train.paste import paste_objects

__all__ = ["FOREGROUND_SHARE", "UNLABELLED", "Case", "PatchSampler", "is_dummy_2d", "loader_patch_size",
           "rotation_range", "slices"]

UNLABELLED = -2  # label of voxels that nobody has looked at; -1 is outside the picture

FOREGROUND_SHARE = 0.33  # of the batch is centred on foreground (nnU-Net)
_LOCATIONS_A_CLASS = 10_000  # remembered foreground voxels a class (nnU-Net)


@dataclass
class Case:
    """One prepared training example.

    Parameters
    ----------
    image : float32, (channel, *S), as `prepare` leaves it
    labels : integer classes, or instance numbers for instance models, (*S); -1 is outside the picture,
        `UNLABELLED` not known
    weight : how often it is drawn, relative to the others
    locations : voxels of each class, see `find_foreground`
    previous : labels that the previous stage of a cascade found, (*S); None: there is none
    """

    name: str
    image: NDArray[np.float32]
    labels: NDArray[Any]
    weight: float = 1.0
    locations: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    previous: NDArray[Any] | None = None

    def find_foreground(self, instances: bool) -> None:
        """Remember where each class lies (all instances count as one class), about 10,000 voxels each."""
        random = np.random.default_rng(1234)
        classes = [0] if instances else [int(c) for c in np.unique(self.labels) if c > 0]
        for c in classes:
            voxels = np.argwhere(self.labels > 0 if instances else self.labels == c)
            if len(voxels):
                n_kept = max(min(_LOCATIONS_A_CLASS, len(voxels)), math.ceil(0.01 * len(voxels)))
                self.locations[c] = voxels[random.permutation(len(voxels))[:n_kept]]


def slices(case: Case) -> list[Case]:
    """The slices of a volume along its first axis as cases of their own, for networks that see two axes."""
    return [Case(f"{case.name}, slice {at}", case.image[:, at], plane, case.weight,
                 {number: voxels[voxels[:, 0] == at, 1:] for number, voxels in case.locations.items()
                  if (voxels[:, 0] == at).any()}) for at, plane in enumerate(case.labels)]


def rotation_range(patch_size: Sequence[int]) -> float:
    """Largest rotation of the augmentation in radians (nnU-Net): half a turn in 2-D, less for long or 3-D patches."""
    if len(patch_size) == 2:
        return math.radians(15) if max(patch_size) / min(patch_size) > 1.5 else math.pi
    return math.pi if is_dummy_2d(patch_size) else math.radians(30)


def is_dummy_2d(patch_size: Sequence[int]) -> bool:
    """Whether a 3-D patch is so flat that augmentation runs slice by slice."""
    return len(patch_size) == 3 and max(patch_size) / patch_size[0] > 3


def loader_patch_size(patch_size: Sequence[int]) -> tuple[int, ...]:
    """Size to cut out so that rotation and 0.85 shrinking still fill `patch_size` (nnU-Net's rule)."""
    if is_dummy_2d(patch_size):
        return (patch_size[0], *loader_patch_size(patch_size[1:]))
    angle = min(rotation_range(patch_size), math.pi / 2)
    c, s = math.cos(angle), math.sin(angle)
    largest = np.asarray(patch_size, dtype=float)
    pairs = [(0, 1)] if len(patch_size) == 2 else [(1, 2), (0, 2), (0, 1)]
    for a, b in pairs:
        turned = np.asarray(patch_size, dtype=float)
        turned[a] = abs(c * patch_size[a] + (s if (a, b) != (0, 2) else -s) * patch_size[b])
        turned[b] = abs((-s if (a, b) != (0, 2) else s) * patch_size[a] + c * patch_size[b])
        largest = np.maximum(largest, turned)
    return tuple(int(extent / 0.85) for extent in largest)


class PatchSampler:
    """Draws raw patches, large enough to be rotated, a third of them around foreground.

    Parameters
    ----------
    cases : at least one
    plan : patch and batch size
    margin : whether patches carry the room that rotation needs
    reflect : continue pictures beyond their edge by reflection, unless the plan takes them as a whole; else zeros, and
        labels -1
    foreground_share : of the batch that is centred on the cases' `locations`
    paste_share : of the batch that gets objects of the next patch pasted in; labels are instance numbers then
    """

    def __init__(self, cases: Sequence[Case], plan: Plan, seed: int, margin: bool = True, reflect: bool = False,
                 foreground_share: float = FOREGROUND_SHARE, paste_share: float = 0.0) -> None:
        self.cases = cases
        self.patch_size = plan.patch_size
        self.loader_size = loader_patch_size(plan.patch_size) if margin else plan.patch_size
        self.batch_size = plan.batch_size
        self.reflect = reflect and plan.fit == "windows"
        self.random = np.random.default_rng(seed)
        weights = np.array([case.weight for case in cases], dtype=float)
        self._shares = weights / weights.sum()
        self.paste_share = paste_share
        self._n_free = round(plan.batch_size * (1 - foreground_share))

    def batch(self) -> list[tuple[NDArray[np.float32], NDArray[Any]]]:
        """Patches (image (channel, *loader), labels (*loader)); the last third centred on foreground.

        The labels of a cascade are (2, *loader): behind the truth those of the previous stage.
        """
        picks = self.random.choice(len(self.cases), self.batch_size, p=self._shares)
        patches = [self._patch(self.cases[pick], force_foreground=i >= self._n_free) for i, pick in enumerate(picks)]
        if not self.paste_share:
            return patches
        following = [*patches[1:], patches[0]]
        return [paste_objects(*patch, *other, self.random) if self.random.random() < self.paste_share else patch
                for patch, other in zip(patches, following, strict=True)]

    def _patch(self, case: Case, force_foreground: bool) -> tuple[NDArray[np.float32], NDArray[Any]]:
        lower = []
        centre = self._foreground_voxel(case) if force_foreground else None
        for axis, extent in enumerate(case.labels.shape):
            first, last = self._limits(axis, extent)
            if centre is None:
                lower.append(int(self.random.integers(first, last + 1)))
            else:
                lower.append(max(first, int(centre[axis]) - self.loader_size[axis] // 2))
        return self._cut(case, lower)

    def _limits(self, axis: int, extent: int) -> tuple[int, int]:
        """Smallest and largest first voxel along an axis; the margin may lie outside the image."""
        need = self.loader_size[axis] - self.patch_size[axis]
        if need + extent < self.loader_size[axis]:
            need = self.loader_size[axis] - extent
        return -(need // 2) - need % 2, extent + need // 2 + need % 2 - self.loader_size[axis]

    def _foreground_voxel(self, case: Case) -> NDArray[np.int64] | None:
        if not case.locations:
            return None
        classes = list(case.locations)
        voxels = case.locations[classes[self.random.integers(len(classes))]]
        voxel: NDArray[np.int64] = voxels[self.random.integers(len(voxels))]
        return voxel

    def _cut(self, case: Case, lower: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """The loader patch that starts at `lower`, continued beyond the image's edge."""
        inside, pads = [], []
        for start, size, extent in zip(lower, self.loader_size, case.labels.shape, strict=True):
            inside.append(slice(max(0, start), min(extent, start + size)))
            pads.append((max(0, -start), max(0, start + size - extent)))
        image, labels = case.image[(slice(None), *inside)], case.labels[tuple(inside)]
        around = [(0, 0), *pads]
        if case.previous is not None:
            labels, pads = np.stack([labels, case.previous[tuple(inside)]]), around
        if self.reflect:
            return np.pad(image, around, mode="symmetric"), np.pad(labels, pads, mode="symmetric")
        return np.pad(image, around), np.pad(labels, pads, constant_values=-1)

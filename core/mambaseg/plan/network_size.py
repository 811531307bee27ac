"""How deep a network gets, how large its patch may be and how many numbers it keeps: nnU-Net's arithmetic.

Everything here is pure arithmetic on tuples; `rules` decides with it. The rules are nnU-Net's
(doi:10.1038/s41592-020-01008-z) as its versions 2.1.1 and 2.8.1 apply them.

Glossary: *edge*, side of the feature map in voxels; *divisor*, what a patch axis must be a multiple of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Blocks", "Topology", "features_per_stage", "initial_patch", "n_activations", "shrink_patch", "topology"]

MIN_EDGE = 4  # voxels; an axis is halved only while both halves keep at least this
ANISOTROPY = 2.0  # an axis with twice the spacing of the finest one is left alone until the others have caught up


@dataclass(frozen=True)
class Topology:
    """Strides and kernels per stage, and the patch rounded up to fit them.

    Parameters
    ----------
    patch : voxels per axis, each a multiple of `divisor`
    strides : per stage and axis, 1 or 2; the first stage keeps full resolution
    kernels : per stage and axis, 1 or 3; as many as `strides`
    divisor : per axis, the product of its strides
    """

    patch: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    divisor: tuple[int, ...]


@dataclass(frozen=True)
class Blocks:
    """What one stage holds.

    Parameters
    ----------
    encoder : blocks of each stage; the last value repeats for deeper stages
    decoder : convolutions of each decoder level
    is_residual : encoder blocks of two convolutions with a shortcut, behind a stem; else single convolutions
    """

    encoder: tuple[int, ...] = (2,)
    decoder: int = 2
    is_residual: bool = False

    def per_stage(self, n_stages: int) -> tuple[int, ...]:
        """Encoder blocks of each of `n_stages` stages."""
        return tuple(self.encoder[min(i, len(self.encoder) - 1)] for i in range(n_stages))


def initial_patch(spacing: Sequence[float], median_shape: Sequence[float], n_voxels: int) -> tuple[float, ...]:
    """Patch of about `n_voxels` voxels that is a cube (square) in physical units, cut to the median image.

    Parameters
    ----------
    spacing : voxel size per axis
    median_shape : voxels per axis; medians may be halves, and a half is kept until a topology rounds it up
    n_voxels : volume (area) to aim at before the cut
    """
    inverse = 1 / np.asarray(spacing, dtype=float)
    scale = (n_voxels / np.prod(inverse)) ** (1 / len(inverse))
    return tuple(min(float(round(edge)), size) for edge, size in zip(inverse * scale, median_shape, strict=True))


def topology(spacing: Sequence[float], patch: Sequence[float], max_stages: int | None = None) -> Topology:
    """Strides and kernels for a patch: halve the axes of finest spacing while they are long enough.

    Parameters
    ----------
    spacing : voxel size per axis
    patch : voxels per axis, not necessarily whole
    max_stages : stop at this many stages (full resolution counts as one); None: as many as the patch bears
    """
    spacing_now = np.array(spacing, dtype=float)
    edges = np.array(patch, dtype=float)
    kernel = np.ones(len(edges), dtype=int)
    strides = [np.ones(len(edges), dtype=int)]
    kernels = []
    while max_stages is None or len(strides) < max_stages:
        is_halved = _axes_to_halve(spacing_now, edges)
        if not is_halved.any():
            break
        kernel[spacing_now / spacing_now.min() < ANISOTROPY] = 3
        kernels.append(kernel.copy())
        strides.append(np.where(is_halved, 2, 1))
        spacing_now[is_halved] *= 2
        edges[is_halved] = np.ceil(edges[is_halved] / 2)
    kernels.append(np.full(len(edges), 3))
    divisor = np.prod(strides, axis=0)
    rounded = np.ceil(np.asarray(patch, dtype=float) / divisor) * divisor
    return Topology(_ints(rounded), tuple(map(_ints, strides)), tuple(map(_ints, kernels)), _ints(divisor))


def _axes_to_halve(spacing: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.bool_]:
    """True for the axes that the next stage halves; none when the network ends here."""
    is_long = edges >= 2 * MIN_EDGE
    if not is_long.any():
        return is_long
    is_halved: NDArray[np.bool_] = is_long & (spacing / spacing[is_long].min() < ANISOTROPY)
    # One axis alone is worth a stage only while it is clearly longer than the shortest edge.
    if is_halved.sum() == 1 and edges[is_halved][0] < 3 * MIN_EDGE:
        return np.zeros_like(is_halved)
    return is_halved


def features_per_stage(n_stages: int, base: int, cap: int) -> tuple[int, ...]:
    """Channels of each stage: doubled from `base` on, at most `cap`."""
    return tuple(min(cap, base * 2**i) for i in range(n_stages))


def n_activations(size: Topology, features: Sequence[int], n_labels: int, blocks: Blocks) -> float:
    """Numbers that the convolutions of one patch put out, nnU-Net's stand-in for GPU memory.

    Parameters
    ----------
    size : patch and strides
    features : channels per stage
    n_labels : entries of the data set's label table (background, regions and ignore count)
    blocks : what each stage holds

    Notes
    -----
    One patch, no deep supervision; a decoder level counts its up-convolution besides its convolutions.
    """
    reduced = np.cumprod(size.strides, axis=0)
    voxels = [float(np.prod(np.asarray(size.patch) / stride)) for stride in reduced]
    decoder = sum(f * v * (blocks.decoder + 1) for f, v in zip(features[:-1], voxels[:-1], strict=True))
    return _encoder_activations(size, features, voxels, blocks) + decoder + n_labels * voxels[0]


def _encoder_activations(size: Topology, features: Sequence[int], voxels: Sequence[float], blocks: Blocks) -> float:
    """The encoder's share of `n_activations`."""
    n_blocks = blocks.per_stage(len(features))
    if not blocks.is_residual:
        return sum(n * f * v for n, f, v in zip(n_blocks, features, voxels, strict=True))
    total = features[0] * voxels[0]  # stem
    for i, (n, f, v) in enumerate(zip(n_blocks, features, voxels, strict=True)):
        has_projection = f != features[max(i - 1, 0)] or max(size.strides[i]) > 1
        total += (2 * n + has_projection) * f * v
    return total


def shrink_patch(
    spacing: Sequence[float],
    patch: Sequence[float],
    median_shape: Sequence[float],
    is_too_big: Callable[[Topology], bool],
) -> Topology:
    """Topology of the largest patch that fits, taken down step by step along the axis that covers its image most.

    Parameters
    ----------
    spacing : voxel size per axis
    patch : where to start, voxels per axis
    median_shape : the median image, voxels per axis
    is_too_big : says whether a topology must shrink further

    Notes
    -----
    The step is the divisor of the topology that the reduced patch *would* have, taken from the unreduced patch.
    Crossing a power of two so takes half a step (256 to 224, not to 192).
    """
    size = topology(spacing, patch)
    while is_too_big(size):
        cover = [edge / median for edge, median in zip(size.patch, median_shape, strict=True)]
        axis = max(range(len(cover)), key=lambda i: (cover[i], i))  # a tie goes to the last axis
        reduced = _less(size.patch, axis, size.divisor[axis])
        size = topology(spacing, _less(size.patch, axis, topology(spacing, reduced).divisor[axis]))
    return size


def _less(patch: Sequence[int], axis: int, step: int) -> tuple[int, ...]:
    """`patch` with `step` voxels fewer along `axis`."""
    if patch[axis] <= step:
        raise ValueError(f"patch {tuple(patch)} cannot lose {step} voxels along axis {axis}")
    return tuple(edge - step * (i == axis) for i, edge in enumerate(patch))


def _ints(values: NDArray[np.number]) -> tuple[int, ...]:
    """Whole numbers out of an array."""
    return tuple(math.floor(value) for value in values.tolist())

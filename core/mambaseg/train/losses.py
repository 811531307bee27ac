"""Dice with cross entropy, as nnU-Net trains: ignore label, regions, deep supervision.

All sums are single precision at least, whatever the network ran in. Rules: doi:10.1038/s41592-020-01008-z.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mambaseg.train.processes import count, sum_over_all, total

__all__ = ["deep_supervision_loss", "deep_supervision_weights", "depth_loss", "dice_cross_entropy", "downsample_target",
           "pool_target", "region_dice_cross_entropy", "region_target"]

_SMOOTH = 1e-5


def dice_cross_entropy(logits: Tensor, target: Tensor, batch_dice: bool = False,
                       ignore_label: int | None = None, dice_weight: float = 1.0) -> Tensor:
    """Cross entropy minus mean soft Dice of the foreground classes; -1 is perfect.

    Parameters
    ----------
    logits : (batch, class, *S)
    target : integer class per voxel, (batch, 1, *S)
    batch_dice : Dice over the batch as one, else per sample
    ignore_label : voxels of this value count in neither term; a batch without any other gives zero gradients
    dice_weight : of the Dice term
    """
    logits = _wide(logits)
    classes = target[:, 0].long()
    valid = None if ignore_label is None else classes != ignore_label
    if valid is not None:
        classes = classes.masked_fill(~valid, 0)
    probabilities = logits.softmax(1)[:, 1:]
    truth = functional.one_hot(classes, logits.shape[1]).movedim(-1, 1)[:, 1:].to(logits.dtype)
    mask = None if valid is None else valid[:, None].to(logits.dtype)
    dice = dice_weight * _soft_dice(probabilities, truth, mask, batch_dice).mean()
    if valid is None:
        return functional.cross_entropy(logits, classes) - dice
    voxelwise = functional.cross_entropy(logits, classes, reduction="none")
    return (voxelwise * valid).sum() / _usual(valid.sum()).clamp(min=1) - dice


def region_dice_cross_entropy(logits: Tensor, target: Tensor, batch_dice: bool = False,
                              has_ignore: bool = False) -> Tensor:
    """Binary cross entropy minus mean soft Dice over regions that may overlap.

    Parameters
    ----------
    logits : (batch, region, *S), before the sigmoid
    target : 0 or 1, (batch, region, *S); with `has_ignore` one more channel, 1 where a voxel counts in neither term

    Notes
    -----
    With an ignore channel the cross entropy is the sum over regions divided by the number of valid voxels, not by
    voxels times regions: nnU-Net's rule, kept for equal gradients.
    """
    logits = _wide(logits)
    truth = (target[:, :-1] if has_ignore else target).to(logits.dtype)
    mask = 1 - target[:, -1:].to(logits.dtype) if has_ignore else None
    dice = _soft_dice(logits.sigmoid(), truth, mask, batch_dice).mean()
    if mask is None:
        return functional.binary_cross_entropy_with_logits(logits, truth) - dice
    voxelwise = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    return (voxelwise * mask).sum() / _usual(mask.sum()).clamp(min=1e-8) - dice


def depth_loss(logits: Tensor, target: Tensor, batch_dice: bool = False, ignore_label: int | None = None) -> Tensor:
    """Cross entropy with shared-out targets minus the soft Dice of the objects as a whole.

    Parameters
    ----------
    logits : background, interior and boundary, (batch, 3, *S)
    target : `mambaseg.instances.relative_depth`, (batch, 1, *S): the share of an object's voxel that is interior
    batch_dice, ignore_label : as for `dice_cross_entropy`
    """
    log_p = _wide(logits).log_softmax(1)
    valid = torch.ones_like(target) if ignore_label is None else (target != ignore_label).to(target.dtype)
    depth = target * valid
    inside = (depth > 0).to(depth.dtype)
    truth = torch.cat([1 - inside, depth, inside - depth], 1)
    cross_entropy = -((truth * log_p).sum(1, keepdim=True) * valid).sum() / _usual(valid.sum()).clamp(min=1)
    objects = 1 - log_p[:, :1].exp()
    return cross_entropy - _soft_dice(objects * valid, inside, None, batch_dice).mean()


def _usual(n_valid: Tensor) -> Tensor:
    """Voxels that count, as the mean over the processes: then the mean of their losses is that of the whole batch."""
    return total(n_valid) / count() if count() > 1 else n_valid


def _wide(logits: Tensor) -> Tensor:
    """Half precision as single; single and double as they are."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _soft_dice(probabilities: Tensor, truth: Tensor, mask: Tensor | None, batch_dice: bool) -> Tensor:
    """Soft Dice, (class,) or (batch, class); classes absent from both score about 1."""
    axes = tuple(range(2, probabilities.ndim))
    if mask is not None:
        probabilities, truth = probabilities * mask, truth * mask
    # In single precision for double-precision networks too: nnU-Net's numbers, to the last digit
    overlap, predicted, true = (value.sum(axes, dtype=torch.float32)
                                for value in (probabilities * truth, probabilities, truth))
    if batch_dice:
        overlap, predicted, true = sum_over_all(torch.stack([overlap.sum(0), predicted.sum(0), true.sum(0)]))
    return (2 * overlap + _SMOOTH) / (true + predicted + _SMOOTH).clamp(min=1e-8)


def deep_supervision_weights(n_outputs: int) -> tuple[float, ...]:
    """Weights of the outputs, full resolution first: halved level by level, the coarsest 0, sum 1."""
    if n_outputs == 1:
        return (1.0,)
    weights = [0.5**i for i in range(n_outputs - 1)] + [0.0]
    return tuple(weight / sum(weights) for weight in weights)


def downsample_target(target: Tensor, strides: Sequence[Sequence[int]], n_outputs: int) -> list[Tensor]:
    """Targets for deep supervision, full resolution first.

    Parameters
    ----------
    target : (batch, channel, *S), integers
    strides : of the network's stages, the first all ones
    n_outputs : how many levels

    Returns
    -------
    (batch, channel, *s) each, s = round(S / cumulative stride), nearest voxel with half-pixel centres
    """
    targets = [target]
    scale = [1.0] * (target.ndim - 2)
    for level in range(1, n_outputs):
        scale = [old / step for old, step in zip(scale, strides[level], strict=True)]
        size = [round(extent * factor) for extent, factor in zip(target.shape[2:], scale, strict=True)]
        targets.append(functional.interpolate(target.float(), size=size, mode="nearest-exact").to(target.dtype))
    return targets


def pool_target(target: Tensor, n_classes: int, size: Sequence[int], ignore_label: int) -> Tensor:
    """A sparse target at a coarser level; unlike `downsample_target` it loses no annotation, however thin.

    Parameters
    ----------
    target : (batch, 1, *S), classes, or depths as floating numbers, or `ignore_label`
    size : voxels per axis of the level

    Returns
    -------
    (batch, 1, *size): the most frequent class among the known voxels that a coarse voxel covers, the smaller of equals,
    or their mean depth; `ignore_label` where none is known
    """
    if tuple(size) == tuple(target.shape[2:]):
        return target
    known = target[:, 0] != ignore_label
    pool: Any = functional.adaptive_avg_pool2d if target.ndim == 4 else functional.adaptive_avg_pool3d
    if target.is_floating_point():
        part: Tensor = pool(known[:, None].to(target.dtype), tuple(size))
        total: Tensor = pool(target * known[:, None], tuple(size))
        return (total / part.clamp(min=_SMOOTH)).masked_fill(part == 0, float(ignore_label))
    shares = functional.one_hot(target[:, 0].masked_fill(~known, 0), n_classes) * known[..., None]
    most, winner = pool(shares.movedim(-1, 1).float(), tuple(size)).max(1, keepdim=True)
    pooled: Tensor = winner.masked_fill(most == 0, ignore_label)
    return pooled


def region_target(target: Tensor, regions: Sequence[Sequence[int]], ignore_label: int | None = None) -> Tensor:
    """What `region_dice_cross_entropy` compares with.

    Parameters
    ----------
    target : labels, (batch, 1, *S)
    regions : label values of each region
    ignore_label : where it lies, the last channel is 1; None: there is no such channel

    Returns
    -------
    0 or 1, (batch, region, *S), with an ignore label one channel more
    """
    values = [*regions, *([] if ignore_label is None else [[ignore_label]])]
    return torch.cat([torch.isin(target, torch.tensor(region, device=target.device)) for region in values], 1)


def deep_supervision_loss(outputs: Sequence[Tensor], targets: Sequence[Tensor], batch_dice: bool = False,
                          ignore_label: int | None = None, regions: Sequence[Sequence[int]] = ()) -> Tensor:
    """Weighted sum of the losses of the outputs; levels of weight 0 are skipped.

    Parameters
    ----------
    outputs : logits, full resolution first
    targets : labels, or depths as floating numbers, for which it is `depth_loss`; (batch, 1, *S) each
    batch_dice, ignore_label : as for `dice_cross_entropy`
    regions : label values of each output, then it is `region_dice_cross_entropy`; empty: outputs are classes
    """
    def loss(output: Tensor, target: Tensor) -> Tensor:
        if target.is_floating_point():
            return depth_loss(output, target, batch_dice, ignore_label)
        if not regions:
            return dice_cross_entropy(output, target, batch_dice, ignore_label)
        return region_dice_cross_entropy(output, region_target(target, regions, ignore_label), batch_dice,
                                         ignore_label is not None)

    terms = [weight * loss(output, target)
             for weight, output, target in zip(deep_supervision_weights(len(outputs)), outputs, targets, strict=True)
             if weight > 0]
    return torch.stack(terms).sum()

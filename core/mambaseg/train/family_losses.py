"""The losses that VM-UNet, VM-UNetV2 and U-Net v2 were published with.

All sums are single precision at least, whatever the network ran in. U-Mamba's is in `mambaseg.train.losses`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mambaseg.train.losses import dice_cross_entropy
from mambaseg.train.processes import sum_over_all

__all__ = ["bce_dice", "ce_dice", "graded_bce_dice", "structure_loss", "structure_pair_loss", "unetv2_isic_loss",
           "unetv2_isic_weights"]

_GRADES = (0.1, 0.2, 0.3, 0.4, 0.5)  # of the side outputs, deepest first
_DICE_WEIGHT = 1.5
_SIDE_PX = 31  # of the neighbourhood that says how near a boundary is


def bce_dice(probabilities: Tensor, target: Tensor, bce_weight: float = 1.0, dice_weight: float = 1.0) -> Tensor:
    """Binary cross entropy plus Dice loss: VM-UNet (ISIC) and VM-UNetV2.

    Dice is taken over each image as a whole, with 1 added above and below, and averaged over the batch.

    Parameters
    ----------
    probabilities : after the sigmoid, (batch, 1, H, W)
    target : in 0..1, of the same shape; resized masks are not binary
    bce_weight, dice_weight : of the two terms
    """
    probabilities, target = _wide(probabilities), _wide(target).to(_wide(probabilities).dtype)
    cross_entropy = functional.binary_cross_entropy(probabilities, target)
    p, t = probabilities.flatten(1), target.flatten(1)
    dice = (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)
    return bce_weight * cross_entropy + dice_weight * (1 - dice).mean()


def graded_bce_dice(sides: Sequence[Tensor], probabilities: Tensor, target: Tensor, bce_weight: float = 1.0,
                    dice_weight: float = 1.0) -> Tensor:
    """`bce_dice` of the output plus 0.1 to 0.5 times that of five side outputs; in VM-UNet's repository, unused there.

    Parameters
    ----------
    sides : five outputs of the size of `target`, deepest first
    probabilities, target, bce_weight, dice_weight : as for `bce_dice`
    """
    terms = [grade * bce_dice(side, target, bce_weight, dice_weight)
             for grade, side in zip(_GRADES, sides, strict=True)]
    return bce_dice(probabilities, target, bce_weight, dice_weight) + torch.stack(terms).sum()


def ce_dice(logits: Tensor, target: Tensor, ce_weight: float = 1.0, dice_weight: float = 1.0) -> Tensor:
    """Cross entropy plus Dice loss over all classes, the background too: VM-UNet (Synapse).

    Dice has squares below and is taken over the whole batch for each class, then averaged over the classes.

    Parameters
    ----------
    logits : (batch, class, H, W)
    target : integer class per pixel, (batch, H, W)
    ce_weight, dice_weight : of the two terms; the official class has 0.4 and 0.6 when told nothing, its script 1 and 1
    """
    logits = _wide(logits)
    probabilities = logits.softmax(1)
    truth = functional.one_hot(target.long(), logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    axes = (0, *range(2, logits.ndim))
    overlap = (probabilities * truth).sum(axes)
    total = (probabilities**2).sum(axes) + (truth**2).sum(axes)
    overlap, total = sum_over_all(torch.stack([overlap, total]))
    dice = (2 * overlap + 1e-5) / (total + 1e-5)
    loss: Tensor = ce_weight * functional.cross_entropy(logits, target.long()) + dice_weight * (1 - dice).mean()
    return loss


def structure_loss(logits: Tensor, mask: Tensor, weighted_cross_entropy: bool = False) -> Tensor:
    """Cross entropy plus an overlap (IoU) loss in which pixels near a boundary weigh up to six times: U-Net v2 (polyp).

    Parameters
    ----------
    logits : (batch, 1, H, W)
    mask : in 0..1, of the same shape
    weighted_cross_entropy : weigh the cross entropy too, as PraNet's authors meant to. False: as they and U-Net v2's
        trained, where an outdated argument of torch's makes it the plain mean

    References
    ----------
    PraNet, arXiv:2006.11392
    """
    logits = _wide(logits)
    mask = mask.to(logits.dtype)
    near = functional.avg_pool2d(mask, _SIDE_PX, stride=1, padding=_SIDE_PX // 2)  # zeros outside count
    weight = 1 + 5 * (near - mask).abs()
    axes = (2, 3)
    voxelwise = functional.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    cross_entropy = ((weight * voxelwise).sum(axes) / weight.sum(axes) if weighted_cross_entropy
                     else voxelwise.mean())
    p = logits.sigmoid()
    overlap = (p * mask * weight).sum(axes)
    total = ((p + mask) * weight).sum(axes)
    iou = (overlap + 1) / (total - overlap + 1)
    return (cross_entropy + 1 - iou).mean()


def structure_pair_loss(outputs: Sequence[Tensor], mask: Tensor, weighted_cross_entropy: bool = False) -> Tensor:
    """`structure_loss` of the full-size logits plus that of the half-size ones, enlarged bilinearly: U-Net v2 (polyp).

    Parameters
    ----------
    outputs : logits (batch, 1, H, W) and (batch, 1, H / 2, W / 2)
    mask, weighted_cross_entropy : as for `structure_loss`
    """
    terms = [structure_loss(output if output.shape == mask.shape else functional.interpolate(
        _wide(output), size=mask.shape[2:], mode="bilinear", align_corners=False), mask, weighted_cross_entropy)
        for output in outputs]
    return torch.stack(terms).sum()


def unetv2_isic_weights(n_outputs: int) -> tuple[float, ...]:
    """Weights of the outputs, full resolution first: halved level by level, the coarsest too, sum 1."""
    weights = [0.5**i for i in range(n_outputs)]
    return tuple(weight / sum(weights) for weight in weights)


def unetv2_isic_loss(outputs: Sequence[Tensor], targets: Sequence[Tensor], batch_dice: bool = True) -> Tensor:
    """Cross entropy minus 1.5 times the mean soft Dice of the foreground, over four resolutions: U-Net v2 (ISIC).

    Parameters
    ----------
    outputs : logits (batch, class, *S), full resolution first
    targets : integer class per voxel, (batch, 1, *S) each
    batch_dice : Dice over the batch as one, else per sample
    """
    terms = [weight * dice_cross_entropy(output, target, batch_dice, dice_weight=_DICE_WEIGHT)
             for weight, output, target in zip(unetv2_isic_weights(len(outputs)), outputs, targets, strict=True)]
    return torch.stack(terms).sum()


def _wide(values: Tensor) -> Tensor:
    """Half precision as single; single and double as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values

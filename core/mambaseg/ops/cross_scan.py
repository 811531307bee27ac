"""The four orders in which SS2D reads a feature map (VMamba, arXiv:2401.10166), written plainly.

Direction 0 goes row by row, 1 column by column, 2 and 3 are these two backwards. This is the reference: it makes a
copy of the map for every direction, and whatever reads the map in place is tested against it.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["N_DIRECTIONS", "cross_merge", "cross_scan"]

N_DIRECTIONS = 4


def cross_scan(features: Tensor) -> Tensor:
    """A feature map as four sequences.

    Parameters
    ----------
    features : (batch, channel, H, W)

    Returns
    -------
    (batch, 4, channel, L) with L = H * W; pixel (h, w) is at h * W + w in sequence 0, at w * H + h in sequence 1, and
    as far from the end in sequences 2 and 3
    """
    rows = features.flatten(2)
    columns = features.transpose(2, 3).flatten(2)
    forward = torch.stack((rows, columns), dim=1)
    return torch.cat((forward, forward.flip(-1)), dim=1)


def cross_merge(sequences: Tensor, height: int, width: int) -> Tensor:
    """Sum of four sequences, each put back onto the map in its own order; the adjoint of `cross_scan`.

    Parameters
    ----------
    sequences : (batch, 4, channel, L), in the orders of `cross_scan`
    height, width : H and W; L = H * W

    Returns
    -------
    (batch, channel, H, W)
    """
    forward, backward = sequences.chunk(2, dim=1)
    rows, columns = (forward + backward.flip(-1)).unbind(1)  # 0 with 2, 1 with 3: the order of the official sum
    merged: Tensor = rows.unflatten(-1, (height, width)) + columns.unflatten(-1, (width, height)).transpose(2, 3)
    return merged

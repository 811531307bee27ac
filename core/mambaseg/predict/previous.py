"""What a cascade's second network sees of the first: one channel for each label that it found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["one_hot"]


def one_hot(labels: NDArray[Any], values: Sequence[int]) -> NDArray[np.float32]:
    """1 where a label has a value, else 0; background and what lies outside the picture have no channel (nnU-Net).

    Parameters
    ----------
    labels : integer, (*spatial)
    values : one for each channel

    Returns
    -------
    float32, (len(values), *spatial)
    """
    wanted = np.reshape(np.asarray(values), (-1, *(1,) * labels.ndim))
    channels: NDArray[np.float32] = (labels == wanted).astype(np.float32)
    return channels

"""Optimisers and their learning rates."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

__all__ = ["learning_rate", "optimizer"]


def optimizer(name: str, parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum 0.99 and weight decay 3e-5 (nnU-Net), or AdamW with weight decay 1e-2.

    Raises
    ------
    ValueError : `name` is neither "sgd" nor "adamw"
    """
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=0.99, nesterov=True, weight_decay=3e-5)
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-2)
    raise ValueError(f"optimizer {name!r}: sgd or adamw")


def learning_rate(name: str, rate: float, done: float) -> float:
    """Learning rate after a share `done` (0 to 1) of the training.

    "sgd": polynomial decay with power 0.9 (nnU-Net). "adamw": linear rise over the first 2 %, then half a cosine to 0.
    """
    done = min(max(done, 0.0), 1.0)
    if name == "sgd":
        return rate * float((1.0 - done) ** 0.9)
    warm = 0.02
    if done < warm:
        return rate * (0.05 + 0.95 * done / warm)
    return rate * 0.5 * (1.0 + math.cos(math.pi * (done - warm) / (1.0 - warm)))

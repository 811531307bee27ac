"""Optimisers and their learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

__all__ = ["SCHEDULES", "learning_rate", "optimizer"]

_WEIGHT_DECAY = {"sgd": 3e-5, "adamw": 1e-2}
_WARM = 0.02  # share of the run
_VM_EPOCHS, _VM_PERIOD, _VM_LOWEST = 300, 50, 1e-5


def optimizer(name: str, parameters: Iterable[nn.Parameter], rate: float,
              weight_decay: float | None = None) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum 0.99 (nnU-Net), or AdamW.

    Parameters
    ----------
    weight_decay : None: 3e-5 for SGD (nnU-Net), 1e-2 for AdamW

    Raises
    ------
    ValueError : `name` is neither "sgd" nor "adamw"
    """
    if name not in _WEIGHT_DECAY:
        raise ValueError(f"optimizer {name!r}: sgd or adamw")
    decay = _WEIGHT_DECAY[name] if weight_decay is None else weight_decay
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=0.99, nesterov=True, weight_decay=decay)
    return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)


def _polynomial(rate: float, done: float) -> float:
    return rate * float((1.0 - done) ** 0.9)


def _warm_cosine(rate: float, done: float) -> float:
    if done < _WARM:
        return rate * (0.05 + 0.95 * done / _WARM)
    return rate * 0.5 * (1.0 + math.cos(math.pi * (done - _WARM) / (1.0 - _WARM)))


def _waves(rate: float, done: float) -> float:
    epoch = min(math.floor(done * _VM_EPOCHS + 1e-9), _VM_EPOCHS - 1)
    return _VM_LOWEST + (rate - _VM_LOWEST) * (1.0 + math.cos(math.pi * epoch / _VM_PERIOD)) / 2


def _constant(rate: float, done: float) -> float:
    return rate


SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "polynomial": _polynomial, "cosine": _warm_cosine, "waves": _waves, "constant": _constant}


def learning_rate(schedule: str, rate: float, done: float) -> float:
    """Learning rate after a share `done` (0 to 1) of the training.

    Parameters
    ----------
    schedule : "polynomial", decay with power 0.9 (nnU-Net); "cosine", a linear rise over the first 2 %, then half a
        cosine to 0; "waves", a cosine between `rate` and 1e-5 that turns after every 50 of 300 epochs, as VM-UNet's
        authors have it, where a run of any length counts as their 300; "constant"
    rate : at the start
    """
    return SCHEDULES[schedule](rate, min(max(done, 0.0), 1.0))

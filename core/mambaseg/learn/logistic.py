"""A multinomial logistic fit that starts at, and is held by, the layer that is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Sample", "fit_logistic"]

_N_STEPS = 60
_RIDGE = 1e-4  # of the mean square feature: keeps directions that no voxel shows where they are
_FULL_TRUST = 500  # corrected voxels from which on they count as much as everything else together


@dataclass(frozen=True)
class Sample:
    """Voxels that a fit looks at; float64, the last feature is 1.

    Parameters
    ----------
    features : (n, width + 1) of corrected voxels
    target : int64, (n,), their classes
    weight : (n,) how many corrected voxels each of them stands for
    elsewhere : (m, width + 1) of voxels that nobody looked at
    """

    features: Tensor
    target: Tensor
    weight: Tensor
    elsewhere: Tensor


def fit_logistic(samples: Sequence[Sample], prior: Tensor, start: Tensor, hold: float) -> Tensor:
    """Weights (class, width + 1) that agree with the corrections and change other answers little.

    Minimises the cross entropy on corrected voxels, every class counting alike, plus `hold` times the divergence from
    the prior's answers on the others, plus a small ridge around the prior.

    Parameters
    ----------
    prior : (class, width + 1), the layer as it came
    start : where to begin, from an earlier fit

    Notes
    -----
    Newton's method with Boehning's bound instead of the Hessian (doi:10.1007/BF00048682): one matrix for all classes,
    factored once, and no step makes it worse.
    """
    n_classes = len(prior)
    known = torch.cat([sample.features for sample in samples])
    target = functional.one_hot(torch.cat([sample.target for sample in samples]), n_classes).double()
    elsewhere = torch.cat([sample.elsewhere for sample in samples])
    weight = torch.cat([sample.weight for sample in samples])
    counts = weight @ target
    trust = weight.sum() / (weight.sum() + _FULL_TRUST)
    weight = trust * weight * (target @ (1 / counts.clamp(min=1))) / (counts > 0).sum()
    rows = torch.cat([known, elsewhere])
    wanted = torch.cat([target, (elsewhere @ prior.T).softmax(1)])
    weights = torch.cat([weight, torch.full((len(elsewhere),), hold / max(1, len(elsewhere)), dtype=torch.float64)])
    gram = rows.T @ (rows * weights[:, None])
    ridge = _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    factor = torch.linalg.cholesky(0.5 * gram + ridge)
    fitted = start.clone()
    for _ in range(_N_STEPS):
        error = ((rows @ fitted.T).softmax(1) - wanted) * weights[:, None]
        gradient = error.T @ rows + (fitted - prior) @ ridge
        fitted -= torch.cholesky_solve(gradient.T, factor).T
    return fitted

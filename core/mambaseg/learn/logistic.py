"""A multinomial logistic fit that starts at, and is held by, the answers that are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Sample", "fit_logistic"]

_N_STEPS = 60
_RIDGE = 1e-2  # of a feature's variance, against the weight of all voxels together, which is about 1
_KNOWN = 8.0  # how much more firmly answers are held in a kind of picture that is known; see docs/learning.md
_REACH = 0.7  # standard deviations of the features, how far a correction speaks for others; see docs/learning.md
_MOST_COMPARED = 1500  # corrected voxels that others are compared with
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
    radii : (object,) of the corrected objects, voxels; empty where there are none
    is_known : of a kind of picture that the prior was made for
    """

    features: Tensor
    target: Tensor
    weight: Tensor
    elsewhere: Tensor
    radii: Tensor
    is_known: bool = False


def fit_logistic(samples: Sequence[Sample], prior: Tensor, start: Tensor, hold: float) -> Tensor:
    """Weights (class, width + 1) that agree with the corrections and change other answers little.

    Minimises the cross entropy on corrected voxels, a class counting as the root of its size, plus the divergence from
    the prior's answers on the others, plus a small ridge around the prior. In a new kind of picture the others count
    `hold` times, the less the more often the prior was wrong where the user corrected, but only those that look like
    what was corrected: of the rest nobody said anything. In a known kind the prior is right elsewhere, whatever the
    user corrects, and they count some times as much.

    Parameters
    ----------
    prior : (class, width + 1), what was there before
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
    stands_for = torch.cat([sample.weight for sample in samples])
    counts = stands_for @ target
    trust = stands_for.sum() / (stands_for.sum() + _FULL_TRUST)
    balanced = stands_for * (target @ counts.clamp(min=1).rsqrt())
    believed = float(1 - trust + trust * _skill(known @ prior.T, target, stands_for)) ** 2
    anchor = torch.cat([torch.full((len(sample.elsewhere),), _KNOWN).double() if sample.is_known
                        else 1 - (1 - believed) * _likeness(sample.elsewhere, known) for sample in samples])
    rows = torch.cat([known, elsewhere])
    wanted = torch.cat([target, (elsewhere @ prior.T).softmax(1)])
    weights = torch.cat([trust * balanced / balanced.sum(), hold * anchor / max(1, len(elsewhere))])
    gram = rows.T @ (rows * weights[:, None])
    ridge = _ridge(rows, n_classes)
    factor = torch.linalg.cholesky(0.5 * gram + ridge.diag())
    fitted = start.clone()
    for _ in range(_N_STEPS):
        error = ((rows @ fitted.T).softmax(1) - wanted) * weights[:, None]
        gradient = error.T @ rows + (fitted - prior) * ridge
        fitted -= torch.cholesky_solve(gradient.T, factor).T
    return fitted


def _skill(logits: Tensor, target: Tensor, stands_for: Tensor) -> Tensor:
    """Share of the corrected voxels, classes counting alike, that were right before: 0 by chance, 1 for all."""
    right = (logits.argmax(1) == target.argmax(1)) * stands_for
    counts = stands_for @ target
    n_present = (counts > 0).sum()
    share = ((right @ target) / counts.clamp(min=1)).sum() / n_present
    return ((share - 1 / len(counts)) / (1 - 1 / len(counts))).clamp(0, 1)


def _likeness(elsewhere: Tensor, known: Tensor) -> Tensor:
    """How much voxels look like the nearest of the corrected ones, (m,): 1 if alike, towards 0 far away."""
    if not len(elsewhere):
        return elsewhere.new_zeros(0)
    rows = torch.cat([known, elsewhere])[:, :-1]
    spread = rows.std(0, correction=0)
    rows = ((rows - rows.mean(0)) / torch.where(spread > 1e-6, spread, 1.0)).float()
    picked = torch.linspace(0, len(known) - 1, min(len(known), _MOST_COMPARED)).long()
    near = torch.cdist(rows[len(known):], rows[picked]).amin(1).double()
    return torch.exp(-0.5 * near.square() / (rows.shape[1] * _REACH**2))


def _ridge(rows: Tensor, n_logits: int) -> Tensor:
    """Weight of the squared distance from the prior, by column: as if features had variance 1; the bias is free."""
    ridge = _RIDGE * rows.var(0).clamp(min=1e-6)
    ridge[:n_logits] = _RIDGE  # the former logits have a scale that means something
    ridge[-1] = 1e-6
    return ridge

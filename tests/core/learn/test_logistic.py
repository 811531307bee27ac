"""The fit of the last layer: what was corrected is followed, what was not is held as far as it is believed."""

from __future__ import annotations

import dataclasses

import torch

from mambaseg.learn.logistic import Sample, fit_logistic

_PRIOR = torch.eye(2, 4, dtype=torch.float64)  # of two logits, one more feature and the bias


def _sample(n_corrected: int = 2000) -> Sample:
    """The prior says class 0 everywhere; the user says 1 where a feature is high."""
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(n_corrected + 1000, 1, generator=generator, dtype=torch.float64)
    ones = torch.ones_like(feature)
    rows = torch.cat([2 * ones, -2 * ones, feature, ones], 1)
    known, elsewhere = rows[:n_corrected], rows[n_corrected:]
    return Sample(known, (known[:, 2] > 0).long(), torch.ones(len(known), dtype=torch.float64), elsewhere,
                  torch.zeros(0))


def _share_of_ones(sample: Sample, rows: torch.Tensor, hold: float = 0.6) -> float:
    weights = fit_logistic([sample], _PRIOR, _PRIOR, hold)
    return float(((rows @ weights.T).argmax(1) == 1).double().mean())


def test_where_it_was_wrong_everywhere_it_gives_in_and_in_a_known_kind_it_does_not() -> None:
    sample = _sample()
    assert 0.4 < _share_of_ones(sample, sample.elsewhere) < 0.6
    known = dataclasses.replace(sample, is_known=True)
    assert _share_of_ones(known, known.elsewhere, hold=6.0) < 0.2


def test_a_known_kind_is_held_beside_a_new_one() -> None:
    new, known = _sample(), dataclasses.replace(_sample(), is_known=True)
    kept = [fit_logistic(samples, _PRIOR, _PRIOR, 0.6)[:, -1] for samples in ([new, new], [new, known])]
    assert (kept[0] - _PRIOR[:, -1]).abs().sum() > (kept[1] - _PRIOR[:, -1]).abs().sum()


def test_what_looks_unlike_all_that_was_corrected_keeps_its_answer() -> None:
    """One more feature tells another ground, where nobody corrected anything; the prior said 0 there, too."""
    plain = _sample()

    def on_ground(rows: torch.Tensor, value: float) -> torch.Tensor:
        return torch.cat([rows[:, :3], torch.full_like(rows[:, :1], value), rows[:, 3:]], 1)

    alike = on_ground(plain.elsewhere[200:], 0.0)
    unlike = on_ground(plain.elsewhere[:200], 1.0)
    sample = dataclasses.replace(plain, features=on_ground(plain.features, 0.0), elsewhere=torch.cat([alike, unlike]))
    prior = torch.eye(2, 5, dtype=torch.float64)
    weights = fit_logistic([sample], prior, prior, 0.6)
    ones = [float(((rows @ weights.T).argmax(1) == 1).double().mean()) for rows in (alike, unlike)]
    assert ones[0] > 0.4
    assert ones[1] < 0.2

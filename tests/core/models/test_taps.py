"""An adapter's arithmetic: the blur keeps the mean, and a step that changes nothing changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from mambaseg.models import Model
from mambaseg.models.taps import add_step, blur, surroundings, tap_width
from tiny_models import save_tiny


@pytest.mark.parametrize("shape", [(30, 41), (12, 15, 9)])
def test_the_blur_is_scipys(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape)
    wanted = ndimage.gaussian_filter(values, 1.5, mode="nearest", radius=5)
    np.testing.assert_allclose(blur(torch.from_numpy(values)[None, None], 1.5)[0, 0].numpy(), wanted, atol=1e-12)


def test_surroundings_tell_how_far_a_border_is() -> None:
    border = torch.zeros(1, 2, 9, 80)
    border[:, 0, :, :40], border[:, 1, :, 40:] = 20, 20
    shares = torch.stack(surroundings(border), 1)  # (batch, scale, class, y, x)
    torch.testing.assert_close(shares.sum(2), torch.ones_like(shares.sum(2)))
    assert (shares[:, :, 1, :, 36:45].diff(dim=-1) > 0.02).all()
    torch.testing.assert_close(shares[:, :, 1, :, 40 - 6], 1 - shares[:, :, 1, :, 40 + 5])


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_step_at_its_start_leaves_the_answer_and_another_moves_it(tmp_path_factory: pytest.TempPathFactory,
                                                                    ndim: int) -> None:
    model: Model = save_tiny(tmp_path_factory.mktemp("taps") / "model", kind="classes", channels=("MR",), ndim=ndim,
                             name="model")
    x = torch.randn(1, 1, *model.plan.patch_size)
    with torch.inference_mode():
        plain = model.build()(x)
        weights = torch.eye(model.n_outputs, model.n_outputs + tap_width(model.build(), model) + 1)
        network = model.build()
        add_step(network, model, {"weights": weights, "sigma": torch.zeros(1)})
        torch.testing.assert_close(network(x), plain)
        weights[0, -1] = 2.0
        torch.testing.assert_close(network(x)[:, 0], plain[:, 0] + 2)

"""An adapter's arithmetic: the blur keeps the mean, and a step that changes nothing changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from mambaseg.models import Model
from mambaseg.models.taps import add_step, blur, tap_width
from tiny_models import save_tiny


@pytest.mark.parametrize("shape", [(30, 41), (12, 15, 9)])
def test_the_blur_is_scipys(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(0).normal(size=shape)
    wanted = ndimage.gaussian_filter(values, 1.5, mode="nearest", radius=5)
    np.testing.assert_allclose(blur(torch.from_numpy(values)[None, None], 1.5)[0, 0].numpy(), wanted, atol=1e-12)


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_step_at_its_start_leaves_the_answer_and_another_moves_it(tmp_path_factory: pytest.TempPathFactory,
                                                                    ndim: int) -> None:
    model: Model = save_tiny(tmp_path_factory.mktemp("taps") / "model", kind="classes", channels=("MR",), ndim=ndim,
                             name="model")
    x = torch.randn(1, 1, *model.plan.patch_size)
    with torch.inference_mode():
        plain = model.build()(x)
        weights = torch.eye(model.n_outputs, model.n_outputs + tap_width(model.build(), 1) + 1)
        network = model.build()
        add_step(network, {"weights": weights, "sigma": torch.zeros(1)})
        torch.testing.assert_close(network(x), plain)
        weights[0, -1] = 2.0
        torch.testing.assert_close(network(x)[:, 0], plain[:, 0] + 2)

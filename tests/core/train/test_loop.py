"""The loop's promises beyond what training from a folder shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mambaseg.nets import build, config_from_plan
from mambaseg.progress import Progress
from mambaseg.train.checkpoint import load_checkpoint
from mambaseg.train.loop import Settings, fit
from mambaseg.train.sample import Case
from tiny_models import tiny_plan


def some_cases() -> list[Case]:
    random = np.random.default_rng(0)
    labels = np.zeros((48, 48), np.int16)
    labels[8:24, 20:40] = 1
    image = labels + random.normal(0, 0.3, labels.shape)
    return [Case("square", image[None].astype(np.float32), labels)]


def test_the_running_mean_of_the_weights_is_kept_and_goes_on_after_a_break(tmp_path: Path) -> None:
    plan = tiny_plan(n_channels=1)
    torch.manual_seed(0)
    network = build("umamba-bot", **config_from_plan(plan, 1, 2, deep_supervision=True))
    mean = {name: weight.clone() for name, weight in network.state_dict().items()}
    seen: list[int] = []

    def follow(update: Progress) -> None:
        seen.append(update.done)
        decay = min(0.5, update.done / (9 + update.done))  # before the iteration was counted: (1 + n) / (10 + n)
        for name, weight in network.state_dict().items():
            mean[name].lerp_(weight, 1 - decay)

    for iterations in (4, 7):
        settings = Settings(iterations=iterations, optimizer="adamw", rate=1e-2, average=0.5, precision="float32",
                            pictures=True, device="cpu")
        fit(network, some_cases(), [], plan, settings, tmp_path, resume=True, progress=follow)
        for name, weight in network.state_dict().items():
            torch.testing.assert_close(weight, mean[name], msg=name)
        network.load_state_dict(load_checkpoint(tmp_path / "last.pt").weights)
    assert seen == list(range(1, 8))

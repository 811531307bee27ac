"""The loop's promises beyond what training from a folder shows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from discs import touching_discs
from mambaseg._errors import UserError
from mambaseg.instances import decode
from mambaseg.metrics.matching import match_instances
from mambaseg.nets import build, config_from_plan
from mambaseg.progress import Progress
from mambaseg.train.checkpoint import load_checkpoint
from mambaseg.train.loop import Settings, fit
from mambaseg.train.run import train
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


def disc_case(seed: int) -> Case:
    image, labels = touching_discs(seed)
    case = Case(f"discs-{seed}", image[None], labels)
    case.find_foreground(instances=True)
    return case


def test_a_network_learns_depths_that_tell_touching_discs_apart(tmp_path: Path) -> None:
    plan = dataclasses.replace(tiny_plan(n_channels=1), patch_size=(48, 48), batch_size=2)
    torch.manual_seed(0)
    network = build("umamba-bot", **config_from_plan(plan, 1, 3, deep_supervision=True))
    settings = Settings(iterations=50, optimizer="adamw", rate=1e-2, instances=True, instance_target="distance",
                        small_data=True, precision="float32", pictures=True, device="cpu")
    fit(network, [disc_case(seed) for seed in range(4)], [disc_case(9)], plan, settings, tmp_path)
    held_out = disc_case(8)
    with torch.inference_mode():
        probabilities = network(torch.from_numpy(held_out.image)[None])[0].softmax(1)[0].numpy()
    assert match_instances(held_out.labels, decode(probabilities, "distance"), 0.5).f1 > 0.8


def test_an_unknown_target_is_refused_before_the_data_are_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'flow'; choose boundary or distance"):
        train(tmp_path / "nothing", output=tmp_path / "model", minutes=1, instance_target="flow")

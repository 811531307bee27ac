"""A small model of bright discs, trained in seconds: what learning is tried on where there is no data set."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mambaseg.bench.pictures import bright
from mambaseg.image import Image
from mambaseg.learn.examples import prepare_image, to_case
from mambaseg.models import Model
from mambaseg.models.domains import representatives, signature
from mambaseg.models.package import save_package
from mambaseg.nets.registry import build, config_from_plan
from mambaseg.plan import Plan
from mambaseg.train.loop import Settings, fit

__all__ = ["small_model", "train_small"]

Draw = Callable[[int], tuple[NDArray[np.float32], NDArray[np.int32]]]

_PATCH = 64
_RATE = 3e-3


def small_model(name: str = "small") -> Model:
    """Description of a U-Mamba of three stages for objects in grey pictures."""
    plan = Plan(ndim=2, patch_size=(_PATCH, _PATCH), batch_size=4, features_per_stage=(12, 24, 48),
                kernel_sizes=((3, 3),) * 3, strides=((1, 1), (2, 2), (2, 2)), n_blocks_encoder=(1, 1, 1),
                n_blocks_decoder=(1, 1), transpose=(0, 1), normalisation=("zscore",), crop_to_nonzero=False,
                batch_dice=True)
    return Model(name=name, title="Small", description="Finds drawn discs.", network="umamba-bot",
                 network_config=config_from_plan(plan, 1, 3), plan=plan, classes=("background", "disc"),
                 channels=("grey",), kind="instances", licence="CC0-1.0", decoder={"min_size": 20.0},
                 mirror_axes=(0, 1))


def train_small(folder: Path, iterations: int, draw: Draw = bright, seeds: Sequence[int] = range(8),
                start: Model | None = None, seed: int = 0) -> Model:
    """A small model trained on drawn pictures with all their truth, saved in `folder`.

    Parameters
    ----------
    draw : image and object numbers from a seed
    start : model to begin with; None: from scratch
    """
    model = small_model(folder.name)
    torch.manual_seed(seed)
    config: dict[str, Any] = model.network_config | {"deep_supervision": True}
    network = build(model.network, **config)
    if start is not None:
        network.load_state_dict(start.build().state_dict())
    cases, kinds = [], [] if start is None else [*start.trained_on]
    for number in seeds:
        image, labels = draw(number)
        kinds.append(signature(image[None]))
        cases.append(to_case(str(number), prepare_image(Image.from_array(image), model)[0].array, labels))
    settings = Settings(iterations=iterations, optimizer="adamw", rate=_RATE, instances=True, pictures=True, seed=seed,
                        validate_every=10 * iterations)
    with tempfile.TemporaryDirectory(prefix="mambaseg-") as work:
        fit(network, cases, [], model.plan, settings, Path(work))
    return save_package(folder, dataclasses.replace(model, trained_on=representatives(kinds)), network.state_dict())

"""Model packages with small untrained networks, for tests of everything around a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mambaseg import nets
from mambaseg.models import Model
from mambaseg.models.package import save_package
from mambaseg.plan import Plan

COLOURS = ("red", "green", "blue")


def tiny_plan(ndim: int = 2, n_channels: int = 3, **changes: Any) -> Plan:
    side = 32 if ndim == 2 else 16
    values: dict[str, Any] = {
        "ndim": ndim, "patch_size": (side,) * ndim, "batch_size": 2, "features_per_stage": (8, 16, 32),
        "kernel_sizes": ((3,) * ndim,) * 3, "strides": ((1,) * ndim, (2,) * ndim, (2,) * ndim),
        "n_blocks_encoder": (1, 1, 1), "n_blocks_decoder": (1, 1), "transpose": tuple(range(ndim)),
        "normalisation": ("percentile",) * n_channels, "use_mask_for_norm": (False,) * n_channels,
        "crop_to_nonzero": False,
    }
    return Plan(**(values | changes))


def tiny_model(channels: tuple[str, ...] = COLOURS, ndim: int = 2, kind: str = "instances", name: str = "tiny",
               **plan_changes: Any) -> Model:
    plan = tiny_plan(ndim, len(channels), **plan_changes)
    classes = ("background", "nucleus") if kind == "instances" else ("background", "front", "back")
    n_outputs = len(classes) - 1 if kind == "regions" else 3
    return Model(
        name=name, title=f"Tiny {name}", description="Finds nothing, quickly.", network="umamba-bot",
        network_config=nets.config_from_plan(plan, len(channels), n_outputs), plan=plan, classes=classes,
        channels=channels, kind=kind, licence="CC0-1.0", decoder={"min_size": 4.0} if kind == "instances" else None,
        training={"data": "none", "attribution": "Nobody | <b>", "iterations": 0}, scores={"f1_50": 0.5},
        mirror_axes=tuple(range(ndim)))


def tiny_state(model: Model, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return dict(nets.build(model.network, **model.network_config).state_dict())


def save_tiny(folder: Path, *, seed: int = 0, half: bool = False, **changes: Any) -> Model:
    model = tiny_model(**changes)
    return save_package(folder, model, tiny_state(model, seed), half=half)

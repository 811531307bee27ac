"""Small saved models of several networks, whose random weights give every class somewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mambaseg import nets
from mambaseg.models import Model
from mambaseg.models.package import save_package
from tiny_models import tiny_plan

CLASSES = ("background", "front", "back")


def weights(network: str, config: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """Of a network; biases and norms, which start as 0 and 1, are not."""
    torch.manual_seed(seed)
    state = nets.build(network, **config).state_dict()
    return {key: value + 0.1 * torch.randn_like(value) if value.is_floating_point() else value
            for key, value in state.items()}


def save_model(folder: Path, network: str, *, ndim: int = 2, kind: str = "classes", n_channels: int = 1,
               n_networks: int = 1, about: dict[str, Any] | None = None, **plan_changes: Any) -> Model:
    """Save a model; `about` changes its description, the rest its plan."""
    usual = {"normalisation": ("zscore",) * n_channels, "features_per_stage": (4, 8, 8)}
    plan = tiny_plan(ndim, n_channels, **(usual | plan_changes))
    classes = ("background", "nucleus") if kind == "instances" else CLASSES
    config = nets.config_from_plan(plan, n_channels, 2 if kind == "regions" else 3, network=network)
    described: dict[str, Any] = {
        "name": "small", "title": "A small model", "description": "Finds nothing, quickly.", "network": network,
        "network_config": config, "plan": plan, "classes": classes,
        "channels": ("red", "green", "blue") if n_channels == 3 else tuple(f"marker {i}" for i in range(n_channels)),
        "kind": kind, "licence": "CC0-1.0", "decoder": {} if kind == "instances" else None,
        "mirror_axes": tuple(range(ndim))}
    states = [weights(network, config, seed) for seed in range(n_networks)]
    return save_package(folder, Model(**(described | (about or {}))), states[0], members=states[1:])

"""Checkpoint files as the four projects write them, with weights by the fixtures' rule."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent / "data" / "parity"))
import detw

ROOT = Path(__file__).resolve().parents[1]
State = dict[str, Tensor]
FOLDERS = (ROOT / "tests" / "data" / "parity", ROOT.parent / "shared" / "parity")


def fixture(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Record and arrays of a fixture, from the checkout or from the shared folder; None where neither has it."""
    folder = next((folder for folder in FOLDERS if (folder / f"{name}.keys.json").is_file()), None)
    return None if folder is None else detw.load(str(folder), name)


def state(record: dict[str, Any]) -> State:
    """The official state dictionary; aliases share their storage, as torch saves them."""
    owners: State = {}
    values: State = OrderedDict()
    for key, shape, dtype in record["keys"]:
        name = detw.canon(key)
        if name not in owners:
            owners[name] = torch.from_numpy(detw.tensor(key, shape, dtype))
        values[key] = owners[name]
    return values


def flat_plans(args: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """nnU-Net's plans in the flat form of 2.1, for the sizes of a U-Mamba fixture."""
    features = args["features_per_stage"]
    ndim = args["dim"]
    configuration = {
        "patch_size": args["input_size"] or [64] * ndim, "batch_size": 2, "spacing": [1.0] * ndim,
        "normalization_schemes": ["ZScoreNormalization"] * args["input_channels"],
        "use_mask_for_norm": [False] * args["input_channels"], "batch_dice": True,
        "UNet_base_num_features": features[0], "unet_max_num_features": max(features),
        "n_conv_per_stage_encoder": args["n_conv_per_stage"],
        "n_conv_per_stage_decoder": args["n_conv_per_stage_decoder"],
        "conv_kernel_sizes": args["kernel_sizes"], "pool_op_kernel_sizes": args["strides"]}
    plans = {
        "dataset_name": "Dataset703_Tiny", "plans_name": "nnUNetPlans", "transpose_forward": [0, 1, 2],
        "original_median_shape_after_transp": [1 if ndim == 2 else 40, 64, 64],
        "image_reader_writer": "NaturalImage2DIO" if ndim == 2 else "SimpleITKIO",
        "foreground_intensity_properties_per_channel": {},
        "configurations": {configuration_name(args): configuration}}
    return plans | changes


def current_plans(args: dict[str, Any]) -> dict[str, Any]:
    """The same plans in the form of 2.3 and later, one configuration inheriting from another."""
    plans = flat_plans(args)
    name = configuration_name(args)
    values = plans["configurations"][name]
    arguments = {"features_per_stage": args["features_per_stage"], "kernel_sizes": args["kernel_sizes"],
                 "strides": args["strides"], "n_blocks_per_stage": args["n_conv_per_stage"],
                 "n_conv_per_stage_decoder": args["n_conv_per_stage_decoder"]}
    kept = {key: value for key, value in values.items() if "conv" not in key and "num_features" not in key
            and key != "pool_op_kernel_sizes"}
    base = kept | {"architecture": {"network_class_name": "some.where.Network", "arch_kwargs": arguments},
                   "batch_size": 99}
    plans["configurations"] = {"base": base, name: {"inherits_from": "base", "batch_size": 2}}
    return plans


def configuration_name(args: dict[str, Any]) -> str:
    return "2d" if args["dim"] == 2 else "3d_fullres"


def dataset_json(args: dict[str, Any], labels: dict[str, Any] | None = None) -> dict[str, Any]:
    names = {f"organ {i}": i for i in range(1, args["num_classes"])}
    return {"channel_names": {str(i): f"channel {i}" for i in range(args["input_channels"])},
            "labels": labels or {"background": 0, **names}, "numTraining": 3, "file_ending": ".png"}


def nnunet_file(record: dict[str, Any], weights: State, **changes: Any) -> dict[str, Any]:
    """What nnU-Net saves: numpy scalars in the log and the optimiser, a device among the arguments."""
    args = record["args"]
    content = {
        "network_weights": weights, "grad_scaler_state": {"scale": 65536.0, "_growth_tracker": 3},
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(3)}},
                            "param_groups": [{"lr": np.float64(0.01), "params": [0]}]},
        "logging": {"train_losses": [np.float32(-0.5), np.float64(0.25)], "ema_fg_dice": [np.float64(0.9)],
                    "epoch_end_timestamps": [1.7e9], "dice_per_class_or_region": [[np.array([0.5, 0.25])]]},
        "_best_ema": np.float64(0.91), "current_epoch": 1000,
        "init_args": {"plans": flat_plans(args), "configuration": configuration_name(args), "fold": 0,
                      "dataset_json": dataset_json(args), "unpack_dataset": True, "device": torch.device("cuda:0"),
                      "output_folder": Path("/somewhere")},
        "trainer_name": "nnUNetTrainerUMambaBot", "inference_allowed_mirroring_axes": (0, 1)}
    return content | changes


def model_folder(folder: Path, folds: dict[str, float], labels: dict[str, Any] | None = None) -> Path:
    """A trainer's folder as nnU-Net leaves it; each fold's weights are those of a small fixture times a factor."""
    record, _ = fixture("umamba_enc_2d_v2_tiny_chan") or ({}, {})  # small, and in the checkout
    trainer = folder / "nnUNetTrainerUMambaEnc__nnUNetPlans__2d"
    for fold, factor in folds.items():
        weights = {key: value * factor for key, value in state(record).items()}
        (trainer / fold).mkdir(parents=True)
        torch.save(nnunet_file(record, weights, init_args={}, trainer_name="nnUNetTrainerUMambaEnc"),
                   trainer / fold / "checkpoint_final.pth")
        torch.save({"not": "looked at"}, trainer / fold / "checkpoint_best.pth")
    (trainer / "plans.json").write_text(json.dumps(flat_plans(record["args"])))
    (trainer / "dataset.json").write_text(json.dumps(dataset_json(record["args"], labels)))
    return trainer


def with_counters(weights: State) -> State:
    """With the buffers that thop leaves at every depth."""
    found = dict(weights)
    for key in list(weights)[:5]:
        found[f"{key.rpartition('.')[0]}.total_ops"] = torch.zeros(1, dtype=torch.float64)
    return found | {"total_ops": torch.zeros(1, dtype=torch.float64), "total_params": torch.zeros(1)}


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda weights: {f"{prefix}{key}": value for key, value in weights.items()}


CONTAINERS: dict[str, Callable[[State], Any]] = {
    "bare": lambda weights: weights,
    "vm latest": lambda weights: {"epoch": 3, "min_loss": 0.5, "min_epoch": 2, "loss": 0.6,
                                  "model_state_dict": weights, "optimizer_state_dict": {"state": {}},
                                  "scheduler_state_dict": {"T_max": 50}},
    "state_dict": lambda weights: {"state_dict": weights, "epoch": 1},
    "model_state": lambda weights: {"model_state": weights},
    "model": lambda weights: {"model": weights, "optimizer": {}},
    "network_weights": lambda weights: {"network_weights": weights, "trainer_name": "nnUNetTrainer"},
    "data parallel": lambda weights: prefixed("module.")(weights),
    "compiled": lambda weights: {"network_weights": prefixed("_orig_mod.")(weights)},
    "all wrappers": lambda weights: {"model": prefixed("module._orig_mod.network.model.")(weights)},
    "thop": with_counters,
    "thop, data parallel": lambda weights: prefixed("module.")(with_counters(weights)),
    "no counters": lambda weights: {key: value for key, value in weights.items() if "num_batches" not in key},
    "half": lambda weights: {key: value.half() if value.is_floating_point() else value
                             for key, value in weights.items()},
}

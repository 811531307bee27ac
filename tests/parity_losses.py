"""Losses and cell F1 against `losses_and_metrics.json`, for the parity tool: ``checks(folder)``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent / "data" / "parity"))
import detw
from mambaseg.metrics.matching import cells_f1
from mambaseg.train import family_losses as family
from mambaseg.train.losses import deep_supervision_loss, dice_cross_entropy

FILE = "losses_and_metrics.json"
TOLERANCE = 1e-9  # relative, in double precision
Case = tuple[Callable[..., Tensor], list[Tensor], Any]


class Difference(NamedTuple):
    """One item of the file: its name and the greatest difference of its values; None: nothing here can run it."""

    name: str
    difference: float | None

    @property
    def passes(self) -> bool:
        return self.difference is not None and self.difference <= TOLERANCE  # False for NaN

    @property
    def line(self) -> str:
        """As the parity tool prints it."""
        if self.difference is None:
            return f"{self.name} - - unknown"
        return f"{self.name} {self.difference:.3g} {TOLERANCE:.3g} {'ok' if self.passes else 'FAIL'}"


def data(tag: str, shape: list[int]) -> Tensor:
    return torch.from_numpy(detw.data(tag, shape, "unit")).double()


def binary() -> tuple[list[Tensor], Tensor]:
    target = (data("loss/bce_t", [3, 1, 16, 20]) > 0.3).double()
    target[2] = 0
    return [data("loss/bce", [3, 1, 16, 20])], target


def classes() -> tuple[list[Tensor], Tensor]:
    target = (data("loss/ce_t", [2, 12, 10]) * 1.2 + 2).floor().clip(0, 3).long()
    target[target == 3] = 0
    return [data("loss/ce", [2, 4, 12, 10])], target


def shapes() -> tuple[list[Tensor], Tensor]:
    target = torch.zeros(2, 1, 48, 48, dtype=torch.float64)
    target[0, 0, 8:30, 10:33] = 1
    target[1, 0, 20:24, 2:46] = 1
    return [data("loss/st", [2, 1, 48, 48]), data("loss/st2", [2, 1, 24, 24])], target


def levels() -> tuple[list[Tensor], list[Tensor]]:
    target = (data("loss/ds_t", [2, 1, 32, 32]) + 1.2).floor().clip(0, 2).long()
    outputs = [data(f"loss/ds{i}", [2, 3, 32 >> i, 32 >> i]) for i in range(4)]
    return outputs, [target[:, :, ::2**i, ::2**i] for i in range(4)]


def cases() -> dict[str, Case]:
    """Loss, predictions that it is differentiated by, and target, by the fixture's names."""
    outputs, targets = levels()
    found: dict[str, Case] = {
        "bce_dice_1_1": (lambda y, t: family.bce_dice(y[0].sigmoid(), t), *binary()),
        "bce_dice_05_2": (lambda y, t: family.bce_dice(y[0].sigmoid(), t, 0.5, 2), *binary()),
        "ce_dice_1_1": (lambda y, t: family.ce_dice(y[0], t), *classes()),
        "ce_dice_04_06": (lambda y, t: family.ce_dice(y[0], t, 0.4, 0.6), *classes()),
        "structure_full": (lambda y, t: family.structure_loss(y[0], t), shapes()[0][:1], shapes()[1]),
        "structure_pair": (family.structure_pair_loss, *shapes()),
        "unetv2_isic_deep_supervision": (family.unetv2_isic_loss, outputs, targets),
    }
    for batch in (True, False):
        found[f"nnunet_dc_ce_batchdice_{batch}"] = (
            lambda y, t, batch=batch: dice_cross_entropy(y[0], t[0], batch), outputs[:1], targets)
        found[f"nnunet_deep_supervision_batchdice_{batch}"] = (
            lambda y, t, batch=batch: deep_supervision_loss(y, t, batch), outputs, targets)
    return found


def loss_difference(case: Case, item: dict[str, Any]) -> float:
    """Greatest relative difference of the value and of the gradients' sums and norms; sums relative to the norm."""
    loss, predictions, target = case
    leaves = [prediction.detach().requires_grad_() for prediction in predictions]
    value = loss(leaves, target)
    value.backward()
    differences = [abs(value.item() - item["value"]) / abs(item["value"])]
    for leaf, total, norm in zip(leaves, item["grad_sum"], item["grad_l2"], strict=True):
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        scale = norm or 1.0
        differences.append(abs(gradient.sum().item() - total) / scale)
        differences.append(abs(gradient.norm().item() - norm) / scale)
    return float(np.max(differences))


def f1_difference(folder: Path, item: dict[str, Any]) -> float:
    """Greatest difference of counts and F1 of the cell protocol, at all thresholds, with and without the frame rule."""
    with np.load(folder / item["file"]) as maps:
        truth, predicted = maps["gt"], maps["pred"]
    differences = []
    for frame_px, expected in ((2, item["frame_removed"]), (0, item["all"])):
        for threshold, wanted in expected.items():
            found = cells_f1(truth, predicted, float(threshold), frame_px=frame_px)
            got = {"tp": found.tp, "fp": found.fp, "fn": found.fn, "n_gt": found.n_truth, "n_pred": found.n_prediction,
                   "f1": found.f1}
            differences += [abs(got[name] - number) for name, number in wanted.items()]
    return float(np.max(differences))


def checks(folder: Path) -> Iterator[Difference]:
    """A difference for each item of the folder's file; nothing where there is no such file."""
    path = folder / FILE
    if not path.is_file():
        return
    known = cases()
    for name, item in json.loads(path.read_text(encoding="utf-8"))["items"].items():
        found = None
        if name in known:
            found = loss_difference(known[name], item)
        elif name == "cells_f1":
            found = f1_difference(folder, item)
        yield Difference(f"losses_and_metrics.{name}", found)

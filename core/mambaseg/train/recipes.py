"""How the papers trained, as named presets: loss, optimiser, schedule, size and normalisation.

A preset says how a network learns. Which network is free, and how long is up to the user: schedules stretch over the
run. Augmentation is nnU-Net's in all of them, stronger than the authors' flips and single rotation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mambaseg._errors import UserError
from mambaseg.plan import Plan
from mambaseg.train import family_losses
from mambaseg.train.dataset import Dataset
from mambaseg.train.loader import Batch
from mambaseg.train.losses import downsample_target, region_target

__all__ = ["DEFAULT", "RECIPES", "Recipe", "as_binary", "check_recipe", "customised", "objective", "planned"]

Objective = Callable[[list[Tensor], Batch], Tensor]

DEFAULT = "nnunet-adamw"


@dataclass(frozen=True)
class Recipe:
    """How a paper trained.

    Parameters
    ----------
    summary : one line for people
    network : what it trained; another may be chosen
    optimizer, rate, weight_decay, schedule : see `mambaseg.train.schedule`
    loss : a key of `LOSSES`; None: Dice and cross entropy with deep supervision, nnU-Net's
    clip_norm, clip_value : largest norm of all gradients together, and largest of a single one; None: not clipped
    fit : how pictures meet the patch, see `mambaseg.plan.Plan`
    side : pixels of the patch, both ways; None: as planned from the data
    batch_size : None: as planned
    normalisation : of all channels, see `mambaseg.prepare.normalise`; None: as planned
    window : values that become 0 and 1, what lies beyond is clipped; None: none
    is_binary : one class against background, with one output
    instances : labels number objects
    decoder : method that makes objects; None: that of the target
    """

    summary: str
    network: str = "umamba-bot"
    optimizer: str = "adamw"
    rate: float = 1e-3
    weight_decay: float = 1e-2
    schedule: str = "cosine"
    loss: str | None = None
    clip_norm: float | None = 12.0
    clip_value: float | None = None
    fit: str = "windows"
    side: int | None = None
    batch_size: int | None = None
    normalisation: str | None = None
    window: tuple[float, float] | None = None
    is_binary: bool = False
    instances: bool | None = None
    decoder: str | None = None


_NNUNET = Recipe("nnU-Net's own: SGD 1e-2, polynomial decay", optimizer="sgd", rate=1e-2, weight_decay=3e-5,
                 schedule="polynomial")
_ISIC = Recipe("ISIC 2017/18 as VM-UNet: 256 x 256, AdamW 1e-3 in waves, BceDice", "vmunet", schedule="waves",
               loss="bce-dice", clip_norm=None, fit="bilinear", side=256, batch_size=32, normalisation="minmax_255",
               is_binary=True)

RECIPES: dict[str, Recipe] = {
    DEFAULT: Recipe("nnU-Net's, but AdamW 1e-3 and a cosine, which learn more in minutes"),
    "nnunet": _NNUNET,
    "umamba-cells": dataclasses.replace(
        _NNUNET, summary="cells as U-Mamba: interior and boundary, z-score of each picture, pieces of the interior",
        normalisation="zscore", instances=True, decoder="components"),
    "isic": _ISIC,
    "polyp": dataclasses.replace(_ISIC, summary="polyps as VM-UNetV2: as isic, 80 pictures a batch", network="vmunetv2",
                                 batch_size=80),
    "synapse": Recipe("abdominal CT as VM-UNet: slices of 224 x 224, -125 to 275 HU, CeDice 0.4 and 0.6", "vmunet",
                      schedule="waves", loss="ce-dice", clip_norm=None, fit="bilinear", side=224,
                      batch_size=32, window=(-125.0, 275.0)),
    "unetv2": dataclasses.replace(_NNUNET, summary="ISIC as U-Net v2: SGD 1e-3, polynomial decay, four resolutions",
                                  network="unetv2", rate=1e-3, loss="unetv2-isic"),
    "unetv2-polyp": Recipe("polyps as U-Net v2: 352 x 352, AdamW 1e-4, structure loss", "unetv2", rate=1e-4,
                           weight_decay=1e-4, schedule="constant", loss="structure", clip_norm=None, clip_value=0.5,
                           fit="bilinear", side=352, batch_size=16, normalisation="imagenet", is_binary=True),
}


def customised(name: str, **wishes: Any) -> Recipe:
    """The preset of that name, with what the user wants otherwise.

    Parameters
    ----------
    wishes : fields of `Recipe`; None: as the preset says. Another optimiser brings its usual rate, schedule and decay

    Raises
    ------
    UserError : there is no such preset; lists them
    """
    if name not in RECIPES:
        raise UserError(f"There is no recipe {name!r}; choose one of {', '.join(RECIPES)}.")
    recipe = RECIPES[name]
    wishes = {field: value for field, value in wishes.items() if value is not None}
    if wishes.get("optimizer", recipe.optimizer) != recipe.optimizer:
        usual = next(each for each in RECIPES.values() if each.optimizer == wishes["optimizer"])
        wishes = {"rate": usual.rate, "schedule": usual.schedule, "weight_decay": usual.weight_decay} | wishes
    return dataclasses.replace(recipe, **wishes)


def check_recipe(name: str, data: Dataset) -> None:
    """Raise UserError unless a data set can be learned by the preset."""
    recipe = RECIPES[name]
    n_classes = len(data.classes) - 1
    if recipe.is_binary and (data.instances or n_classes != 1):
        found = "objects" if data.instances else f"{n_classes} classes"
        raise UserError(f"The recipe {name} is for one class against background, but the labels hold {found}; merge "
                        f"them, or choose another recipe: {DEFAULT}.")
    if recipe.normalisation == "imagenet" and data.n_channels != 3:
        raise UserError(f"The recipe {name} is for colour pictures, but these have {data.n_channels} channels; choose "
                        f"another recipe: {DEFAULT}.")
    if recipe.loss in ("ce-dice", "unetv2-isic") and data.regions:
        raise UserError(f"The recipe {name} is for classes that exclude each other, but these nest; choose another "
                        f"recipe: {DEFAULT}.")
    if recipe.loss is not None and data.ignore_value is not None:
        raise UserError(f"The recipe {name} knows no voxels that do not count, but the data set has a label "
                        f'"ignore"; choose another recipe: {DEFAULT}.')


def as_binary(data: Dataset) -> Dataset:
    """A data set of one class, as one region: its network has one output."""
    value = data.label_values[1] if data.label_values else data.region_order[0]
    return dataclasses.replace(data, regions=((value,),), region_order=(value,), label_values=())


def planned(recipe: Recipe, plan: Plan) -> Plan:
    """The plan with what the preset says of sizes and normalisation."""
    changes: dict[str, Any] = {"fit": recipe.fit}
    n_channels = len(plan.normalisation)
    if recipe.side is not None:
        changes |= {"patch_size": (recipe.side,) * plan.ndim, "crop_to_nonzero": False}
    if recipe.batch_size is not None:
        changes["batch_size"] = recipe.batch_size
    if recipe.normalisation is not None:
        changes |= {"normalisation": (recipe.normalisation,) * n_channels, "use_mask_for_norm": (False,) * n_channels}
    if recipe.window is not None:
        low, high = recipe.window
        known = {"mean": low, "std": high - low, "percentile_00_5": low, "percentile_99_5": high}
        changes |= {"normalisation": ("ct",) * n_channels, "use_mask_for_norm": (False,) * n_channels,
                    "intensities": (known,) * n_channels}
    return dataclasses.replace(plan, **changes)


# --- losses -----------------------------------------------------------------------------------------------------------

def objective(recipe: Recipe, plan: Plan, data: Dataset) -> Objective | None:
    """The preset's loss; None: that of `mambaseg.train.loop`."""
    if recipe.loss is None:
        return None
    compute = LOSSES[recipe.loss]
    return lambda outputs, batch: compute(outputs, batch, plan, data)


def _bce_dice(outputs: list[Tensor], batch: Batch, plan: Plan, data: Dataset) -> Tensor:
    return family_losses.bce_dice(outputs[0].float().sigmoid(), region_target(batch.target, data.regions).float())


def _ce_dice(outputs: list[Tensor], batch: Batch, plan: Plan, data: Dataset) -> Tensor:
    # The weights of the class; the authors' own script hands over 1 and 1
    return family_losses.ce_dice(outputs[0], batch.target[:, 0], 0.4, 0.6)


def _structure(outputs: list[Tensor], batch: Batch, plan: Plan, data: Dataset) -> Tensor:
    return family_losses.structure_pair_loss(outputs[:2], region_target(batch.target, data.regions).float())


def _unetv2_isic(outputs: list[Tensor], batch: Batch, plan: Plan, data: Dataset) -> Tensor:
    targets = downsample_target(batch.target, plan.strides, len(outputs))
    return family_losses.unetv2_isic_loss(outputs, targets, plan.batch_dice)


LOSSES: dict[str, Callable[[list[Tensor], Batch, Plan, Dataset], Tensor]] = {
    "bce-dice": _bce_dice, "ce-dice": _ce_dice, "structure": _structure, "unetv2-isic": _unetv2_isic}

"""From a checkpoint file or an nnU-Net model folder to a model package."""

from __future__ import annotations

import dataclasses
import re
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mambaseg import nets
from mambaseg._errors import ModelError
from mambaseg.models._weights import sha256
from mambaseg.models.importer._nnunet import check_architecture
from mambaseg.models.importer.checkpoint import Checkpoint, read_checkpoint
from mambaseg.models.importer.nnunet_folder import (
    Targets,
    architecture,
    channel_names,
    exported_network,
    nnunet_plan,
    previous_folder,
    read_folder,
    targets,
)
from mambaseg.models.importer.recipe import SYNAPSE_ORGANS, is_of_synapse, recipe, sized
from mambaseg.models.importer.recognise import Recognised, Strides, official_names, recognise
from mambaseg.models.model import Model
from mambaseg.models.package import save_package
from mambaseg.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["import_checkpoint"]

_TITLES = {"umamba-bot": "U-Mamba (Bot)", "umamba-enc": "U-Mamba (Enc)", "vmunet": "VM-UNet", "vmunetv2": "VM-UNetV2",
           "unetv2": "U-Net v2", "nnunet": "nnU-Net", "nnunet-resenc": "nnU-Net (residual encoder)"}


def import_checkpoint(path: Path | str, output: Path | str, *, name: str | None = None,
                      classes: Sequence[str] | None = None, patch: Sequence[int] | None = None,
                      strides: Strides | int | None = None, deep_supervision: bool | None = None) -> Model:
    """Make a model package of an official checkpoint file, or of an nnU-Net model folder of U-Mamba or nnU-Net.

    Parameters
    ----------
    path : a `.pth` file, or a folder with `plans.json`, `dataset.json` and ``fold_*/checkpoint_final.pth``; several
        folds become members of one package. Of a cascade's second stage the first is taken from the folder beside it
    output : folder of the package
    name : of the model; None: that of `output`
    classes : names of the classes, background first; None: from the data set's description, else numbers
    patch : sides of the network's input; None: from the plan, else the paper's
    strides : a row for each stage, for a U-Mamba of the second generation that came without a plan; a number stands
        for all axes of all stages after the first
    deep_supervision : whether a VM-UNetV2 was trained with it, which its weights do not say; None: as published

    Raises
    ------
    ModelError : the file cannot be read, is no checkpoint of a known network, does not fit it (names each key), or is
        made to harm; or something is wanted that it does not say
    """
    path, output = Path(path).expanduser(), Path(output)
    checkpoints, notes = read_folder(path) if path.is_dir() else ([read_checkpoint(path)], ())
    first = checkpoints[0]
    planned = nnunet_plan(first)
    found: list[Recognised] = []
    states: list[dict[str, Tensor]] = []
    for checkpoint in checkpoints:
        with _naming(checkpoint.path):
            weights = _official(checkpoint.weights)
            found.append(exported_network(checkpoint)
                         or _recognise(weights, planned, patch, strides, deep_supervision))
            if found[-1] != found[0]:
                raise ModelError(f"it holds another network than {first.path}; folds of one training have the same. "
                                 "Import them one by one.")
            if found[-1].network.startswith("nnunet"):
                check_architecture(architecture(checkpoint))
            states.append(_checked(found[-1], weights))
    with _naming(first.path):
        model = _describe(first, found[0], _plan(found[0], planned, patch), classes)
    training = model.training | {
        "files": [f"{item.path.parent.name}/{item.path.name}" if path.is_dir() else item.path.name
                  for item in checkpoints],
        "sha256": [sha256(item.path) for item in checkpoints], "notes": [*notes, *model.training["notes"]]}
    title = name if name is not None else output.resolve().name
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", title).strip("-.") or "model"
    described = dataclasses.replace(model, name=plain, title=title, training=training)
    before = previous_folder(first, path)
    if before is None:
        return save_package(output, described, states[0], members=states[1:])
    with tempfile.TemporaryDirectory(prefix="mambaseg-") as folder:
        previous = import_checkpoint(before, Path(folder) / "previous", name=f"{title}, low resolution",
                                     classes=classes)
        return save_package(output, described, states[0], members=states[1:], previous=previous)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say which file an error is about."""
    try:
        yield
    except ModelError as error:
        message = str(error)
        raise ModelError(message if message.startswith(str(path)) else f"{path}: {message}") from error


def _official(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under official names; counters of batch norms, which old files lack and nothing uses, as 0."""
    names = official_names(list(weights))
    renamed = {names[key]: value for key, value in weights.items()}
    norms = (key.removesuffix(".running_mean") for key in list(renamed) if key.endswith(".running_mean"))
    for norm in norms:
        renamed.setdefault(f"{norm}.num_batches_tracked", torch.tensor(0))
    return renamed


def _recognise(weights: dict[str, Tensor], planned: Plan | None, patch: Sequence[int] | None,
               strides: Strides | int | None, deep_supervision: bool | None) -> Recognised:
    """The network, with what a plan says of its sizes, or else the user."""
    if planned is not None:
        strides = planned.strides
        patch = patch if patch is not None else planned.patch_size
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    return recognise(shapes, strides=strides, patch_size=patch, deep_supervision=deep_supervision)


def _checked(found: Recognised, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our network's state dictionary; nothing of the size that the shapes ask for is allocated."""
    try:
        with torch.device("meta"):
            skeleton = nets.build(found.network, **found.config)
    except (TypeError, ValueError, LookupError, ArithmeticError, RuntimeError) as error:
        raise ModelError(f"it looks like {_title(found)}, but its sizes contradict each other "
                         f"({str(error).splitlines()[0]}); get a fresh copy.") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a network without memory takes no values is what is wanted
        nets.load_official(skeleton, weights)
    named = {nets.canonical_key(key): value for key, value in weights.items()}
    return {key: named[key] for key in skeleton.state_dict()}


def _plan(found: Recognised, planned: Plan | None, patch: Sequence[int] | None) -> Plan:
    """The plan that came along, with the sizes of the weights; else the recipe of the network's paper."""
    if planned is None:
        return recipe(found, patch)
    if found.is_told:
        return planned
    if "features_per_stage" in found.config:
        return sized(planned, found)
    own = recipe(found, patch if patch is not None else planned.patch_size)
    names = ("patch_size", "features_per_stage", "kernel_sizes", "strides", "n_blocks_encoder", "n_blocks_decoder")
    return dataclasses.replace(planned, **{name: getattr(own, name) for name in names})


def _describe(checkpoint: Checkpoint, found: Recognised, plan: Plan, classes: Sequence[str] | None) -> Model:
    """The model's card; name, files and folds come later."""
    meaning = _targets(checkpoint, found, classes)
    title = _title(found)
    data = str(checkpoint.plans.get("dataset_name", ""))[:200]
    training: dict[str, Any] = {"imported": title, "notes": [*found.notes, *meaning.notes]}
    if data:
        training["data"] = {"name": data}
    if checkpoint.trainer:
        training["trainer"] = checkpoint.trainer
    return Model(
        name="imported", title="", description=f"{title}, imported from {checkpoint.path.name}"
        + (f"; trained on {data}." if data else "."),
        network=found.network, network_config=found.config, plan=plan, classes=meaning.classes,
        channels=channel_names(checkpoint.dataset, len(plan.normalisation)), kind=meaning.kind,
        licence=str(checkpoint.dataset.get("licence") or "not stated")[:200],
        regions=meaning.regions, region_order=meaning.region_order,
        decoder={} if meaning.kind == "instances" else None, training=training,
        mirror_axes=tuple(axis for axis in checkpoint.mirror_axes if axis < plan.ndim))


def _title(found: Recognised) -> str:
    """The network's name for people."""
    return _TITLES.get(found.network, found.network)


def _targets(checkpoint: Checkpoint, found: Recognised, classes: Sequence[str] | None) -> Targets:
    """What the outputs mean: by the data set's description, by the number of outputs, and by the names given."""
    if checkpoint.dataset:
        meaning = targets(checkpoint.dataset, found.n_classes, checkpoint.path)
    elif found.n_classes == 1:
        meaning = Targets("regions", ("background", "foreground"))
    elif is_of_synapse(found) and not checkpoint.plans:
        meaning = Targets("classes", ("background", *SYNAPSE_ORGANS), (
            "Nine classes were taken to be those of the authors' model of the abdomen (Synapse): CT slices, "
            "from -125 to 275 HU.",))
    else:
        meaning = targets({}, found.n_classes, checkpoint.path)
    if classes is None:
        return meaning
    if len(classes) != len(meaning.classes):
        raise ModelError(f"{len(classes)} classes are named ({', '.join(classes)}), but the network knows "
                         f"{len(meaning.classes)} with the background; name all of them, background first.")
    return dataclasses.replace(meaning, classes=tuple(classes), notes=())

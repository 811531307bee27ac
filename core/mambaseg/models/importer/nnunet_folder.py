"""nnU-Net model folders: which checkpoints are in one, and what its plan and data set say."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mambaseg._errors import ModelError
from mambaseg.image import COLOURS
from mambaseg.models import _schema
from mambaseg.models.importer.checkpoint import Checkpoint, read_checkpoint
from mambaseg.models.importer.recognise import Recognised
from mambaseg.nets.for_nnunet import CLASS_NAME
from mambaseg.plan import Plan
from mambaseg.plan._nnunet_form import resolve
from mambaseg.plan.rules import to_plan

__all__ = ["Targets", "architecture", "channel_names", "exported_network", "nnunet_plan", "previous_folder",
           "read_folder", "targets"]

_MAX_JSON_BYTES = 64 * 2**20
_CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
_SHORT = dict(zip("rgb", COLOURS, strict=True))  # grey pictures are repeated only for channels of the long names


@dataclass(frozen=True)
class Targets:
    """What a network's outputs mean.

    Parameters
    ----------
    kind, classes, regions, region_order : as in `mambaseg.models.Model`
    notes : sentences for people
    """

    kind: str
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    regions: tuple[tuple[int, ...], ...] = ()
    region_order: tuple[int, ...] = ()


def read_folder(folder: Path) -> tuple[list[Checkpoint], tuple[str, ...]]:
    """The checkpoints of a trainer's folder, or of one of its ``fold_*`` folders; each with the folder's plan.

    Returns
    -------
    One checkpoint a fold, and sentences for people on what was left out

    Raises
    ------
    ModelError : no checkpoint or no plan in the folder, or one cannot be read
    """
    folder = folder.resolve()
    trainer = folder.parent if folder.name.startswith("fold_") else folder
    files, notes = _folds(folder, trainer)
    plans, dataset = (_read_json(trainer / name) for name in ("plans.json", "dataset.json"))
    checkpoints = []
    for file in files:
        checkpoint = read_checkpoint(file)
        configuration = checkpoint.configuration or trainer.name.rsplit("__", 1)[-1]
        checkpoints.append(dataclasses.replace(checkpoint, plans=plans, dataset=dataset, configuration=configuration))
    return checkpoints, notes


def _folds(folder: Path, trainer: Path) -> tuple[list[Path], tuple[str, ...]]:
    """A checkpoint file for each fold; the folds of a cross-validation rather than a network trained on all."""
    found = {}
    for fold in [folder] if folder != trainer else sorted(trainer.glob("fold_*")):
        names = [name for name in _CHECKPOINTS if (fold / name).is_file()]
        if names:
            found[fold.name] = fold / names[0]
    if not found:
        inner = sorted({path.parent.parent.name for path in folder.glob("*/fold_*/checkpoint_*.pth")})
        hint = f"give one of the folders in it: {', '.join(inner[:5])}" if inner else (
            "give a checkpoint file (.pth) or the folder of a trainer, with plans.json and fold_*/ in it")
        raise ModelError(f"{folder} holds no {' or '.join(_CHECKPOINTS)} in a folder fold_*; {hint}.")
    if "fold_all" in found and len(found) > 1:
        del found["fold_all"]
        return list(found.values()), ("The network of fold_all was left out, because it was trained on the cases that "
                                      "the other folds are judged by.",)
    return list(found.values()), ()


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON file of nnU-Net's."""
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise ModelError(f"{path} is larger than {_MAX_JSON_BYTES >> 20} MiB, so nnU-Net did not write it.")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}), but an nnU-Net model folder has it; give the "
                         "whole folder.") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not valid JSON; get a fresh copy of the model folder.") from error
    if not isinstance(values, dict) or not values:
        raise ModelError(f"{path} is not what nnU-Net writes; get a fresh copy of the model folder.")
    return values


def nnunet_plan(checkpoint: Checkpoint) -> Plan | None:
    """The plan that a checkpoint was trained by, None where none came along.

    Raises
    ------
    ModelError : the plan lacks an entry, or has not the configuration of the checkpoint
    """
    if not checkpoint.plans:
        return None
    try:
        return to_plan(checkpoint.plans, checkpoint.configuration)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"The plan of {checkpoint.path} cannot be understood (near {error}); it is neither the flat "
                         "form of nnU-Net 2.1 nor the current one.") from error


def architecture(checkpoint: Checkpoint) -> dict[str, Any]:
    """Arguments of the network's class in the plan that a checkpoint came with; empty where it names none."""
    arguments = _planned_network(checkpoint).get("arch_kwargs")
    return dict(arguments) if isinstance(arguments, Mapping) else {}


def exported_network(checkpoint: Checkpoint) -> Recognised | None:
    """The network of a model that mambaseg exported, None of others.

    Raises
    ------
    ModelError : its settings are out of bounds
    """
    if _planned_network(checkpoint).get("network_class_name") != CLASS_NAME:
        return None
    arguments = architecture(checkpoint)
    _schema.check_network(arguments.get("network"), arguments.get("network_config"), "plans.json")
    return Recognised(arguments["network"], arguments["network_config"], is_told=True)


def _planned_network(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The entry for the network in the plan that a checkpoint came with; empty where there is none."""
    found = resolve(checkpoint.plans, checkpoint.configuration).get("architecture") if checkpoint.plans else None
    return found if isinstance(found, Mapping) else {}


def previous_folder(checkpoint: Checkpoint, path: Path) -> Path | None:
    """The trainer's folder of the stage before, for a checkpoint of a cascade; None for others.

    Parameters
    ----------
    path : what is imported: a folder, or a checkpoint file

    Raises
    ------
    ModelError : there is no such folder beside that of the cascade
    """
    name = resolve(checkpoint.plans, checkpoint.configuration).get("previous_stage") if checkpoint.plans else None
    if not isinstance(name, str):
        return None
    own = checkpoint.path.resolve().parents[1]
    found = own.with_name("__".join([*own.name.split("__")[:-1], name]))
    if path.is_dir() and re.fullmatch(r"\w+", name) and found != own and found.is_dir():
        return found
    raise ModelError(f"{path} is the second stage of a cascade, which also takes the labels of {name}, but its folder "
                     f"{found.name} is not there; give the folder {own.name} with {found.name} beside it.")


def channel_names(dataset: Mapping[str, Any], n_channels: int) -> tuple[str, ...]:
    """Names of the channels, in order; invented where the data set's description has none."""
    given = dataset.get("channel_names", dataset.get("modality"))
    if not isinstance(given, Mapping) or len(given) != n_channels:
        return COLOURS if n_channels == 3 else tuple(f"channel {i}" for i in range(n_channels))
    names = tuple(str(given[key])[:200] for key in sorted(given, key=lambda key: (len(str(key)), str(key))))
    short = tuple(_SHORT.get(name.lower(), name.lower()) for name in names)
    return short if short == COLOURS else names


def targets(dataset: Mapping[str, Any], n_outputs: int, path: Path) -> Targets:
    """What the outputs of a network mean, by its data set's description.

    Raises
    ------
    ModelError : the description names another number of classes than the network has outputs
    """
    labels = dataset.get("labels")
    if not isinstance(labels, Mapping) or not labels:
        return Targets("classes", ("background", *(f"class {i}" for i in range(1, n_outputs))),
                       ("The names of the classes were not in the checkpoint and are numbers.",))
    named = {str(name)[:200]: value for name, value in labels.items() if name != "ignore"}
    if any(isinstance(value, list | tuple) for value in named.values()):
        found = _regions(dataset, named)
        n_named = len(found.classes) - 1
    else:
        found = _classes(named)
        n_named = len(named)
    if n_named != n_outputs:
        raise ModelError(f"{path}: the data set names {n_named} classes, but the network has {n_outputs} outputs; the "
                         "checkpoint and its dataset.json do not belong together.")
    return found


def _classes(labels: Mapping[str, Any]) -> Targets:
    """Classes that exclude each other; interior and boundary become objects, as in the U-Mamba authors' cell model."""
    names = tuple(sorted(labels, key=lambda name: _as_int(labels[name])))
    if len(names) == 3 and "interior" in names[1].lower() and "bound" in names[2].lower():
        return Targets("instances", ("background", re.sub(r"(?i)\W*interior\W*", "", names[1]) or "cell"),
                       ("The classes interior and boundary are decoded to one number for each object.",))
    return Targets("classes", names)


def _regions(dataset: Mapping[str, Any], labels: Mapping[str, Any]) -> Targets:
    """Classes that may nest, one output each, painted in the order that the data set gives."""
    regions = {name: tuple(dict.fromkeys(value)) if isinstance(value, list | tuple) else (value,)
               for name, value in labels.items() if value not in (0, [0], (0,))}
    order = dataset.get("regions_class_order")
    return Targets("regions", ("background", *regions), regions=tuple(regions.values()),
                   region_order=tuple(order) if isinstance(order, list | tuple) else ())


def _as_int(value: Any) -> int:
    return value if isinstance(value, int) else 0



"""From a folder of images and labels to a model package."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mambaseg._errors import ModelError, UserError
from mambaseg.instances import INSTANCE_TARGETS
from mambaseg.io.atomic import atomic_path
from mambaseg.models import Model, load_model
from mambaseg.models.package import save_package
from mambaseg.nets.registry import PLANAR, build, check_name, config_from_plan
from mambaseg.nets.sizes import SizeRule
from mambaseg.plan import Plan
from mambaseg.plan.plan import FITS
from mambaseg.plan.training import Budget, plan_for_training
from mambaseg.progress import Progress, ProgressCallback, report
from mambaseg.train import processes
from mambaseg.train.checkpoint import Checkpoint
from mambaseg.train.dataset import Dataset, open_dataset
from mambaseg.train.initial import check_start, load_initial
from mambaseg.train.loop import Settings, fit
from mambaseg.train.prepared import prepare_cases
from mambaseg.train.recipes import DEFAULT, Recipe, as_binary, check_recipe, customised, objective, planned
from mambaseg.train.sample import slices
from mambaseg.train.score import judge
from mambaseg.train.validation import save_validation

__all__ = ["prepare_cases", "train"]


def train(dataset: Path | str, network: str | None = None, output: Path | str = "model", *,
          minutes: float | None = None, iterations: int | None = None, resume: bool = False,
          instances: bool | None = None, initial: Path | str | None = None, recipe: str = DEFAULT,
          optimizer: str | None = None, rate: float | None = None, batch_size: int | None = None,
          budget: Budget = "small", device: str = "auto", precision: str = "auto", seed: int = 0,
          fit_to: str | None = None, fold: int | str = 0, instance_target: str = "boundary", small_data: bool = False,
          progress: ProgressCallback | None = None) -> Model:
    """Train a network on a data set of images and labels and save it as a model package.

    Parameters
    ----------
    dataset : folder with ``images/`` and ``labels/``, a raw folder of nnU-Net's or a CSV table; see
        `mambaseg.train.files.find_cases`. It is checked first, and all its problems are told at once
    network : name in `mambaseg.nets.NETWORKS`; some want the extra `compare`. None: the recipe's
    output : folder of the model package; ``<output>.training`` beside it keeps what `resume` needs
    minutes, iterations : when to stop; one of them
    resume : go on where an interrupted training of the same output stopped
    instances : labels number objects rather than classes; None: guessed
    initial : ImageNet weights to start the encoder from; see `mambaseg.train.initial.load_initial`. None: random
    recipe : how to learn, a name in `mambaseg.train.recipes.RECIPES`; what is given beside it goes before it
    batch_size : patches an iteration; None: as the recipe says or the plan
    optimizer, rate, device, precision, seed : see `mambaseg.train.loop.Settings`
    budget : size of the network; "small" suits a CPU, "standard" is U-Mamba's own
    fit_to : "windows", patches cut from the images; or how whole pictures are resized to the patch, see `Plan`. None:
        as the recipe says
    fold : which fifth of the cases is held out, 0 to 4, where the data set does not say, or "all" to hold out none;
        see `open_dataset`
    instance_target, small_data : see `mambaseg.train.loop.Settings`
    progress : called after each iteration; raising `Cancelled` stops, and `resume` can go on from there

    Raises
    ------
    UserError : the folder, the network's name or a setting is unusable
    Cancelled : as raised by `progress`
    """
    chosen = customised(recipe, network=network, optimizer=optimizer, rate=rate, batch_size=batch_size, fit=fit_to)
    _check(chosen, instance_target, initial)
    output = Path(output).resolve()
    if output.is_file():
        raise ModelError(f"{output} is a file, so no model package can be written there; give a folder.")
    report(progress, Progress("Reading", 0, 0, f"Looking through {dataset}"))
    data = open_dataset(Path(dataset), chosen.instances if instances is None else instances, fold=fold,
                        progress=progress)
    check_recipe(recipe, data)
    if chosen.is_binary:
        data = as_binary(data)
    settings = Settings(minutes, iterations, chosen.optimizer, chosen.rate, data.instances, _are_pictures(data),
                        device=device, precision=precision, seed=seed, regions=data.regions,
                        has_unlabelled=data.ignore_value is not None, instance_target=instance_target,
                        small_data=small_data, schedule=chosen.schedule, weight_decay=chosen.weight_decay,
                        clip_norm=chosen.clip_norm, clip_value=chosen.clip_value)
    work = output.with_name(f"{output.name}.training")
    with processes.joined(device):
        with processes.first_before_others():
            plan = _plan(data, chosen, work, resume, budget)
        model, weights = _learn(data, plan, chosen, settings, work, output.name, resume, initial, progress)
        model = dataclasses.replace(model, training=model.training | {"recipe": recipe})
        with processes.first_before_others():
            if processes.rank() > 0:
                return load_model(output)
            candidate = save_package(work / "package", model, weights)
            judged = judge(candidate, data, device, progress)
            if judged.details:
                save_validation(work, judged.details, data.validation, judged.predictions)
            return save_package(output, dataclasses.replace(model, scores=judged.scores, keep_largest=judged.groups),
                                weights)


def _check(chosen: Recipe, instance_target: str, initial: Path | str | None) -> None:
    """Raise UserError for a name that is none, before any image is read."""
    check_name(chosen.network)
    if chosen.fit not in FITS:
        raise UserError(f"Pictures cannot be fitted to the network by {chosen.fit!r}; choose one of "
                        f"{', '.join(FITS)}.")
    if instance_target not in INSTANCE_TARGETS:
        raise UserError(f"Objects cannot be learned as {instance_target!r}; choose {' or '.join(INSTANCE_TARGETS)}.")
    if initial is not None:
        check_start(chosen.network)


def _learn(data: Dataset, plan: Plan, chosen: Recipe, settings: Settings, work: Path, name: str, resume: bool,
           initial: Path | str | None, progress: ProgressCallback | None) -> tuple[Model, dict[str, Tensor]]:
    """The trained model's card, without scores, and its weights."""
    torch.manual_seed(settings.seed)
    module = build(chosen.network, **config_from_plan(plan, data.n_channels, data.n_outputs, deep_supervision=True,
                                                      network=chosen.network))
    started = {} if initial is None else {"initial": load_initial(chosen.network, module, Path(initial))}
    rule = getattr(module, "size_rule", None)
    if isinstance(rule, SizeRule):
        plan = dataclasses.replace(plan, patch_size=rule.fit(plan.patch_size))
    with processes.first_before_others():
        cases = prepare_cases(data, [*data.train, *data.validation], plan, progress, work / "prepared")
    learned, held_out = cases[:len(data.train)], cases[len(data.train):]
    if plan.ndim < data.ndim:
        learned, held_out = ([plane for case in part for plane in slices(case)] for part in (learned, held_out))
    state = fit(module, learned, held_out, plan, settings, work, resume, progress, objective(chosen, plan, data))
    model = _describe(name, chosen, plan, data, settings, state)
    weights = {key: value.cpu() for key, value in module.state_dict().items()}
    return dataclasses.replace(model, training=model.training | started), weights


def _are_pictures(data: Dataset) -> bool:
    """Whether these are microscopy or camera pictures, whose scale and stain vary; not slices of a scanner."""
    return data.ndim == 2 and data.unit != "mm"


def _plan(data: Dataset, chosen: Recipe, work: Path, resume: bool, budget: Budget) -> Plan:
    """A new plan from the data, or the one that the resumed training began with."""
    path = work / "plan.json"
    if path.is_file() and (resume or processes.rank() > 0):
        return Plan.from_json(json.loads(path.read_text(encoding="utf-8")))
    microscopy = data.instances or data.unit != "mm"
    fingerprint = data.fingerprint(data.train, crop=not microscopy)
    ndim = 2 if chosen.network in PLANAR else data.ndim
    plan = planned(chosen, plan_for_training(fingerprint, ndim, data.n_channels, budget=budget,
                                             instances=data.instances, n_classes=len(data.classes),
                                             channel_names=data.channels))
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(plan.to_json(), indent=2), encoding="utf-8")
    return plan


def _describe(name: str, chosen: Recipe, plan: Plan, data: Dataset, settings: Settings, state: Checkpoint) -> Model:
    """The model's card; scores come later."""
    source = {key: data.info[key] for key in ("name", "licence", "citation") if key in data.info}
    training: dict[str, Any] = {
        "data": source, "n_cases": len(data.train), "n_held_out": len(data.validation),
        "iterations": state.iteration, "seconds": round(state.elapsed_s), "best_validation_dice": state.best_score,
        "optimizer": settings.optimizer, "rate": settings.rate, "history": state.history}
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
    decoder = chosen.decoder or INSTANCE_TARGETS[settings.instance_target].method
    return Model(
        name=plain, title=name, network=chosen.network, plan=plan, classes=data.classes, channels=data.channels,
        kind=data.kind, regions=data.regions, region_order=data.region_order,
        description=f"Trained on {len(data.train)} images of {source.get('name', 'your own')}.",
        network_config=config_from_plan(plan, data.n_channels, data.n_outputs, network=chosen.network),
        licence="not stated", decoder={"method": decoder} if data.instances else None, training=training,
        mirror_axes=tuple(range(plan.ndim)), trained_on=data.signatures())

"""From a folder of images and labels to a model package."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mambaseg._errors import ModelError, UserError
from mambaseg.instances import INSTANCE_TARGETS
from mambaseg.io.atomic import atomic_path
from mambaseg.models import Model, load_model
from mambaseg.models.folder import copy_package
from mambaseg.models.package import check_previous, save_package
from mambaseg.nets.registry import PLANAR, build, check_name, config_from_plan
from mambaseg.nets.sizes import SizeRule
from mambaseg.plan import Plan
from mambaseg.plan.plan import FITS
from mambaseg.plan.training import Budget, plan_for_training
from mambaseg.progress import Progress, ProgressCallback, report
from mambaseg.train import processes
from mambaseg.train.cascade import CASCADE, CONFIGURATIONS, LOWRES, check_configuration, find_labels
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
          configuration: str | None = None, previous: Path | str | None = None,
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
    configuration : one of `mambaseg.train.cascade.CONFIGURATIONS`. Of "3d_cascade_fullres" a network of low resolution
        is trained first, for half of the time or iterations, and the network of full resolution sees its labels; the
        package holds both. None: "2d" for pictures and planar networks, else "3d_fullres"
    previous : saved model to be the first stage of a cascade in place of one that is trained; the time is all for the
        second
    progress : called after each iteration; raising `Cancelled` stops, and `resume` can go on from there

    Raises
    ------
    UserError : the folder, the network's name or a setting is unusable
    Cancelled : as raised by `progress`
    """
    chosen = customised(recipe, network=network, optimizer=optimizer, rate=rate, batch_size=batch_size, fit=fit_to)
    _check(chosen, instance_target, initial)
    _check_stages(configuration, previous)
    output = Path(output).resolve()
    if output.is_file():
        raise ModelError(f"{output} is a file, so no model package can be written there; give a folder.")
    report(progress, Progress("Reading", 0, 0, f"Looking through {dataset}"))
    data = open_dataset(Path(dataset), chosen.instances if instances is None else instances, fold=fold,
                        progress=progress)
    check_recipe(recipe, data)
    if configuration is not None:
        check_configuration(configuration, chosen, data)
    if chosen.is_binary:
        data = as_binary(data)
    settings = Settings(minutes, iterations, chosen.optimizer, chosen.rate, data.instances, _are_pictures(data),
                        device=device, precision=precision, seed=seed, regions=data.regions,
                        has_unlabelled=data.ignore_value is not None, instance_target=instance_target,
                        small_data=small_data, schedule=chosen.schedule, weight_decay=chosen.weight_decay,
                        clip_norm=chosen.clip_norm, clip_value=chosen.clip_value)
    job = _Job(data, recipe, chosen, settings, budget, configuration, resume, initial)
    with processes.joined(device):
        if configuration == CASCADE:
            return _train_cascade(job, output, previous, progress)
        return _train_stage(job, output, progress)


@dataclass(frozen=True)
class _Job:
    """What is to be trained and how, as `train` was told; alike for both stages of a cascade but for what differs."""

    data: Dataset
    recipe: str
    chosen: Recipe
    settings: Settings
    budget: Budget
    configuration: str | None
    resume: bool
    initial: Path | str | None


def _work(output: Path) -> Path:
    """Where the state of a training lies."""
    return output.with_name(f"{output.name}.training")


def _train_cascade(job: _Job, output: Path, previous: Path | str | None, progress: ProgressCallback | None) -> Model:
    """Both stages one after the other; the first lies in the folder of the second's state, with its own state."""
    first = _work(output) / "lowres"
    if job.resume and previous is not None:
        _check_resumed(first, load_model(previous))
    half = dataclasses.replace(
        job.settings, minutes=None if job.settings.minutes is None else job.settings.minutes / 2,
        iterations=None if job.settings.iterations is None else max(1, job.settings.iterations // 2))
    with processes.first_before_others():
        if processes.rank() == 0 and not (job.resume and (first / "model.json").is_file()):
            shutil.rmtree(first, ignore_errors=True)
            if previous is not None:
                shutil.rmtree(_work(first), ignore_errors=True)
                copy_package(load_model(previous), first)
    if not (first / "model.json").is_file():
        _train_stage(dataclasses.replace(job, settings=half, configuration=LOWRES), first,
                     _of_first_stage(progress, half), title=f"{output.name}, low resolution")
    is_trained_here = _work(first).is_dir()
    return _train_stage(dataclasses.replace(job, settings=half if is_trained_here else job.settings), output, progress,
                        load_model(first))


def _check_resumed(first: Path, wanted: Model) -> None:
    """Raise UserError where a training began with another first stage than the one that is wanted now."""
    if (first / "model.json").is_file() and (began := load_model(first)).checksum != wanted.checksum:
        raise UserError(f"This training began with {began.title} as its first stage, and {wanted.title} is another; "
                        "resume without --previous, or train anew without --resume.")


def _of_first_stage(progress: ProgressCallback | None, settings: Settings) -> ProgressCallback | None:
    """Reports that say which stage they are of, and count the time of the second stage as time left."""
    if progress is None:
        return None

    def tell(update: Progress) -> None:
        left_s = update.seconds_left
        if left_s is not None:
            left_s = None if settings.minutes is None else left_s + 60 * settings.minutes
        message = "low resolution" + (f", {update.message}" if update.message else "")
        progress(dataclasses.replace(update, message=message, seconds_left=left_s))

    return tell


def _train_stage(job: _Job, output: Path, progress: ProgressCallback | None, previous: Model | None = None,
                 title: str = "") -> Model:
    """One network, trained, judged and saved; of a cascade's second stage `previous` is the first."""
    work, device = _work(output), job.settings.device
    with processes.first_before_others():
        plan = _plan(job, work)
    model, weights = _learn(job, plan, work, title or output.name, previous, progress)
    with processes.first_before_others():
        if processes.rank() > 0:
            return load_model(output)
        candidate = save_package(work / "package", model, weights, previous=previous)
        judged = judge(candidate, job.data, device, progress)
        if judged.details:
            save_validation(work, judged.details, job.data.validation, judged.predictions)
        return save_package(output, dataclasses.replace(model, scores=judged.scores, keep_largest=judged.groups),
                            weights, previous=previous)


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


def _check_stages(configuration: str | None, previous: Path | str | None) -> None:
    """Raise UserError for a configuration that is none, or a first stage where there is no second."""
    if configuration is not None and configuration not in CONFIGURATIONS:
        raise UserError(f"There is no configuration {configuration!r}; choose one of {', '.join(CONFIGURATIONS)}.")
    if previous is not None and configuration != CASCADE:
        raise UserError(f"A previous model is the first stage of a cascade only; add --configuration {CASCADE}.")


def _learn(job: _Job, plan: Plan, work: Path, title: str, previous: Model | None,
           progress: ProgressCallback | None) -> tuple[Model, dict[str, Tensor]]:
    """The trained model's card, without scores, and its weights."""
    data, chosen, settings = job.data, job.chosen, job.settings
    n_inputs = data.n_channels + (0 if previous is None else len(previous.foreground_labels))
    torch.manual_seed(settings.seed)
    module = build(chosen.network, **config_from_plan(plan, n_inputs, data.n_outputs, deep_supervision=True,
                                                      network=chosen.network))
    started = {} if job.initial is None else {"initial": load_initial(chosen.network, module, Path(job.initial))}
    rule = getattr(module, "size_rule", None)
    if isinstance(rule, SizeRule):
        plan = dataclasses.replace(plan, patch_size=rule.fit(plan.patch_size))
    model = _describe(title, job, plan, previous)
    files = [*data.train, *data.validation]
    with processes.first_before_others():
        before = None if previous is None else find_labels(data, files, previous, work / "previous", settings.device,
                                                           progress)
        cases = prepare_cases(data, files, plan, progress, work / "prepared", before)
    learned, held_out = cases[:len(data.train)], cases[len(data.train):]
    if plan.ndim < data.ndim:
        learned, held_out = ([plane for case in part for plane in slices(case)] for part in (learned, held_out))
    if previous is not None:
        settings = dataclasses.replace(settings, previous=model.foreground_labels)
    state = fit(module, learned, held_out, plan, settings, work, job.resume, progress, objective(chosen, plan, data))
    weights = {key: value.cpu() for key, value in module.state_dict().items()}
    return dataclasses.replace(model, training=model.training | _run_record(state) | started), weights


def _are_pictures(data: Dataset) -> bool:
    """Whether these are microscopy or camera pictures, whose scale and stain vary; not slices of a scanner."""
    return data.ndim == 2 and data.unit != "mm"


def _plan(job: _Job, work: Path) -> Plan:
    """A new plan from the data, or the one that the resumed training began with."""
    path, data, chosen = work / "plan.json", job.data, job.chosen
    if path.is_file() and (job.resume or processes.rank() > 0):
        return Plan.from_json(json.loads(path.read_text(encoding="utf-8")))
    microscopy = data.instances or data.unit != "mm"
    fingerprint = data.fingerprint(data.train, crop=not microscopy)
    ndim = 2 if chosen.network in PLANAR or job.configuration == "2d" else data.ndim
    plan = planned(chosen, plan_for_training(fingerprint, ndim, data.n_channels, budget=job.budget,
                                             instances=data.instances, n_classes=len(data.classes),
                                             channel_names=data.channels, is_lowres=job.configuration == LOWRES))
    plan = dataclasses.replace(plan, orientation=data.orientation)
    if job.configuration == CASCADE:
        plan = dataclasses.replace(plan, batch_dice=True)  # nnU-Net's, of the full resolution above a low one
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(plan.to_json(), indent=2), encoding="utf-8")
    return plan


def _describe(title: str, job: _Job, plan: Plan, previous: Model | None) -> Model:
    """The model's card; what the run brings, and scores, come later.

    Raises
    ------
    ModelError : `previous` cannot be the first stage of a cascade that learns from these data
    """
    data, chosen, settings = job.data, job.chosen, job.settings
    source = {key: data.info[key] for key in ("name", "licence", "citation") if key in data.info}
    training: dict[str, Any] = {
        "data": source, "n_cases": len(data.train), "n_held_out": len(data.validation), "recipe": job.recipe,
        "optimizer": settings.optimizer, "rate": settings.rate}
    if job.configuration is not None:
        training["configuration"] = job.configuration
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", title).strip("-.") or "model"
    decoder = chosen.decoder or INSTANCE_TARGETS[settings.instance_target].method
    model = Model(
        name=plain, title=title, network=chosen.network, network_config={}, plan=plan, classes=data.classes,
        channels=data.channels, kind=data.kind, regions=data.regions, region_order=data.region_order,
        description=f"Trained on {len(data.train)} images of {source.get('name', 'your own')}.",
        licence="not stated", decoder={"method": decoder} if data.instances else None, training=training,
        mirror_axes=tuple(range(plan.ndim)), trained_on=data.signatures())
    if previous is not None:
        check_previous(model, previous)
        model = dataclasses.replace(model, previous=previous.checksum)  # until save_package knows the copy's
    return dataclasses.replace(model, network_config=config_from_plan(plan, model.n_inputs, data.n_outputs,
                                                                      network=chosen.network))


def _run_record(state: Checkpoint) -> dict[str, Any]:
    """What a model's card says of the run itself."""
    return {"iterations": state.iteration, "seconds": round(state.elapsed_s),
            "best_validation_dice": state.best_score, "history": state.history}

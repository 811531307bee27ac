"""From a folder of images and labels to a model package."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mambaseg._errors import DatasetError, ModelError
from mambaseg.io.atomic import atomic_path
from mambaseg.models import Model
from mambaseg.models.package import save_package
from mambaseg.nets.registry import PLANAR, build, check_name, config_from_plan
from mambaseg.nets.sizes import SizeRule
from mambaseg.plan import Plan
from mambaseg.plan.fingerprint import measure
from mambaseg.plan.training import Budget, plan_for_training
from mambaseg.prepare import prepare
from mambaseg.progress import Progress, ProgressCallback, report
from mambaseg.train.checkpoint import Checkpoint
from mambaseg.train.dataset import CaseFiles, Dataset, open_dataset
from mambaseg.train.loop import Settings, fit
from mambaseg.train.sample import Case
from mambaseg.train.score import score_model

__all__ = ["prepare_cases", "train"]


def train(dataset: Path | str, network: str = "umamba-bot", output: Path | str = "model", *,
          minutes: float | None = None, iterations: int | None = None, resume: bool = False,
          instances: bool | None = None, optimizer: str = "adamw", rate: float | None = None,
          budget: Budget = "small", device: str = "auto", precision: str = "auto", seed: int = 0,
          progress: ProgressCallback | None = None) -> Model:
    """Train a network on a folder of images and labels and save it as a model package.

    Parameters
    ----------
    dataset : folder with ``images/`` and ``labels/``; see `mambaseg.train.dataset.open_dataset`
    network : name in `mambaseg.nets.NETWORKS`
    output : folder of the model package; ``<output>.training`` beside it keeps what `resume` needs
    minutes, iterations : when to stop; one of them
    resume : go on where an interrupted training of the same output stopped
    instances : labels number objects rather than classes; None: guessed
    optimizer, rate, device, precision, seed : see `mambaseg.train.loop.Settings`
    budget : size of the network; "small" suits a CPU, "standard" is U-Mamba's own
    progress : called after each iteration; raising `Cancelled` stops, and `resume` can go on from there

    Raises
    ------
    UserError : the folder, the network's name or a setting is unusable
    Cancelled : as raised by `progress`
    """
    check_name(network)
    output = Path(output).resolve()
    if output.is_file():
        raise ModelError(f"{output} is a file, so no model package can be written there; give a folder.")
    report(progress, Progress("Reading", 0, 0, f"Looking through {dataset}"))
    data = open_dataset(Path(dataset), instances)
    work = output.with_name(f"{output.name}.training")
    if data.ndim == 3 and network in PLANAR:
        raise DatasetError(f"{network} is a network for 2-D pictures, but {dataset} holds volumes; "
                           "use umamba-bot or umamba-enc.")
    n_outputs = 3 if data.instances else len(data.classes)
    torch.manual_seed(seed)
    plan = _plan(data, work, resume, budget)
    module = build(network, **config_from_plan(plan, data.n_channels, n_outputs, deep_supervision=True,
                                               network=network))
    rule = getattr(module, "size_rule", None)
    if isinstance(rule, SizeRule):
        plan = dataclasses.replace(plan, patch_size=rule.fit(plan.patch_size))
    cases, validation = (prepare_cases(data, part, plan, progress) for part in (data.train, data.validation))
    settings = Settings(minutes, iterations, optimizer, rate, data.instances, _are_pictures(data), device=device,
                        precision=precision, seed=seed)
    state = fit(module, cases, validation, plan, settings, work, resume, progress)
    model = _describe(output.name, network, plan, data, settings, state)
    weights = {key: value.cpu() for key, value in module.state_dict().items()}
    candidate = save_package(work / "package", model, weights)
    scores = score_model(candidate, data, device, progress)
    return save_package(output, dataclasses.replace(model, scores=scores), weights)


def prepare_cases(data: Dataset, files: Sequence[CaseFiles], plan: Plan,
                  progress: ProgressCallback | None = None) -> list[Case]:
    """Training cases in memory, prepared as the plan says."""
    cases = []
    for frame_index, (name, frame, labels, spacing) in enumerate(data.load(files)):
        report(progress, Progress("Reading", frame_index, len(files), name))
        prepared = prepare(frame, spacing, plan, labels)
        truth = prepared.labels if prepared.labels is not None else np.zeros(prepared.array.shape[1:], np.int8)
        case = Case(name, prepared.array, truth)
        case.find_foreground(data.instances)
        cases.append(case)
    return cases


def _are_pictures(data: Dataset) -> bool:
    """Whether these are microscopy or camera pictures, whose scale and stain vary; not slices of a scanner."""
    return data.ndim == 2 and data.unit != "mm"


def _plan(data: Dataset, work: Path, resume: bool, budget: Budget) -> Plan:
    """A new plan from the data, or the one that the resumed training began with."""
    path = work / "plan.json"
    if resume and path.is_file():
        return Plan.from_json(json.loads(path.read_text(encoding="utf-8")))
    cases = ((frame, labels, spacing) for _, frame, labels, spacing in data.load(data.train))
    microscopy = data.instances or data.unit != "mm"
    fingerprint = measure(cases, len(data.train), unit=data.unit, crop=not microscopy)
    plan = plan_for_training(fingerprint, data.ndim, data.n_channels, budget=budget, instances=data.instances,
                             n_classes=len(data.classes), channel_names=data.channels)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(plan.to_json(), indent=2), encoding="utf-8")
    return plan


def _describe(name: str, network: str, plan: Plan, data: Dataset, settings: Settings, state: Checkpoint) -> Model:
    """The model's card; scores come later."""
    kind = "instances" if data.instances else "classes"
    n_outputs = 3 if data.instances else len(data.classes)
    source = {key: data.info[key] for key in ("name", "licence", "citation") if key in data.info}
    training: dict[str, Any] = {
        "data": source, "n_cases": len(data.train), "n_held_out": len(data.validation),
        "iterations": state.iteration, "seconds": round(state.elapsed_s), "best_validation_dice": state.best_score,
        "optimizer": settings.optimizer, "history": state.history}
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
    return Model(
        name=plain, title=name, network=network, plan=plan, classes=data.classes, channels=data.channels, kind=kind,
        description=f"Trained on {len(data.train)} images of {source.get('name', 'your own')}.",
        network_config=config_from_plan(plan, data.n_channels, n_outputs, network=network), licence="not stated",
        decoder={} if data.instances else None, training=training, mirror_axes=tuple(range(plan.ndim)))

"""Thorough learning: a network is fine-tuned on corrections, judged on some that were kept aside, and kept or not."""

from __future__ import annotations

import copy
import dataclasses
import math
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mambaseg._errors import DatasetError
from mambaseg.instances import Decoder
from mambaseg.learn.decoding import fit_decoder
from mambaseg.learn.examples import (
    Example,
    as_examples,
    prepare_image,
    source_name,
    sparse_labels,
    to_case,
    to_grid,
)
from mambaseg.learn.holdout import Split, split
from mambaseg.learn.inherit import inherit
from mambaseg.learn.judge import Forgetting, Judgement, Score, forgetting, judge, unit_scores
from mambaseg.learn.objective import FREE, VOLUMES, Policy, SparseObjective, freeze
from mambaseg.learn.rehearsal import rehearsal_cases
from mambaseg.models import Model
from mambaseg.models.package import save_package
from mambaseg.nets.registry import ANY_SIZE
from mambaseg.prepare import Prepared
from mambaseg.progress import Progress, ProgressCallback, report
from mambaseg.train.checkpoint import Checkpoint
from mambaseg.train.loop import Settings, fit
from mambaseg.train.sample import UNLABELLED, Case
from mambaseg.words import size_unit

__all__ = ["Tuned", "UnitScore", "finetune"]


class UnitScore(NamedTuple):
    """Score of an object, slice or block kept aside, before and after; see `mambaseg.learn.judge.Score`."""

    name: str
    before: float
    after: float


@dataclass(frozen=True)
class Tuned:
    """A fine-tuned model that is not kept yet.

    Parameters
    ----------
    parent : what it was made from
    model : description of the new model; its scores are those of the judgement
    state : the new weights
    judgement : before, after, what was forgotten, and the verdict
    history : a dictionary a validation: iteration, elapsed_s, loss, score
    notes : what the user should know about the examples
    units : what was kept aside, one by one
    formers : weights of the networks that the model keeps for other kinds of pictures
    """

    parent: Model
    model: Model
    state: dict[str, Tensor]
    judgement: Judgement
    history: list[dict[str, float]]
    notes: tuple[str, ...] = ()
    units: tuple[UnitScore, ...] = ()
    formers: tuple[dict[str, Tensor], ...] = ()

    @property
    def before(self) -> Score:
        """The parent's score on what was kept aside."""
        return self.judgement.before

    @property
    def after(self) -> Score:
        """The new model's score on the same."""
        return self.judgement.after

    @property
    def better(self) -> bool:
        """Whether it is surely better and has forgotten nothing to speak of."""
        return self.judgement.better

    @property
    def forgetting(self) -> Forgetting | None:
        """Score on the parent's own kind of data."""
        return self.judgement.forgetting

    def save(self, folder: Path | str, name: str | None = None) -> Model:
        """Write the new model as a package, whole or not at all.

        Parameters
        ----------
        name : of the model; None: the folder's

        Raises
        ------
        ModelError : the folder cannot be written
        """
        folder = Path(folder).resolve()
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name or folder.name).strip("-.") or "model"
        return save_package(folder, dataclasses.replace(self.model, name=plain), self.state, members=self.formers)


def finetune(model: Model, examples: Iterable[Example | Sequence[Any]], minutes: float | None = 2.0, *,
             iterations: int | None = None, new_classes: Sequence[str] = (), hold_out: float = 0.2,
             parent_data: Path | str | None = None, work: Path | str | None = None, resume: bool = False,
             policy: Policy | None = None, device: str = "auto", precision: str = "auto", seed: int = 0,
             progress: ProgressCallback | None = None) -> Tuned:
    """A model that has learned from corrections, judged but not yet saved.

    Parameters
    ----------
    model : saved; of an ensemble the first network learns and is kept alone
    examples : `mambaseg.learn.examples.Example`, or (image, corrections) or (image, corrections, labels); corrections
        lie on the image's grid: 0 not looked at, v + 1 where label v is right. Earlier examples given
        again are replayed
    minutes, iterations : how long to train, whichever ends first; judging comes on top
    new_classes : names of classes that the corrections name and the model lacks; its last layer grows by them
    hold_out : share of objects, slices or blocks kept aside to judge on, chosen before training
    parent_data : data set folder of the parent's own kind, to tell what was forgotten; None: its test input
    work : folder for the state, so that a cancelled or killed run can be resumed; None: a temporary one
    resume : go on from the state in `work`
    policy : learning rate, distillation and freezing; None: what the study in docs/learning.md chose
    progress : called in each stage; raising `Cancelled` stops within one iteration

    Raises
    ------
    UserError : examples that nothing can be learned from; see `mambaseg.learn.examples.as_examples`
    Cancelled : as raised by `progress`
    """
    model.refuse_cascade("learn from corrections")
    found = as_examples(examples, model, len(new_classes))
    if minutes is None and iterations is None:
        minutes = 2.0
    if work is None:
        with tempfile.TemporaryDirectory(prefix="mambaseg-") as folder:
            return finetune(model, found, minutes, iterations=iterations, new_classes=new_classes, hold_out=hold_out,
                            parent_data=parent_data, work=folder, policy=policy, device=device, precision=precision,
                            seed=seed, progress=progress)
    work = Path(work)
    labels = [sparse_labels(example, model.kind) for example in found]
    kept = split(labels, model.kind == "instances", hold_out, seed)
    report(progress, Progress("Reading", 0, len(found)))
    begun = inherit(model, found, new_classes)
    child, network = begun.child, begun.network
    before = unit_scores(model, found, labels, kept.judged, device, progress)
    policy = policy or (FREE if child.taught else VOLUMES if model.plan.ndim == 3 else Policy())
    settings = _settings(model, found[0], policy, kept, minutes, iterations, device, precision, seed)
    state = _learn(model, network, found, labels, kept, policy, settings, parent_data, work, resume, progress)
    weights = {key: value.detach().cpu() for key, value in network.state_dict().items()}
    candidate = save_package(work / "package", child, weights, members=begun.formers)
    if policy.fit_decoder:
        decoder = fit_decoder(candidate, found, kept.labels, device, progress)
        child, candidate = (dataclasses.replace(each, decoder=decoder) for each in (child, candidate))
    after = unit_scores(candidate, found, labels, kept.judged, device, progress)
    forgotten = forgetting(model, candidate, parent_data, device, progress)
    verdict = judge(before, after, forgotten, _noun(model))
    return Tuned(model, _describe(child, found, labels, state, verdict, policy), weights, verdict, state.history,
                 tuple(_notes(model, child, labels)), _unit_scores(found, kept, before, after), begun.formers)


def _unit_scores(found: Sequence[Example], kept: Split, before: NDArray[np.float64],
                 after: NDArray[np.float64]) -> tuple[UnitScore, ...]:
    """The scores of what was kept aside, named by image and object."""
    names = [f"{source_name(found[unit.example], unit.example)}, "
             f"{f'object {unit.label}' if unit.label else f'part {index}'}"
             for index, unit in enumerate(kept.judged, 1)]
    return tuple(UnitScore(name, float(old), float(new)) for name, old, new in zip(names, before, after, strict=True))


def _noun(model: Model) -> str:
    return "objects" if model.kind == "instances" else "slices" if model.plan.ndim == 3 else "regions"


def _settings(model: Model, example: Example, policy: Policy, kept: Split, minutes: float | None,
              iterations: int | None, device: str, precision: str, seed: int) -> Settings:
    is_picture = model.plan.ndim == 2 and example.image.grid.unit != "mm"
    return Settings(minutes, iterations, "adamw", policy.rate, model.kind == "instances", is_picture,
                    model.mirror_axes, device, precision, seed, average=policy.average,
                    validate_every=policy.validate_every if kept.stopping else 10 * policy.validate_every,
                    n_validation_batches=4, foreground_share=policy.share_on_corrections,
                    other_looks=policy.other_looks,
                    instance_target=Decoder.from_json(model.decoder or {}).target)


def _learn(model: Model, network: nn.Module, found: Sequence[Example], labels: Sequence[NDArray[np.int32]],
           kept: Split, policy: Policy, settings: Settings, parent_data: Path | str | None, work: Path, resume: bool,
           progress: ProgressCallback | None) -> Checkpoint:
    """Train in place on what was not kept aside; the best state by what early stopping looks at, else the last."""
    stopping = [np.full_like(array, UNLABELLED) for array in labels]
    for unit in kept.stopping:
        stopping[unit.example][unit.mask] = labels[unit.example][unit.mask]
    cases: list[Case] = []
    checks: list[Case] = []
    for index, example in enumerate(found):
        report(progress, Progress("Reading", index, len(found)))
        prepared, _ = prepare_image(example.image, model)
        cases += _cases(f"image {index}", prepared, kept.labels[index], model.plan.ndim, example.weight)
        checks += _cases(f"image {index}", prepared, stopping[index], model.plan.ndim, 1.0)
    if not cases:
        raise DatasetError("None of the corrections lies where the model looks (the image is empty there); correct "
                           "something inside the picture.")
    teacher = copy.deepcopy(network).eval().requires_grad_(False)
    freeze(network, policy.frozen_stages)
    plan = dataclasses.replace(model.plan, batch_size=policy.batch_size, patch_size=_patch_size(model, policy))
    cases += rehearsal_cases(model, parent_data, policy.rehearsal_share, sum(case.weight for case in cases),
                             settings.seed)
    objective = SparseObjective(teacher, policy, len(model.classes) if model.kind == "classes" else model.n_outputs)
    if policy.pull:
        objective.hold(network)
    return fit(network, cases, checks, plan, settings, work, resume, progress, objective)


def _patch_size(model: Model, policy: Policy) -> tuple[int, ...]:
    """Sides of a patch: the plan's, or smaller where the network takes any size that divides by its strides."""
    plan = model.plan
    if policy.patch_size is None or model.network not in ANY_SIZE:
        return plan.patch_size
    steps = [math.prod(strides) for strides in zip(*plan.strides, strict=True)]
    return tuple(min(side, max(2 * step, policy.patch_size // step * step))
                 for side, step in zip(plan.patch_size, steps, strict=True))


def _cases(name: str, prepared: Prepared, labels: NDArray[np.int32], ndim: int, weight: float) -> list[Case]:
    """A case where something is known; for a 2-D model in a volume one a slice."""
    grid = to_grid(labels, prepared)
    if grid.ndim == ndim:
        return [to_case(name, prepared.array, grid, weight)] if (grid != UNLABELLED).any() else []
    return [to_case(f"{name}, slice {at}", prepared.array[:, at], plane, weight)
            for at, plane in enumerate(grid) if (plane != UNLABELLED).any()]


def _notes(model: Model, child: Model, labels: Sequence[NDArray[np.int32]]) -> list[str]:
    """What the user should know: what is odd about the examples, and for which images the model learns."""
    present = {int(value) > 0 if child.kind == "instances" else int(value)
               for array in labels for value in np.unique(array) if value != UNLABELLED}
    notes = []
    if len(present) == 1:
        only = child.classes[int(present.pop())]
        notes.append(f'All corrections say "{only}": correct or confirm something else too, or the model cannot learn '
                     "where it ends.")
    if child.taught:
        notes.append("These images are of a kind that the model was not trained on: it learns them beside what it "
                     "knows, and other kinds of images are segmented as before.")
        if len(labels) == 1:
            notes.append("One image rarely stands for its kind: a few objects in each of several images teach more "
                         "than many in one.")
    smallest, former = ((each.decoder or {}).get("min_size") for each in (child, model))
    if smallest != former:
        notes.append(f"What is smaller than {smallest:.3g} {size_unit(model)} is left out as debris from now on, since "
                     "the corrected objects are larger.")
    return notes


def _describe(child: Model, found: Sequence[Example], labels: Sequence[NDArray[np.int32]], state: Checkpoint,
              verdict: Judgement, policy: Policy) -> Model:
    """The new model's card."""
    sources = [source_name(example, index) for index, example in enumerate(found)]
    n_voxels = int(sum(np.count_nonzero(array != UNLABELLED) for array in labels))
    training = {"learned_from": sources, "n_labelled_voxels": n_voxels, "iterations": state.iteration,
                "seconds": round(state.elapsed_s), "policy": asdict(policy), "history": state.history,
                "parent": {"name": child.parent["name"] if child.parent else "", "training": _origin(child.training)}}
    title = child.title if child.title.endswith(", corrected") else f"{child.title}, corrected"
    return dataclasses.replace(child, title=title, training=training, scores={"kept_aside": _plain(verdict.to_json())})


def _origin(training: dict[str, Any]) -> dict[str, Any]:
    """What of the parent's record has to travel along: the data and whom to name."""
    return {key: training[key] for key in ("data", "attribution", "parent") if key in training}


def _plain(value: Any) -> Any:
    """JSON values: NaN (nothing was judged) as None."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value


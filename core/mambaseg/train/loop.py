"""The training loop."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mambaseg._errors import Cancelled, UserError
from mambaseg.instances import INSTANCE_TARGETS
from mambaseg.machine import choose_precision, keep_freed_memory
from mambaseg.plan import Plan
from mambaseg.progress import Progress, ProgressCallback, report
from mambaseg.train import processes
from mambaseg.train.augment import augmentation
from mambaseg.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mambaseg.train.loader import Batch, BatchLoader, Encode, fixed_batches
from mambaseg.train.losses import deep_supervision_loss, downsample_target, region_target
from mambaseg.train.sample import FOREGROUND_SHARE, UNLABELLED, Case, PatchSampler
from mambaseg.train.schedule import learning_rate, optimizer

__all__ = ["Objective", "Settings", "fit", "hard_dice_counts"]

Objective = Callable[[list[Tensor], Batch], Tensor]
"""Loss of the network's outputs, full resolution first, for a batch on the same device."""

_CLIP_NORM = 12.0  # nnU-Net
_CHECKPOINT_EVERY_S = 60.0
_MOST_BAD_STEPS = 20
_PASTE_SHARE = 0.5  # of the patches of a small data set
_RATES = {"sgd": 1e-2, "adamw": 1e-3}
_SCHEDULES = {"sgd": "polynomial", "adamw": "cosine"}


@dataclass(frozen=True)
class Settings:
    """How to train.

    Parameters
    ----------
    minutes, iterations : when to stop, over all sessions of a resumed run; one of them
    optimizer : "sgd" or "adamw"
    rate : learning rate at the start; None: 1e-2 for sgd, 1e-3 for adamw
    schedule : of the rate, see `mambaseg.train.schedule.learning_rate`; None: polynomial for sgd, cosine for adamw
    weight_decay : None: see `mambaseg.train.schedule.optimizer`
    clip_norm, clip_value : largest norm of all gradients together, and largest of a single one; None: not clipped
    instances : labels are instance numbers; the network learns what `instance_target` makes of them
    instance_target : a key of `mambaseg.instances.INSTANCE_TARGETS`
    small_data : stronger augmentation, for some tens of pictures: see `mambaseg.train.augment.augmentation`, and
        objects are pasted from one patch into another
    pictures : 2-D pictures: stronger augmentation, reflected edges
    other_looks : see `mambaseg.train.augment.augmentation`
    mirror_axes : spatial axes that augmentation may mirror; None: all. Leave out those that tell classes apart
    validate_every : iterations between validations and between entries of the history
    n_validation_batches : fixed patches that validation looks at, in batches
    average : decay of a running mean of the weights, which is then what is judged and kept; 0: the weights themselves
    regions : label values of each output, where they may nest; empty: outputs are classes
    has_unlabelled : some voxels are `UNLABELLED` and count in no loss
    foreground_share : of the patches that are centred on foreground, or on what is labelled; nnU-Net's third
    previous : labels of the previous stage of a cascade that the network sees, each as a channel; cases carry them
    """

    minutes: float | None = None
    iterations: int | None = None
    optimizer: str = "sgd"
    rate: float | None = None
    instances: bool = False
    pictures: bool = False
    mirror_axes: tuple[int, ...] | None = None
    device: str = "auto"
    precision: str = "auto"
    seed: int = 0
    validate_every: int = 100
    n_validation_batches: int = 8
    average: float = 0.0
    foreground_share: float = FOREGROUND_SHARE
    regions: tuple[tuple[int, ...], ...] = ()
    has_unlabelled: bool = False
    instance_target: str = "boundary"
    small_data: bool = False
    schedule: str | None = None
    weight_decay: float | None = None
    clip_norm: float | None = _CLIP_NORM
    clip_value: float | None = None
    other_looks: bool = True
    previous: tuple[int, ...] = ()

    @property
    def encodings(self) -> tuple[Encode | None, Encode | None]:
        """What makes targets of labels for learning, and for judging by classes; None: labels are classes."""
        target = INSTANCE_TARGETS[self.instance_target]
        return (target.encode, target.classes) if self.instances else (None, None)

    def share_done(self, iteration: int, elapsed_s: float) -> float:
        """How much of the run is over, 0 to 1."""
        shares = []
        if self.iterations is not None:
            shares.append(iteration / max(1, self.iterations))
        if self.minutes is not None:
            shares.append(elapsed_s / max(1e-9, 60 * self.minutes))
        return min(1.0, max(shares))


def fit(network: nn.Module, cases: Sequence[Case], validation: Sequence[Case], plan: Plan, settings: Settings,
        folder: Path, resume: bool = False, progress: ProgressCallback | None = None,
        objective: Objective | None = None) -> Checkpoint:
    """Train `network` and leave its best state in it.

    Parameters
    ----------
    network : returns logits of every level (deep supervision), full resolution first
    cases, validation : prepared examples; validation may be empty, then the last state counts as the best
    folder : gets ``last.pt`` about once a minute and ``best.pt`` whenever validation improves
    resume : go on from ``last.pt`` if it is there
    objective : what to minimise; None: Dice and cross entropy with deep supervision. Among several processes it is
        given this one's share of the batch

    Returns
    -------
    The state at the end; `network` holds the best one, in evaluation mode

    Raises
    ------
    UserError : neither minutes nor iterations given, the loss stays infinite, or processes cannot share a batch
    Cancelled : from `progress`; ``last.pt`` and ``best.pt`` are saved before
    """
    if settings.minutes is None and settings.iterations is None:
        raise UserError("Say when training should stop: --minutes M or --iterations N.")
    processes.check_batch(plan.batch_size)
    keep_freed_memory()
    run = _Run(network, validation, plan, settings, folder, resume, objective)
    seed = settings.seed + run.state.iteration  # a resumed run draws other patches than it has seen
    sampler = PatchSampler(cases, plan, seed, reflect=settings.pictures, foreground_share=settings.foreground_share,
                           paste_share=_PASTE_SHARE if settings.small_data and settings.instances else 0.0)
    transform = augmentation(plan, settings.instances, settings.pictures, settings.mirror_axes, settings.small_data,
                             settings.other_looks)
    with BatchLoader(sampler, transform, settings.encodings[0], seed, previous=settings.previous,
                     is_shared=run.device.type == "cpu") as batches:
        try:
            run.train(batches, progress)
        except (Cancelled, KeyboardInterrupt):
            run.save()
            raise
    run.finish()
    return run.state


class _Run:
    """The moving parts of one `fit`."""

    def __init__(self, network: nn.Module, validation: Sequence[Case], plan: Plan, settings: Settings, folder: Path,
                 resume: bool, objective: Objective | None) -> None:
        self.objective = objective or self._supervised
        self.network, self.plan, self.settings, self.folder = network, plan, settings, folder
        self.device = processes.own_device(settings.device)
        self.dtype = choose_precision(settings.precision, self.device, training=True)
        network.to(self.device)
        rate = settings.rate if settings.rate is not None else _RATES[settings.optimizer]
        self.rate = rate
        self.optimizer = optimizer(settings.optimizer, network.parameters(), rate, settings.weight_decay)
        self.schedule = settings.schedule or _SCHEDULES[settings.optimizer]
        self.state = Checkpoint(network.state_dict(), self.optimizer.state_dict())
        folder.mkdir(parents=True, exist_ok=True)
        if resume and (folder / "last.pt").is_file():
            self.state = load_checkpoint(folder / "last.pt")
            network.load_state_dict(self.state.weights)
            self.optimizer.load_state_dict(self.state.optimizer)
        self.kept = copy.deepcopy(network) if settings.average else network  # what is judged and kept
        self.shared = processes.share(network, self.device)
        if self.state.average:
            self.kept.load_state_dict(self.state.average)
        self.validation = fixed_batches(
            PatchSampler(validation, plan, seed=1234, margin=False, reflect=settings.pictures),
            settings.n_validation_batches, settings.encodings[1], settings.previous) if validation else []
        self._saved_s = self.state.elapsed_s
        self.losses: list[float] = []  # since the last validation

    def train(self, batches: BatchLoader, progress: ProgressCallback | None) -> None:
        """Iterate until the time or the iterations are used up."""
        n_bad = 0
        state = self.state
        watch = _Watch(state.elapsed_s, self.device)
        for batch in batches:
            done = self.settings.share_done(state.iteration, state.elapsed_s)
            if done >= 1:
                break
            loss = self._step(batch, done)
            n_bad = 0 if loss is not None else n_bad + 1
            if n_bad == _MOST_BAD_STEPS:
                raise UserError(f"The loss was not a finite number {n_bad} times in a row; "
                                "train with a smaller rate or with --precision float32.")
            if loss is not None:
                self.losses.append(loss)
            state.iteration += 1
            state.elapsed_s = watch.read()
            if state.iteration % self.settings.validate_every == 0:
                self._validate()
            if state.elapsed_s - self._saved_s > _CHECKPOINT_EVERY_S:
                self.save()
            if processes.rank() == 0:
                watch.guard(lambda: self._report(progress))

    def _step(self, batch: Batch, done: float) -> float | None:
        """One update; the loss, or None where it was not finite and the weights stay as they are."""
        self.network.train()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.schedule, self.rate, done)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            batch = Batch(batch.image.to(self.device), batch.target.to(self.device))
            outputs = self.shared(batch.image)
        loss = self.objective(outputs if isinstance(outputs, list) else [outputs], batch)
        loss.backward()
        mean = float(processes.total(loss.detach().clone())) / processes.count()
        if not (math.isfinite(mean) and self._clip()):
            return None
        self.optimizer.step()
        if self.kept is not self.network:
            self._follow()
        return mean

    def _clip(self) -> bool:
        """Keep the gradients within bounds; whether they are finite."""
        settings, parameters = self.settings, list(self.network.parameters())
        largest = math.inf if settings.clip_norm is None else settings.clip_norm
        norm = float(nn.utils.clip_grad_norm_(parameters, largest))
        if settings.clip_value is not None:
            nn.utils.clip_grad_value_(parameters, settings.clip_value)
        return math.isfinite(norm)

    def _supervised(self, outputs: list[Tensor], batch: Batch) -> Tensor:
        """Dice and cross entropy at every level."""
        targets = downsample_target(batch.target, self.plan.strides, len(outputs))
        ignored = UNLABELLED if self.settings.has_unlabelled else None
        return deep_supervision_loss(outputs, targets, self.plan.batch_dice, ignored, self.settings.regions)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the mean of the weights towards them; quickly at first, when they still change much."""
        decay = min(self.settings.average, (1 + self.state.iteration) / (10 + self.state.iteration))
        for mean, weight in zip(self.kept.state_dict().values(), self.network.state_dict().values(), strict=True):
            mean.lerp_(weight, 1 - decay) if mean.is_floating_point() else mean.copy_(weight)

    def _validate(self) -> None:
        """Score on the fixed patches; keep the weights if they are the best so far."""
        state = self.state
        entry = {"iteration": state.iteration, "elapsed_s": round(state.elapsed_s, 1),
                 "rate": self.optimizer.param_groups[0]["lr"]}
        if self.losses:
            entry["loss"] = sum(self.losses) / len(self.losses)
            self.losses = []
        if self.validation:
            entry["score"] = self._score()
        state.history.append(entry)
        if entry.get("score", 1.0) > state.best_score or not self.validation:
            state.best_score = entry.get("score", -1.0)
            self._capture()
            self._write("best.pt", dataclasses.replace(state, weights=self.kept.state_dict()))

    @torch.inference_mode()
    def _score(self) -> float:
        self.kept.eval()
        counts: Tensor | None = None
        for batch in self.validation:
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                outputs = self.kept(batch.image.to(self.device))
            logits = outputs[0] if isinstance(outputs, list) else outputs
            found = hard_dice_counts(logits, batch.target.to(self.device), self.settings.regions)
            counts = found if counts is None else counts + found
        overlap, total = counts if counts is not None else (torch.zeros(1), torch.zeros(1))
        present = total > 0
        return float((2 * overlap[present] / total[present]).mean()) if present.any() else 0.0

    def _report(self, progress: ProgressCallback | None) -> None:
        state, settings = self.state, self.settings
        done = settings.share_done(state.iteration, state.elapsed_s)
        left_s = state.elapsed_s / done * (1 - done) if done > 0 and state.elapsed_s > 2 else None
        total = settings.iterations or (round(state.iteration / done) if done > 0 else 0)
        message = f"loss {self.losses[-1]:.3f}" if self.losses else ""
        if state.history and "score" in state.history[-1]:
            message += f", Dice {state.history[-1]['score']:.3f}, best {state.best_score:.3f}"
        report(progress, Progress("Training", state.iteration, max(total, state.iteration), message.lstrip(", "),
                                  state.history, left_s))

    def _capture(self) -> None:
        self.state.weights = self.network.state_dict()
        self.state.optimizer = self.optimizer.state_dict()
        self.state.average = self.kept.state_dict() if self.kept is not self.network else {}

    def save(self) -> None:
        """Write the present state as ``last.pt``."""
        self._capture()
        self._write("last.pt", self.state)
        self._saved_s = self.state.elapsed_s

    def _write(self, name: str, state: Checkpoint) -> None:
        """Write a state; all processes have the same, and the first one writes it."""
        if processes.rank() == 0:
            save_checkpoint(self.folder / name, state)

    def finish(self) -> None:
        """Save, then leave the best weights in the network."""
        with processes.first_before_others():
            if not self.state.history or self.state.history[-1]["iteration"] != self.state.iteration:
                self._validate()
            self.save()
        self.network.load_state_dict(load_checkpoint(self.folder / "best.pt").weights)
        self.network.eval()


class _Watch:
    """Time spent training; the first process's counts for all, and so does its wish to stop."""

    def __init__(self, elapsed_s: float, device: torch.device) -> None:
        self._device = device  # through which the processes talk
        self._started_s = time.monotonic() - elapsed_s
        self._stopped: Cancelled | None = None

    def guard(self, work: Callable[[], None]) -> None:
        """Do something that may ask for a stop; among several processes they all stop at the next `read`."""
        try:
            work()
        except Cancelled as error:
            if processes.count() == 1:
                raise
            self._stopped = error

    def read(self) -> float:
        """Seconds since the start.

        Raises
        ------
        Cancelled : some process was asked to stop
        """
        own_s = time.monotonic() - self._started_s
        if processes.count() == 1:
            return own_s
        told = torch.tensor([own_s if processes.rank() == 0 else 0.0, float(self._stopped is not None)],
                            device=self._device)
        seconds, n_stopped = processes.total(told).tolist()
        if n_stopped:
            raise self._stopped or Cancelled
        return float(seconds)


def hard_dice_counts(logits: Tensor, target: Tensor, regions: Sequence[Sequence[int]] = ()) -> Tensor:
    """Overlap and total voxels per foreground class after arg-max, (2, class - 1): the parts of a hard Dice.

    Sum them over batches, then Dice is twice the first row over the second (nnU-Net's online validation). Voxels of
    unknown class do not count.

    Parameters
    ----------
    logits : (batch, class, *S)
    target : (batch, 1, *S), classes or `UNLABELLED`
    regions : label values of each output; then all of them count where their logit is above 0, (2, region)
    """
    known = target[:, 0] != UNLABELLED
    if regions:
        found, true = logits > 0, region_target(target, regions)
    else:
        classes = torch.arange(1, logits.shape[1], device=logits.device).view(1, -1, *[1] * (logits.ndim - 2))
        found, true = logits.argmax(1, keepdim=True) == classes, target == classes
    rows = [((p & t & known).sum(), (p & known).sum() + (t & known).sum())
            for p, t in zip(found.unbind(1), true.unbind(1), strict=True)]
    return torch.tensor(rows, dtype=torch.float64).T

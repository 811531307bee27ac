"""Whether a fine-tuned model is better, on what was kept aside from it, and what it has forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mambaseg.learn.around import box_around, segment_around
from mambaseg.learn.examples import Example
from mambaseg.learn.holdout import Unit
from mambaseg.metrics.interval import bootstrap
from mambaseg.models import Model
from mambaseg.models.domains import signature
from mambaseg.models.package import make_test_input, run_test
from mambaseg.progress import Progress, ProgressCallback
from mambaseg.train.dataset import open_dataset
from mambaseg.train.sample import UNLABELLED
from mambaseg.train.score import score_model

__all__ = ["Forgetting", "Judgement", "Score", "forgetting", "judge", "score", "unit_scores"]

FEWEST_UNITS = 4  # a gain on fewer is not called one
TOLERATED_LOSS = 0.01  # of the score on the parent's own data


@dataclass(frozen=True)
class Score:
    """Mean over the units kept aside, 0 to 1, with a 95 % bootstrap interval over units.

    Objects: IoU with the object found there, divided by 1 + half the number of false objects in the labelled
    surroundings (the panoptic quality of one object, arXiv:1801.00868, without its threshold). Classes: mean Dice over
    the classes present in the unit, on its labelled voxels.
    """

    mean: float
    low: float
    high: float
    n_units: int


@dataclass(frozen=True)
class Forgetting:
    """A model's score on what its parent was made for.

    Parameters
    ----------
    on : what it was measured on, in words
    before, after : 0 to 1; on a test input "before" is 1: the share of voxels that keep their class
    """

    on: str
    before: float
    after: float

    @property
    def points(self) -> float:
        """What was lost, in points of a hundred; negative where it got better."""
        return 100 * (self.before - self.after)


@dataclass(frozen=True)
class Judgement:
    """Before against after.

    Parameters
    ----------
    gain_low, gain_high : 95 % bootstrap interval of the mean difference, unit by unit
    better : surely better on what was kept aside, and nothing to speak of forgotten
    sentence : the verdict for people
    """

    before: Score
    after: Score
    gain_low: float
    gain_high: float
    forgetting: Forgetting | None
    better: bool
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Plain values for `model.json`."""
        return asdict(self)


def unit_scores(model: Model, examples: Sequence[Example], labels: Sequence[NDArray[np.int32]], units: Sequence[Unit],
                device: str = "auto", progress: ProgressCallback | None = None) -> NDArray[np.float64]:
    """Score of every unit, each image segmented once and only around its units.

    Parameters
    ----------
    labels : sparse labels of each example, with those of the units
    """
    scores = np.zeros(len(units))
    for index in sorted({unit.example for unit in units}):
        mine = [i for i, unit in enumerate(units) if unit.example == index]
        update = Progress("Scoring", mine[0], len(units), "on what was kept aside")
        box = box_around(np.logical_or.reduce([units[i].mask for i in mine]), model)
        found = segment_around(model, examples[index].image, box, update, device, progress).labels
        for i in mine:
            rate = _object_quality if model.kind == "instances" else _mean_dice
            scores[i] = rate(labels[index], np.asarray(found), units[i])
    return scores


def _object_quality(truth: NDArray[np.int32], found: NDArray[Any], unit: Unit) -> float:
    """IoU of one object, halved by two false finds beside it."""
    mask = truth == unit.label
    counts = np.bincount(found[mask].ravel(), minlength=1)
    sizes = np.bincount(found.ravel(), minlength=len(counts))
    overlap = counts.astype(float)
    overlap[0] = 0
    iou = float((overlap / (mask.sum() + sizes[: len(counts)] - counts)).max()) if overlap.any() else 0.0
    beside = np.bincount(found[unit.mask & (truth == 0)].ravel(), minlength=len(sizes))
    n_false = int(np.count_nonzero(2 * beside[1:] > sizes[1:]))
    return iou / (1 + 0.5 * n_false)


def _mean_dice(truth: NDArray[np.int32], found: NDArray[Any], unit: Unit) -> float:
    """Mean Dice of the classes that occur in the labelled voxels of a unit."""
    true, predicted = truth[unit.mask], found[unit.mask]
    present = [value for value in np.union1d(true, predicted) if value > 0 and value != UNLABELLED]
    if not present:
        return 1.0
    return float(np.mean([2 * np.sum((true == v) & (predicted == v)) / (np.sum(true == v) + np.sum(predicted == v))
                          for v in present]))


def score(values: NDArray[np.float64]) -> Score:
    """Mean of units' scores with its interval."""
    if not len(values):
        return Score(float("nan"), float("nan"), float("nan"), 0)
    low, high = _interval(values)
    return Score(float(values.mean()), low, high, len(values))


def judge(before: NDArray[np.float64], after: NDArray[np.float64], forgotten: Forgetting | None = None,
          noun: str = "objects") -> Judgement:
    """The verdict; "better" only where the interval of the gain lies above 0.

    Parameters
    ----------
    before, after : scores of the same units, in the same order
    noun : what the units are
    """
    low, high = _interval(after - before) if len(before) else (float("nan"), float("nan"))
    is_sure = len(before) >= FEWEST_UNITS and low > 0
    has_forgotten = forgotten is not None and forgotten.before - forgotten.after > TOLERATED_LOSS
    return Judgement(score(before), score(after), low, high, forgotten, is_sure and not has_forgotten,
                     _sentence(before, after, (low, high), forgotten, noun))


def _sentence(before: NDArray[np.float64], after: NDArray[np.float64], interval: tuple[float, float],
              forgotten: Forgetting | None, noun: str) -> str:
    if not len(before):
        said = "Too little was corrected to keep anything aside, so nobody knows whether it is better; correct more."
    else:
        figures = f"{before.mean():.2f} -> {after.mean():.2f} on {len(before)} {noun} kept aside"
        if len(before) < FEWEST_UNITS:
            said = f"{figures}: too few to tell; correct more to be sure."
        elif interval[0] > 0:
            said = f"Better: {figures}."
        elif interval[1] < 0:
            said = f"Worse: {figures}; keep the old model."
        else:
            said = f"Not surely better: {figures}; keep the old model, or correct more."
    if forgotten is None:
        return said
    lost = f" On {forgotten.on}: {forgotten.before:.2f} -> {forgotten.after:.2f}"
    if forgotten.before - forgotten.after > TOLERATED_LOSS:
        return f"{said}{lost}, so it forgot some of what it knew; keep the old model for such pictures."
    return f"{said}{lost}."


def _interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """95 % bootstrap interval of the mean; the value itself where there is one only."""
    interval = bootstrap(values[:, None])
    return (interval[0], interval[1]) if interval is not None else (float(values[0]), float(values[0]))


def forgetting(parent: Model, child: Model, parent_data: Path | str | None = None, device: str = "auto",
               progress: ProgressCallback | None = None) -> Forgetting:
    """How much of what the parent could do is left.

    Parameters
    ----------
    parent, child : saved models
    parent_data : data set of the parent's kind; its validation cases are scored. None: the class of every voxel of the
        parent's test input is compared, an array that stands for its pictures without showing any, as the networks see
        it that answer for the kinds of pictures that the parent was trained on
    """
    if parent_data is not None:
        data = open_dataset(Path(parent_data), parent.kind == "instances")
        figures = [score_model(model, data, device, progress) for model in (parent, child)]
        name = "f1@0.5" if parent.kind == "instances" else "foreground_mean"
        before, after = (float(figure.get(name) or 0.0) for figure in figures)
        return Forgetting(f"{figures[0].get('n_images', 0)} of its old pictures", before, after)
    given = make_test_input(parent)
    kinds = parent.trained_on or (signature(given[0]),)
    answers = [(parent.suited(kind), child.suited(kind)) for kind in kinds]
    pairs = {(old.checksum, new.checksum): (old, new) for old, new in answers}  # few, though there are many kinds
    shares = {key: _share_kept(*pair, given) for key, pair in pairs.items()}
    return Forgetting("its own test input", 1.0,
                      float(np.mean([shares[old.checksum, new.checksum] for old, new in answers])))


def _share_kept(old: Model, new: Model, given: NDArray[np.float32]) -> float:
    """Share of the voxels that keep their class."""
    if old.checksum == new.checksum:
        return 1.0
    before, after = (run_test(model.built, given) for model in (old, new))
    return float(np.mean(before.argmax(1) == after[:, :before.shape[1]].argmax(1)))

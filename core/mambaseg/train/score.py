"""What a model scores on its held-out cases, measured the way a user would run it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from mambaseg.instances import keep_largest_component
from mambaseg.metrics import evaluate
from mambaseg.metrics.summary import Kind
from mambaseg.models import Model
from mambaseg.progress import Progress, ProgressCallback, report
from mambaseg.segmentation import segment
from mambaseg.train.components import Groups, largest_components
from mambaseg.train.dataset import Dataset

__all__ = ["Judged", "judge", "score_model"]

Labels = NDArray[Any]


class Judged(NamedTuple):
    """What `judge` found.

    Parameters
    ----------
    scores : as `model.json` keeps them
    groups : classes of which only the largest piece should be kept
    details : all that `mambaseg.evaluate` says, by case; {} where nothing was held out
    predictions : labels of the validation cases
    """

    scores: dict[str, Any]
    groups: Groups
    details: dict[str, Any]
    predictions: list[Labels]


def score_model(model: Model, data: Dataset, device: str = "auto",
                progress: ProgressCallback | None = None) -> dict[str, Any]:
    """Scores over the validation cases, as `model.json` keeps them.

    Parameters
    ----------
    model : saved; it goes through `segment` like any other
    data : its validation cases are segmented one after the other
    progress : called before each case

    Returns
    -------
    ``n_images`` and ``conventions``; for instances F1, mean AP and Dice as mean over the images; for classes Dice by
    class name and their mean (``foreground_mean``). Empty where nothing was held out
    """
    truths, predictions = _segmented(model, data, device, progress)
    return _summary(_details(truths, predictions, data), data)


def judge(model: Model, data: Dataset, device: str = "auto", progress: ProgressCallback | None = None) -> Judged:
    """Scores of a new model, and classes of which only the largest piece should be kept; arguments as `score_model`.

    Where keeping the largest pieces helps, the scores are those with it, and `foreground_mean_all_pieces` is that
    without. The choice was made on the same cases, so it flatters a little, as in nnU-Net.
    """
    truths, predictions = _segmented(model, data, device, progress)
    details = _details(truths, predictions, data)
    scores = _summary(details, data)
    groups = (largest_components(truths, predictions, len(data.classes), data.ignore_class)
              if data.kind == "classes" else ())
    if not groups:
        return Judged(scores, (), details, predictions)
    for group in groups:
        predictions = [keep_largest_component(labels, group) for labels in predictions]
    details = _details(truths, predictions, data)
    scores = _summary(details, data) | {"foreground_mean_all_pieces": scores["foreground_mean"]}
    return Judged(scores, groups, details, predictions)


def _segmented(model: Model, data: Dataset, device: str,
               progress: ProgressCallback | None) -> tuple[list[Labels], list[Labels]]:
    """True and predicted labels of the validation cases."""
    truths, predictions = [], []
    for index, case in enumerate(data.validation):
        report(progress, Progress("Scoring", index, len(data.validation), case.name))
        image, labels = case.read()
        truths.append(data.to_classes(labels))
        predictions.append(segment(image, model, device=device).labels)
    return truths, predictions


def _details(truths: Sequence[Labels], predictions: Sequence[Labels], data: Dataset) -> dict[str, Any]:
    """What `mambaseg.evaluate` says of the validation cases, under their own names; {} where there are none."""
    if not truths:
        return {}
    regions = dict(zip(data.classes[1:], data.regions, strict=True)) if data.regions else None
    kind: Kind = "instances" if data.instances else "classes"
    found = evaluate(list(truths), list(predictions), kind, regions=regions, ignore_label=data.ignore_class)
    for row, case in zip(found["cases"], data.validation, strict=True):
        row["case"] = case.name
    return found


def _summary(found: dict[str, Any], data: Dataset) -> dict[str, Any]:
    """What `score_model` gives."""
    if not found:
        return {}
    scores: dict[str, Any] = {"n_images": len(found["cases"])}
    kept: tuple[str, ...]
    if data.instances:
        scores |= {key: _rounded(found["mean"][key]) for key in ("f1@0.5", "mean_ap", "dice")}
        kept = ("f1@0.5", "ap", "mean_ap", "dice", "mean")
    else:
        by_class = found["mean"]["classes"]
        keys = {name: name if data.regions else str(value) for value, name in enumerate(data.classes) if value}
        scores["dice"] = {name: _rounded(by_class[key]["dice"]) for name, key in keys.items() if key in by_class}
        scores["foreground_mean"] = _rounded(found["foreground_mean"].get("dice"))
        kept = ("dice", "mean", "foreground_mean")
    return scores | {"conventions": {key: found["conventions"][key] for key in kept}}


def _rounded(score: float | None) -> float | None:
    """Four digits; None where the score is not defined."""
    return None if score is None else round(score, 4)
